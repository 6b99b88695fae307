"""The locked transaction that every publication goes through, whatever process or replica does it.

1. Take the publishing lock (it lasts until the database commits).
2. Versions are max(database, store) + 1. A numbered file is created, never replaced: where one is
   found with other bytes, left by a writer that died before its commit, the next number is taken.
3. The signed bytes go into `Metadata` rows; the database commits.
4. `timestamp.json` is replaced last, by compare-and-swap. Only now does anybody see the new state.

A crash before 3 leaves numbered files that nothing refers to; one between 3 and 4 leaves the
database ahead, and `recover` (or the next publication) brings the store up from the rows. Whoever
finds a timestamp that its database does not know (a restored backup, a lost lock) signs again above it.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec
from securesystemslib.signer import CryptoSigner
from sqlalchemy import Engine
from sqlmodel import Session
from tuf.api.metadata import Targets

from cloud_hub.config_tables import ExpiryConfig
from cloud_hub.errors import ConflictError, ForbiddenError, KeptError, NotFoundError, UnreachableError
from cloud_hub.journal import Journal
from cloud_hub.ports import Clock, Objects
from cloud_hub.store.engine import lock_publishing
from cloud_hub.store.tables import ChannelRow, Metadata, Model, Setting
from cloud_hub.trust import repository
from cloud_hub.trust.published import proven
from cloud_hub.trust.rows import COMMAND_SETTING, latest_metadata
from fleet.protocol.channel import decode_channel, encode_channel

log = logging.getLogger(__name__)
T = TypeVar("T")
Signers = Mapping[str, list[CryptoSigner]]

METADATA = "tuf/metadata/"
TARGETS = "tuf/targets/"
_TRIES = 20


class Draft:
    """The changes of one publication. `targets(role)` hands out a role's targets and marks it as changed."""

    def __init__(self, session: Session, bodies: Mapping[str, bytes], floors: Mapping[str, int], now: float) -> None:
        self.session = session
        self.bodies = dict(bodies)
        self.now = now
        self.signed: dict[str, Any] = {}
        self.presigned: dict[str, tuple[int, bytes]] = {}
        self.roots: list[tuple[int, bytes]] = []  # signed elsewhere, to follow the known one in order
        self.files: dict[str, bytes] = {}
        self._floors = dict(floors)

    def version(self, role: str) -> int:
        """The highest version of `role` that the database or the store knows; 0 for none."""
        known = repository.version_of(self.bodies[role]) if role in self.bodies else 0
        return max(known, self._floors.get(role, 0))

    def raise_floor(self, role: str, version: int) -> None:
        """Let what is signed for `role` have a higher version than this."""
        self._floors[role] = max(version, self._floors.get(role, 0))

    def change(self, role: str) -> Any:
        """The role's content, to be changed in place and signed as a new version."""
        if role not in self.signed:
            self.signed[role] = repository.read(self.bodies[role]).signed
        return self.signed[role]

    def peek(self, role: str) -> Any:
        """The role's content; nothing is signed."""
        return self.signed.get(role) or repository.read(self.bodies[role]).signed

    def set_target(self, role: str, path: str, data: bytes) -> None:
        """List `data` at `path` in `role`, and store it."""
        targets: Targets = self.change(role)
        targets.targets[path] = repository.target_file(path, data)
        self.files[path] = data

    @property
    def empty(self) -> bool:
        """True if nothing has to be signed."""
        return not self.signed and not self.presigned and not self.roots


class Transactions:
    """Runs publications over a database and an object store, with the signers of the online roles."""

    def __init__(
        self, engine: Engine, objects: Objects, signers: Signers, clock: Clock, expiry: ExpiryConfig, journal: Journal
    ) -> None:
        self.engine = engine
        self.objects = objects
        self.signers = dict(signers)
        self.clock = clock
        self.journal = journal
        self._expiry = expiry
        self._withheld = False

    @contextmanager
    def withheld(self) -> Iterator[None]:
        """See `Publisher.withheld`."""
        before, self._withheld = self._withheld, True
        try:
            yield
        finally:
            self._withheld = before

    def run(self, change: Callable[[Draft], T], *, signers: Signers | None = None) -> T:
        """One publication. `change` edits the draft (and its session's rows); its result is returned.

        Nothing is kept when `change` raises. `signers` (offline keys) add to the online ones. Raises KeptError where it
        is kept and the store does not answer.
        """
        everyone = {**self.signers, **(signers or {})}
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            draft = self._open(self.journal.attach(session), everyone)
            result = change(draft)
            if draft.empty:
                return result
            body = self._seal(draft, everyone)
        for _ in range(_TRIES):
            if self._push_kept(body):
                return result
            log.warning("the store holds a timestamp that the database does not know; signing above it")
            with Session(self.engine) as session, session.begin():
                draft = self._open(session, everyone)
                for role in ("channels", "snapshot"):
                    draft.change(role)
                body = self._seal(draft, everyone)
        raise ConflictError(
            "the published timestamp keeps changing", subject="timestamp.json", hint="do two databases share one store?"
        )

    def _push_kept(self, body: bytes) -> bool:
        try:
            return self.push_timestamp(body)
        except UnreachableError as error:
            hint = "do not ask for it again; the hub shows it by itself once the store answers"
            raise KeptError(
                f"it is kept, and no device sees it yet: {error}", subject=error.subject, hint=hint
            ) from error

    def push_timestamp(self, body: bytes) -> bool:
        """Make `body` the published timestamp unless a later one of ours is there.

        False when the store holds one at or above its version that the database does not know.
        """
        if self._withheld:
            return True
        key, version = METADATA + "timestamp.json", repository.version_of(body)
        while True:
            try:
                current, tag = self.objects.get(key)
            except NotFoundError:
                current, tag = b"", None
            if current and (published := repository.version_or_zero(current)) >= version:
                return current == body or self._body("timestamp", published) == current
            try:
                self.objects.put_if_match(key, body, tag)
            except ConflictError:
                continue
            return True

    def shown_version(self) -> int:
        """The version of the timestamp that devices see; 0 where there is none, or what is there is torn."""
        published = self._published("timestamp.json")
        return 0 if published is None else repository.version_or_zero(published)

    def put_numbered(self, role: str, version: int, body: bytes) -> bool:
        """Create a numbered file; True when it holds `body` now, False when it holds something else."""
        key = METADATA + repository.metadata_name(role, version)
        return self.objects.put_new(key, body) or self.objects.get(key).data == body

    def put_target(self, path: str, data: bytes) -> None:
        """Store a target under its hash; one that a power cut tore is written again."""
        key = TARGETS + repository.target_name(path, data)
        if not self.objects.put_new(key, data) and self.objects.get(key).data != data:
            self.objects.put(key, data)

    def store_versions(self, known: Mapping[str, bytes]) -> dict[str, int]:
        """Versions of the published state, when it is not one that the database knows."""
        try:
            published = self.objects.get(METADATA + "timestamp.json").data
            if published == known.get("timestamp") or repository.version_or_zero(published) == 0:
                return {}
            timestamp = repository.read(published).signed
            if self._body("timestamp", timestamp.version) == published:
                return {}
            number = timestamp.snapshot_meta.version
            snapshot = repository.read(self.objects.get(f"{METADATA}{number}.snapshot.json").data).signed
        except NotFoundError:
            return {}
        found = {"timestamp": timestamp.version, "snapshot": number}
        return found | {name.removesuffix(".json"): meta.version for name, meta in snapshot.meta.items()}

    def _open(self, session: Session, signers: Signers) -> Draft:
        lock_publishing(session)
        bodies = latest_metadata(session)
        found = self.store_versions(bodies)
        draft = Draft(session, bodies, found, self.clock())
        if found:
            log.warning("the store is ahead of the database (a restored backup?); rising above it")
            self._lift(draft, found, signers)
        return draft

    def _lift(self, draft: Draft, found: Mapping[str, int], signers: Signers) -> None:
        """Rise above a store that is ahead of the database, as after a restored backup.

        Devices refuse a channel version below the one they saw, and a release number that was shown
        must never get another body; so both continue above what the store lists. What is signed elsewhere is taken
        over from the store, since it is signed already.
        """
        self._take_over(draft, signers)
        for role in repository.TARGET_ROLES:
            if found.get(role, 0) <= repository.version_of(draft.bodies[role]):
                continue
            if role in signers:
                draft.change(role)
            else:
                hint = "run: cloud-hub keys renew DIR --offline-keys DIR2, until the version is above"
                log.warning(
                    "version %d of role %s is published, and its file is not there; %s", found[role], role, hint
                )
        for path, target in self._listed("channels", found).items():
            name = path.removeprefix("channels/").removesuffix(".json")
            row = draft.session.get(ChannelRow, name)
            if row is None:
                continue
            shown = decode_channel(self.objects.get(TARGETS + f"channels/{target.hashes['sha256']}.{name}.json").data)
            if shown.version >= row.version:
                lifted = msgspec.structs.replace(decode_channel(row.document), version=shown.version + 1)
                row.version, row.document = lifted.version, encode_channel(lifted)
                draft.session.add(row)
                draft.set_target("channels", path, row.document)
        for path in self._listed("models", found):
            _, name, file = path.split("/")
            number, model = file.removesuffix(".json"), draft.session.get(Model, name)
            if model is not None and number.isdigit() and int(number) >= model.next_release:
                model.next_release = int(number) + 1
                draft.session.add(model)

    def _take_over(self, draft: Draft, signers: Signers) -> None:
        newer = proven(self._published, draft.bodies)
        for body in newer.roots:
            self._keep(draft, "root", repository.version_of(body), body)
        for role, body in newer.bodies.items():
            if role == "targets" or role not in signers:
                self._keep(draft, role, repository.version_of(body), body)
        if "targets" in newer.bodies:
            self._follow_command_key(draft)

    def _follow_command_key(self, draft: Draft) -> None:
        """Keep the document that the targets list, so that it can be put again."""
        folder, _, name = repository.COMMAND_TARGET.rpartition("/")
        listed = draft.peek("targets").targets[repository.COMMAND_TARGET].hashes["sha256"]
        row = draft.session.get(Setting, COMMAND_SETTING)
        if row is None or hashlib.sha256(row.value.encode()).hexdigest() != listed:
            data = self.objects.get(f"{TARGETS}{folder}/{listed}.{name}").data
            draft.session.merge(Setting(key=COMMAND_SETTING, value=data.decode()))

    def _published(self, name: str) -> bytes | None:
        try:
            return self.objects.get(METADATA + name).data
        except NotFoundError:
            return None

    def _listed(self, role: str, found: Mapping[str, int]) -> dict[str, Any]:
        if role not in found:
            return {}
        body = self.objects.get(METADATA + repository.metadata_name(role, found[role])).data
        listed: dict[str, Any] = repository.read(body).signed.targets
        return listed

    def _body(self, role: str, version: int) -> bytes | None:
        engine = self.engine.execution_options(edgeloop_read=True)
        with Session(engine) as session:
            row = session.get(Metadata, (role, version))
            return None if row is None else row.body

    def _seal(self, draft: Draft, signers: Signers) -> bytes:
        """Sign, keep and store everything that changed; returns the timestamp, which is not stored yet."""
        for path, data in draft.files.items():
            self.put_target(path, data)
        for version, body in draft.roots:
            self._keep_presigned(draft, "root", version, body)
        for role in ("root", *repository.TARGET_ROLES):
            if role in draft.presigned:
                self._keep_presigned(draft, role, *draft.presigned[role])
            elif role in draft.signed:
                self._sign(draft, role, draft.signed[role], signers)
        snapshot = repository.new_snapshot(draft.bodies, self._expires(draft, "snapshot"))
        body = self._sign(draft, "snapshot", snapshot, signers)
        stamp = repository.new_timestamp(body, self._expires(draft, "timestamp"))
        return self._sign(draft, "timestamp", stamp, signers)

    def _sign(self, draft: Draft, role: str, signed: Any, signers: Signers) -> bytes:
        if role not in signers:
            raise ForbiddenError(
                f"the key of role {role!r} is not held here",
                subject=role,
                hint="use the ceremony with the offline keys, or sign it outside",
            )
        self._check_signers(draft, role, signers[role])
        signed.expires = self._expires(draft, role)
        version = draft.version(role) + 1
        while True:
            body = repository.sign(signed, version, signers[role])
            if role == "timestamp" or self.put_numbered(role, version, body):
                break
            version += 1
        self._keep(draft, role, version, body)
        return body

    def _check_signers(self, draft: Draft, role: str, signers: list[CryptoSigner]) -> None:
        """Refuse a key that the repository has replaced; devices would refuse what it signs."""
        allowed = repository.key_ids(draft.peek("root"), draft.peek("targets"), role)
        if not any(one.public_key.keyid in allowed for one in signers):
            raise ForbiddenError(
                f"the key of role {role!r} was rotated", subject=role, hint="restart `cloud-hub serve` and every worker"
            )

    def _keep_presigned(self, draft: Draft, role: str, version: int, body: bytes) -> None:
        if version <= draft.version(role) or not self.put_numbered(role, version, body):
            raise ConflictError(
                f"version {version} of {role!r} is taken", subject=role, hint="ask for a new payload and sign it"
            )
        self._keep(draft, role, version, body)

    def _keep(self, draft: Draft, role: str, version: int, body: bytes) -> None:
        draft.session.add(Metadata(role=role, version=version, body=body, created_at=draft.now))
        draft.session.flush()
        draft.bodies[role] = body

    def _expires(self, draft: Draft, role: str) -> datetime.datetime:
        return repository.expiry(draft.now, getattr(self._expiry, role))


def targets_from_payload(payload: bytes) -> Targets:
    """The targets role whose canonical bytes were handed out to be signed."""
    return Targets.from_dict(json.loads(payload))
