"""Releases, floors and channels: what may be published, and the rows that go with it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import msgspec
from sqlalchemy import Engine
from sqlmodel import Session, select

from cloud_hub.acts import Entry, FloorRaised, NumberTaken, Position, ReleaseWithdrawn
from cloud_hub.clock import lies_ahead
from cloud_hub.config_tables import ExpiryConfig
from cloud_hub.errors import ConflictError, NotFoundError
from cloud_hub.journal import Journal, write_act
from cloud_hub.ports import Also, Clock, Objects, SigningRequest
from cloud_hub.store.tables import ChannelRow, Model, Release
from cloud_hub.trust import checks, disputes, gone, lifting, outside, recovery, removal, replaying, repository
from cloud_hub.trust.listing import audit, list_release, published
from cloud_hub.trust.rows import (
    floor_document,
    get_model,
    get_release,
    interface_release,
    latest_metadata,
    refuse_stranger,
    status_in_words,
)
from cloud_hub.trust.transaction import Draft, Signers, Transactions
from cloud_hub.trust.unshown import Unshown
from fleet.protocol.channel import Channel, decode_channel, encode_channel
from fleet.protocol.manifest import Manifest, decode_manifest
from fleet.protocol.messages import Held
from fleet.protocol.names import check_name

log = logging.getLogger(__name__)


class TufPublisher:
    """`Publisher` over the signed repository. Each method is one locked transaction."""

    def __init__(
        self,
        engine: Engine,
        objects: Objects,
        signers: Signers,
        *,
        clock: Clock,
        expiry: ExpiryConfig,
        journal: Journal,
    ) -> None:
        self.transactions = Transactions(engine, objects, signers, clock, expiry, journal)
        self._unshown = Unshown(self.transactions)
        self._objects = objects
        self._expiry = expiry

    @property
    def holds_release_key(self) -> bool:
        """True if releases can be signed here."""
        return "models" in self.transactions.signers

    # ---- releases ------------------------------------------------------------------------------

    def reserve(self, model: str, *, actor: str) -> int:
        """See `Publisher.reserve`."""

        def change(draft: Draft) -> int:
            row = self._reserve(draft, model, actor)
            audit(draft, actor, "release.reserve", f"{model}/{row.number}", {})
            return row.number

        return self.transactions.run(change)

    def publish_release(
        self,
        model: str,
        manifest: bytes,
        *,
        actor: str,
        note: str = "",
        number: int | None = None,
        ends_monitoring: bool = False,
        also: Also | None = None,
    ) -> Release:
        """See `Publisher.publish_release`.

        Raises:
            MalformedError, InvalidError: the manifest, its gate, a blob that is missing, or a cloud variant
                whose inputs and outputs are not called as the release's.
            NotFoundError: no such model, or no such reserved number.
            ConflictError: the number is taken, or the interface is not the model's.
        """
        document = decode_manifest(manifest)
        checks.check_gate(document)
        checks.check_blobs(document, self._blob_size)
        checks.check_cloud_ports(document, lambda sha256: self._objects.get(f"blobs/{sha256}").data)

        def change(draft: Draft) -> Release:
            checks.check_blobs(document, self._blob_size)  # again: here nobody collects what no release names yet
            disputes.refuse_disputed(draft.session, get_model(draft.session, model))
            current = interface_release(draft.session, model)
            checks.check_interface(current, document, model, ends_monitoring=ends_monitoring)
            row = self._reserve(draft, model, actor) if number is None else _reserved(draft, model, number)
            self._fill(draft, row, document, manifest, note)
            if self.holds_release_key:
                list_release(draft, row)
                published(row, draft.now)
            else:
                row.status = "awaiting-signature"
            draft.session.add(row)
            detail: dict[str, object] = {"status": row.status, "note": note}
            if ends_monitoring:
                detail["monitoring"] = "ended"
            audit(draft, actor, "release.publish", f"{model}/{row.number}", detail)
            if also is not None:
                also(draft.session)
            return row

        return self.transactions.run(change)

    def withdraw(self, model: str, number: int, reason: str, *, actor: str) -> Release:
        """See `Publisher.withdraw`. Without the release key the floor waits for a signature."""

        def change(draft: Draft) -> Release:
            row = get_release(draft.session, model, number)
            if row.status not in ("published", "withdrawn"):
                raise ConflictError(f"release {number} of {model!r} is {row.status}", subject=f"{model}/{number}")
            for channel in draft.session.exec(select(ChannelRow)):
                if (model, number) in checks.named_releases(decode_channel(channel.document)):
                    raise ConflictError(
                        f"channel {channel.name!r} still names release {number} of {model!r}",
                        subject=channel.name,
                        hint="move the channel to another release first",
                    )
            row.status = "withdrawn"
            draft.session.add(row)
            draft.session.flush()
            self._sign_floor(draft, model)
            write_act(draft.session, ReleaseWithdrawn(model=model, number=number))
            audit(draft, actor, "release.withdraw", f"{model}/{number}", {"reason": reason})
            return row

        return self.transactions.run(change)

    def set_floor(self, model: str, min_release: int, *, actor: str) -> None:
        """See `Publisher.set_floor`."""

        def change(draft: Draft) -> None:
            row = get_model(draft.session, model)
            if min_release < row.min_release:
                raise ConflictError(f"the floor of {model!r} is {row.min_release} and never sinks", subject=model)
            for channel in draft.session.exec(select(ChannelRow)):
                below = {
                    n
                    for m, n in checks.named_releases(decode_channel(channel.document))
                    if m == model and n < min_release
                }
                if below:
                    raise ConflictError(
                        f"channel {channel.name!r} names release {min(below)} of {model!r}, below {min_release}",
                        subject=channel.name,
                        hint="move the channel first",
                    )
            row.min_release = min_release
            draft.session.add(row)
            draft.session.flush()
            self._sign_floor(draft, model)
            write_act(draft.session, FloorRaised(model=model, min_release=min_release))
            audit(draft, actor, "model.floor", model, {"min_release": min_release})

        self.transactions.run(change)

    # ---- a release key that is held elsewhere --------------------------------------------------

    def signing(self, model: str, number: int) -> SigningRequest:
        """See `Publisher.signing`."""
        return outside.signing(self.transactions, self._expiry, model, number)

    def accept_signature(
        self, model: str, number: int, *, key_id: str, signature: str, version: int, actor: str
    ) -> Release:
        """See `Publisher.accept_signature`, and `trust.outside` for its errors."""
        made = outside.Made(key_id=key_id, signature=signature, version=version)
        return outside.accept(self.transactions, model, number, made, actor=actor)

    # ---- channels ------------------------------------------------------------------------------

    def change_channel(
        self,
        name: str,
        change: Callable[[Channel], Channel],
        *,
        actor: str,
        spread_s: int = 0,
        create: bool = True,
        first: Also | None = None,
        also: Also | None = None,
    ) -> Channel:
        """See `Publisher.change_channel`.

        Raises:
            MalformedError, InvalidError: the document is over its bounds, or names a release that
                is unknown, unsigned, withdrawn or below the floor, or a new auditor that can answer nothing.
            NotFoundError: no such channel, and `create` is not set.
            ConflictError: a release that it did not name before has not the model's interface.
        """
        check_name(name, "channel")

        def publish(draft: Draft) -> Channel:
            if first is not None:
                first(draft.session)
            row = draft.session.get(ChannelRow, name)
            if row is None and not create:
                raise NotFoundError(f"no channel {name!r}", subject=name, hint="list them: fleet channel list")
            before = decode_channel(row.document) if row else Channel(channel=name, version=gone.version(draft, name))
            version = before.version + 1
            new = msgspec.structs.replace(change(before), channel=name, version=version)
            data = encode_channel(new)
            checks.check_releases(new, lambda model, number: status_in_words(draft.session, model, number))
            checks.check_auditors(before, new, lambda *one: decode_manifest(get_release(draft.session, *one).manifest))
            for model, number in sorted(checks.named_releases(new) - checks.named_releases(before)):
                refuse_stranger(draft.session, model, number)
            untold = row.spread_s if row is not None and row.notified_version < row.version else None
            row = row or ChannelRow(name=name, version=0, document=b"", updated_at=draft.now)
            row.version, row.document, row.spread_s, row.updated_at = version, data, spread_s, draft.now
            draft.session.add(row)
            draft.set_target("channels", repository.channel_target(name), data)
            audit(draft, actor, "channel.change", name, {"version": version})
            if also is not None:
                also(draft.session)
            if untold is not None:  # one notice tells of both versions, so it hurries as the more urgent one: a halt
                row.spread_s = min(row.spread_s, untold)
            return new

        return self.transactions.run(publish)

    # ---- what was made by mistake --------------------------------------------------------------

    def delete_release(self, model: str, number: int, *, actor: str) -> Release:
        """See `Publisher.delete_release`, and `trust.removal` for what keeps it."""
        return removal.delete_release(self.transactions, model, number, actor=actor)

    def delete_model(self, name: str, *, actor: str) -> Model:
        """See `Publisher.delete_model`."""
        return removal.delete_model(self.transactions, name, actor=actor)

    def delete_channel(self, name: str, *, actor: str) -> ChannelRow:
        """See `Publisher.delete_channel`."""
        return removal.delete_channel(self.transactions, name, actor=actor)

    # ---- upkeep --------------------------------------------------------------------------------

    def refresh(self, *, force: bool = False) -> tuple[str, ...]:
        """See `Publisher.refresh`. The timestamp is due daily, the others at half their life, and all that end later
        than what is signed now: a clock that ran ahead has signed them."""

        def change(draft: Draft) -> tuple[str, ...]:
            roles = self._due(draft, force)
            for role in roles:
                draft.change(role)
            return roles

        return self.transactions.run(change)

    def expiring(self, *, within_days: float) -> dict[str, float]:
        """Roles whose metadata ends within so many days, with that time (Unix seconds)."""
        engine = self.transactions.engine.execution_options(edgeloop_read=True)
        with Session(engine) as session:
            ends = {role: repository.expires_at(body) for role, body in latest_metadata(session).items()}
        limit = self.transactions.clock() + within_days * 86_400
        return {role: end for role, end in ends.items() if end <= limit and role not in repository.ONLINE_ROLES}

    def recover(self) -> None:
        """See `Publisher.recover`; see `trust.recovery` for its errors."""
        if not recovery.recover(self.transactions):
            self.refresh(force=True)

    def catch_up(self) -> None:
        """See `Publisher.catch_up`."""
        if self._unshown.left_behind():
            self.recover()
            log.info("what was committed and not shown is shown now")

    def replay(self, entries: Sequence[Entry], tail: Position) -> tuple[str, ...]:
        """See `Publisher.replay`."""
        return replaying.replay(self.transactions, entries, tail)

    def lift(self, held: Held, *, command: bytes, actor: str) -> bool:
        """See `Publisher.lift`."""
        return lifting.lift(self.transactions, held, command=command, actor=actor)

    def withheld(self) -> AbstractContextManager[None]:
        """See `Publisher.withheld`."""
        return self.transactions.withheld()

    def rise(self) -> None:
        """See `Publisher.rise`."""
        lifting.rise(self.transactions)

    def _due(self, draft: Draft, force: bool) -> tuple[str, ...]:
        due = []
        for role in ("models", *repository.ONLINE_ROLES):
            if role not in self.transactions.signers:
                continue
            life = getattr(self._expiry, role) * 86_400
            left = repository.expires_at(draft.bodies[role]) - draft.now
            limit = life - self._expiry.refresh_s if role == "timestamp" else life / 2
            if left <= limit or lies_ahead(left, life) or (force and role in repository.ONLINE_ROLES):
                due.append(role)
        return tuple(due)

    def _blob_size(self, sha256: str) -> int | None:
        found = self._objects.info(f"blobs/{sha256}")
        return None if found is None else found.size

    def _reserve(self, draft: Draft, model: str, actor: str) -> Release:
        owner = get_model(draft.session, model)
        row = Release(model=model, number=owner.next_release, status="reserved", created_at=draft.now, created_by=actor)
        owner.next_release += 1
        draft.session.add(owner)
        draft.session.add(row)
        draft.session.flush()
        write_act(draft.session, NumberTaken(model=model, number=row.number))
        return row

    def _fill(self, draft: Draft, row: Release, document: Manifest, manifest: bytes, note: str) -> None:
        model = get_model(draft.session, row.model)
        model.sketch_id = document.sketch.sketch_id if document.sketch is not None else ""
        draft.session.add(model)
        row.manifest, row.note = manifest, note

    def _sign_floor(self, draft: Draft, model: str) -> None:
        if self.holds_release_key:
            draft.set_target("models", repository.floor_target(model), floor_document(draft.session, model))


def _reserved(draft: Draft, model: str, number: int) -> Release:
    row = get_release(draft.session, model, number)
    if row.status != "reserved":
        raise ConflictError(f"release {number} of {model!r} is {row.status} already", subject=f"{model}/{number}")
    return row
