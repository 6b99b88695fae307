"""Rising above what devices hold, after a restore: the hub's own signatures in their hands say what it has issued.

Where the key of a role is held here, the role is signed anew above the version that was found. Where it is not (`root`
and `targets`, and `models` with an external release key), the newer file itself is taken over: it is signed, and
nothing has to be signed for it. So no ceremony is needed, unless keys were rotated since the backup.
"""

from __future__ import annotations

import logging

import msgspec
from sqlmodel import Session, select

from cloud_hub.errors import ForbiddenError
from cloud_hub.store.tables import ChannelRow, Model, Release, Setting
from cloud_hub.trust import gone, repository
from cloud_hub.trust.evidence import MOST_VERSION, Evidence, verify
from cloud_hub.trust.listing import audit
from cloud_hub.trust.rows import COMMAND_SETTING, floor_document, latest_metadata
from cloud_hub.trust.transaction import Draft, Transactions
from fleet.protocol.channel import decode_channel, encode_channel
from fleet.protocol.manifest import Floor
from fleet.protocol.messages import Held

log = logging.getLogger(__name__)
RISE = 1_000_000  # publications that no hub has made since a backup of it


def lift(transactions: Transactions, held: Held, *, command: bytes, actor: str) -> bool:
    """Publish above what `held` proves; False when it proves nothing that is not known.

    Args:
        transactions: the hub's.
        held: what a device sent; anything.
        command: the target that names the command key which is held here.
        actor: the device, for the audit log.

    Raises:
        ForbiddenError: devices trust newer keys than are held here.
    """

    with Session(transactions.engine.execution_options(edgeloop_read=True)) as session:
        if not verify(latest_metadata(session), held):
            return False  # forgeries and what is known hold nobody up

    def change(draft: Draft) -> bool:
        found = verify(draft.bodies, held)
        if not found:  # another replica was faster
            return False
        news = bool(found.roots)
        for body in found.roots:
            draft.roots.append((repository.version_of(body), body))
        for role, version in found.versions.items():
            if role in transactions.signers:
                _rise(draft, role, version)
                news = True
            else:
                news = _adopt(draft, role, version, found, command) or news
        news = _lift_channels(draft, found) or news
        if "models" in found.versions:
            news = _lift_models(draft, found) or news
        if not news:
            return False  # what is signed elsewhere, of a version that is known: no publication can rise above it
        draft.change("channels")  # snapshot and timestamp follow
        audit(draft, actor, "trust.lift", "hub", {"versions": found.versions, "roots": len(found.roots)})
        log.warning("%s holds newer signed metadata than this hub (a restored backup?); rising above it", actor)
        return True

    try:
        return transactions.run(change)
    except ForbiddenError as error:
        hint = "put the newest copy of the hub's DIR/keys in place, and start it again"
        text = f"devices trust newer keys than this hub holds: {error}"
        raise ForbiddenError(text, subject=error.subject, hint=hint) from error


def rise(transactions: Transactions, by: int = RISE) -> None:
    """Sign every role whose key is held here, and every channel, `by` versions above what is known: devices that have
    seen what was published since a backup follow at once."""

    def change(draft: Draft) -> None:
        for role in ("models", *repository.ONLINE_ROLES):
            if role in transactions.signers and draft.version(role) + by < MOST_VERSION:
                _rise(draft, role, draft.version(role) + by)
        for row in draft.session.exec(select(ChannelRow)):
            if row.version + by < MOST_VERSION:
                _republish(draft, row, row.version + by)
        audit(draft, "restore", "trust.rise", "hub", {"by": by})

    transactions.run(change)


def _rise(draft: Draft, role: str, version: int) -> None:
    draft.raise_floor(role, version)
    if role in repository.DELEGATED:
        draft.change(role)


def _adopt(draft: Draft, role: str, version: int, found: Evidence, command: bytes) -> bool:
    """Take a file that was signed elsewhere over; False when it is not above what is known."""
    if role not in found.bodies or repository.version_of(found.bodies[role]) < version:
        hint = "run: cloud-hub keys renew DIR --offline-keys DIR2, until the version is above"
        log.warning("devices have seen version %d of role %s, and no device has shown it; %s", version, role, hint)
        return False
    if version == draft.version(role):
        return False  # another file of the same number: a device fetches this hub's by its hash
    if role == "targets":
        _follow_command_key(draft, found.bodies[role], command)
    draft.presigned[role] = (version, found.bodies[role])
    return True


def _follow_command_key(draft: Draft, body: bytes, command: bytes) -> None:
    """Commands that are signed with a key that was rotated would be refused by every device."""
    path = repository.COMMAND_TARGET
    listed = repository.read(body).signed.targets[path].hashes
    if listed == draft.peek("targets").targets[path].hashes:
        return
    if listed != repository.target_file(path, command).hashes:
        raise ForbiddenError("the command key was rotated", subject="command")
    draft.files[path] = command
    draft.session.merge(Setting(key=COMMAND_SETTING, value=command.decode()))


def _lift_channels(draft: Draft, found: Evidence) -> bool:
    lifted = False
    for name, version in found.channels.items():
        row = draft.session.get(ChannelRow, name)
        if row is not None and version >= row.version:
            _republish(draft, row, version + 1)
            lifted = True
    return lifted


def _republish(draft: Draft, row: ChannelRow, version: int) -> None:
    row.version = version
    row.document = encode_channel(msgspec.structs.replace(decode_channel(row.document), version=version))
    draft.session.add(row)
    draft.set_target("channels", repository.channel_target(row.name), row.document)


def _lift_models(draft: Draft, found: Evidence) -> bool:
    """Numbers that had a body get no other, and what was forbidden stays so; whether any of it was news."""
    learnt = False
    for model, number in found.numbers.items():
        row = draft.session.get(Model, model)
        if row is None:
            learnt = gone.raise_first_release(draft.session, model, number + 1) or learnt
        elif row.next_release <= number:
            row.next_release = number + 1
            draft.session.add(row)
            learnt = True
    for model, floor in found.floors.items():
        learnt = _forbid(draft, model, floor) or learnt
    return learnt


def _forbid(draft: Draft, model: str, floor: Floor) -> bool:
    row = draft.session.get(Model, model)
    if row is None:
        return False
    learnt = floor.min_release > row.min_release
    row.min_release = max(row.min_release, floor.min_release)
    draft.session.add(row)
    for number in floor.withdrawn:
        release = draft.session.get(Release, (model, number))
        if release is not None and release.manifest and release.status != "withdrawn":
            release.status, learnt = "withdrawn", True
            draft.session.add(release)
    draft.session.flush()
    if "models" in draft.signed and repository.floor_target(model) in draft.peek("models").targets:
        draft.set_target("models", repository.floor_target(model), floor_document(draft.session, model))
    return learnt
