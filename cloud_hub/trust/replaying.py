"""Brings what the journal forbids into an older database: in one publication, with the floors signed anew."""

from __future__ import annotations

from collections.abc import Sequence

from sqlmodel import Session, select

from cloud_hub.acts import (
    Act,
    DeviceRevoked,
    Entry,
    FloorRaised,
    NumberTaken,
    Position,
    ReleaseWithdrawn,
    TokenEnded,
)
from cloud_hub.journal import keep_position
from cloud_hub.store.tables import CertificateRow, ChannelRow, Device, Model, Release, Token
from cloud_hub.trust import checks, gone, repository
from cloud_hub.trust.listing import audit
from cloud_hub.trust.rows import floor_document, status_in_words
from cloud_hub.trust.transaction import Draft, Transactions
from fleet.protocol.channel import decode_channel


def replay(transactions: Transactions, entries: Sequence[Entry], tail: Position) -> tuple[str, ...]:
    """Carry out what devices, tokens, models and releases are concerned with; the database then stands at `tail`.

    Returns what an operator has to do, in sentences: channels that name what is forbidden now.

    Args:
        transactions: those of the hub's repository.
        entries: of the journal, those that the database lacks, in order.
        tail: the journal's last position.
    """

    def change(draft: Draft) -> tuple[str, ...]:
        for entry in entries:
            _carry_out(draft.session, entry.act, entry.at)
        draft.session.flush()
        for model in sorted({act.model for act in _of_floors(entries)}):
            signs = "models" in transactions.signers and draft.session.get(Model, model) is not None
            if signs and repository.floor_target(model) in draft.peek("models").targets:
                draft.set_target("models", repository.floor_target(model), floor_document(draft.session, model))
        keep_position(draft.session, tail)
        audit(draft, "journal", "journal.replay", "hub", {"entries": len(entries), "upto": tail.number})
        return tuple(_forbidden_but_named(draft.session))

    return transactions.run(change)


def _of_floors(entries: Sequence[Entry]) -> list[ReleaseWithdrawn | FloorRaised]:
    return [entry.act for entry in entries if isinstance(entry.act, ReleaseWithdrawn | FloorRaised)]


def _carry_out(session: Session, act: Act, at: float) -> None:
    match act:
        case DeviceRevoked():
            _revoke(session, act, at)
        case TokenEnded(token=token):
            _end_token(session, token, at)
        case ReleaseWithdrawn(model=model, number=number):
            release = session.get(Release, (model, number))
            if release is not None and release.manifest:
                release.status = "withdrawn"
            elif release is not None:  # only reserved when the backup was taken
                session.delete(release)
            _take_number(session, model, number)
        case FloorRaised(model=model, min_release=floor):
            row = session.get(Model, model)
            if row is not None:
                row.min_release = max(row.min_release, floor)
            _take_number(session, model, floor - 1)
        case NumberTaken(model=model, number=number):
            _take_number(session, model, number)
        case _:
            return  # a rollout's end is carried out by the rollouts' own rules


def _revoke(session: Session, act: DeviceRevoked, at: float) -> None:
    device = session.get(Device, act.device)
    if device is None:  # enrolled and revoked in the time that is lost: known again, so that it stays out
        device = Device(
            id=act.device,
            public_key=act.public_key,
            key_fingerprint=act.key_fingerprint,
            certificate="",
            certificate_serial="",
            certificate_expires_at=0.0,
            channel="",
            enrolled_at=at,
        )
    device.revoked_at, device.online = device.revoked_at or at, False
    session.add(device)
    session.flush()
    for serial, expires_at in act.certificates:
        if session.get(CertificateRow, serial) is None:
            session.add(
                CertificateRow(
                    serial=serial,
                    device_id=act.device,
                    state="replaced",
                    public_key=act.public_key,
                    certificate="",
                    issued_at=at,
                    expires_at=expires_at,
                )
            )
    for token in act.tokens:
        _end_token(session, token, at)


def _end_token(session: Session, token: str, at: float) -> None:
    row = session.get(Token, token)
    if row is not None and row.revoked_at is None:
        row.revoked_at = at
        session.add(row)


def _take_number(session: Session, model: str, number: int) -> None:
    """No later release gets this number; nor of a model that is only made again now."""
    row = session.get(Model, model)
    if row is None:
        gone.raise_first_release(session, model, number + 1)
    elif row.next_release <= number:
        row.next_release = number + 1
        session.add(row)


def _forbidden_but_named(session: Session) -> list[str]:
    found = []
    for channel in session.exec(select(ChannelRow)):
        for model, number in sorted(checks.named_releases(decode_channel(channel.document))):
            status = status_in_words(session, model, number)
            if status != "published":
                found.append(
                    f"channel {channel.name!r} names release {number} of {model!r}, which is {status}; devices keep "
                    f"what they have until you change it: fleet channel set {channel.name} --model {model} --release N"
                )
    return found
