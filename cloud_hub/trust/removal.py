"""Deleting what was made by mistake: releases, models and channels that nothing names any more.

What still uses a thing keeps it, and the refusal says all of it. What was withdrawn stays, since that is how it stays
forbidden. Blobs go later (`collecting`), and numbers are never used again (`gone`).
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete
from sqlmodel import col, func, select

from cloud_hub.errors import ConflictError, ForbiddenError, NotFoundError
from cloud_hub.store.tables import (
    Alarm,
    ChannelRow,
    Device,
    DriftMonitor,
    DriftScope,
    DriftStream,
    DriftTrouble,
    InputMonitor,
    InputWatch,
    Job,
    MeaningMonitor,
    Model,
    Release,
    RolloutRow,
    SampleRow,
    Setting,
    Snapshot,
    Token,
)
from cloud_hub.trust import checks, gone, repository
from cloud_hub.trust.listing import audit
from cloud_hub.trust.rows import get_model, get_release
from cloud_hub.trust.transaction import Draft, Transactions
from fleet.protocol.channel import decode_channel

SHOWN = 5  # of each kind of user that a refusal names


def delete_channel(transactions: Transactions, name: str, *, actor: str) -> ChannelRow:
    """Delete a channel that no device follows.

    Args:
        transactions: those of the hub's repository.
        name: of the channel.
        actor: as in the audit log.

    Raises:
        NotFoundError: no such channel.
        ConflictError: a device that is not revoked follows it, a claim token leads to it, or a rollout runs on it.
    """

    def change(draft: Draft) -> ChannelRow:
        session = draft.session
        row = session.get(ChannelRow, name, with_for_update=True)
        if row is None:
            raise NotFoundError(f"no channel {name!r}", subject=name, hint="list them: fleet channel list")
        devices = select(Device.id).where(Device.channel == name, col(Device.revoked_at).is_(None))
        users = _named("device", session.exec(devices).all())
        users += _named("claim token", [t.id for t in _live_tokens(draft, "claim") if t.channel == name])
        live = select(RolloutRow.id).where(RolloutRow.channel == name, col(RolloutRow.ended_at).is_(None))
        users += _named("rollout", session.exec(live).all())
        _refuse_used(f"channel {name!r}", name, users, "fleet device set ID --channel OTHER; fleet token revoke ID")
        gone.remember_channel(session, row)
        draft.change("channels").targets.pop(repository.channel_target(name), None)
        session.delete(row)
        audit(draft, actor, "channel.delete", name, {"version": row.version})
        return row

    return transactions.run(change)


def delete_release(transactions: Transactions, model: str, number: int, *, actor: str) -> Release:
    """Delete a release that no channel, pin or rollout names.

    Args:
        transactions: those of the hub's repository.
        model: of the release.
        number: of the release.
        actor: as in the audit log.

    Raises:
        NotFoundError: no such release. ConflictError: something names it, or it was withdrawn.
        ForbiddenError: it is signed, and the release key is not held here.
    """

    def change(draft: Draft) -> Release:
        row = get_release(draft.session, model, number)
        if row.status == "withdrawn":
            raise ConflictError(
                f"release {number} of {model!r} was withdrawn and stays, or devices would no longer know that it is "
                "forbidden",
                subject=f"{model}/{number}",
            )
        hint = f"fleet channel set, fleet device set --unpin {model}, fleet rollout abort"
        _refuse_used(f"release {number} of {model!r}", f"{model}/{number}", _release_users(draft, model, number), hint)
        _unlist(draft, transactions, [row])
        audit(draft, actor, "release.delete", f"{model}/{number}", {"status": row.status})
        return row

    return transactions.run(change)


def delete_model(transactions: Transactions, name: str, *, actor: str) -> Model:
    """Delete a model with its releases, when nothing names it.

    Args:
        transactions: those of the hub's repository.
        name: of the model.
        actor: as in the audit log.

    Raises:
        NotFoundError: no such model. ConflictError: something names it; the message lists what.
        ForbiddenError: it has signed releases, and the release key is not held here.
    """

    def change(draft: Draft) -> Model:
        session = draft.session
        row = get_model(session, name, lock=True)
        hint = (
            f"fleet channel remove CHANNEL --model {name}, fleet device set ID --unpin {name}, fleet token revoke ID, "
            "fleet job cancel ID, fleet sample delete ID, fleet snapshot delete ID"
        )
        _refuse_used(f"model {name!r}", name, _model_users(draft, name), hint)
        releases = session.exec(select(Release).where(Release.model == name)).all()
        _unlist(draft, transactions, releases)
        if any(release.status in ("published", "withdrawn") for release in releases):
            draft.change("models").targets.pop(repository.floor_target(name), None)
        gone.remember_model(session, row)
        for monitor in (DriftScope, DriftMonitor, DriftStream, DriftTrouble, MeaningMonitor, InputMonitor, InputWatch):
            session.connection().execute(delete(monitor).where(col(monitor.model) == name))
        session.delete(row)
        for alarm in session.exec(select(Alarm).where(Alarm.model == name, Alarm.status != "closed")):
            alarm.status = "closed"
            session.add(alarm)
        audit(draft, actor, "model.delete", name, {"releases": [release.number for release in releases]})
        return row

    return transactions.run(change)


def _unlist(draft: Draft, transactions: Transactions, rows: Sequence[Release]) -> None:
    """Take releases out of the database and of what is signed."""
    signed = [row for row in rows if row.status in ("published", "withdrawn")]
    if signed and "models" not in transactions.signers:
        raise ForbiddenError(
            f"release {signed[0].number} of {signed[0].model!r} is signed by a key that is not held here",
            subject=f"{signed[0].model}/{signed[0].number}",
            hint="withdraw it: fleet release withdraw",
        )
    for row in rows:
        if row in signed:
            draft.change("models").targets.pop(repository.release_target(row.model, row.number), None)
        payload = draft.session.get(Setting, f"signing:{row.model}:{row.number}")
        if payload is not None:
            draft.session.delete(payload)
        draft.session.delete(row)
    draft.session.flush()  # before the model that they belong to


def _release_users(draft: Draft, model: str, number: int) -> list[str]:
    session = draft.session
    channels = [
        row.name
        for row in session.exec(select(ChannelRow))
        if (model, number) in checks.named_releases(decode_channel(row.document))
    ]
    pinned = [row.id for row in session.exec(select(Device)) if row.pins.get(model) == number]
    live = select(RolloutRow.id).where(
        RolloutRow.model == model,
        (col(RolloutRow.release) == number) | (col(RolloutRow.from_release) == number),
        col(RolloutRow.ended_at).is_(None),
    )
    return [
        *_named("channel", channels),
        *_named("pin of device", pinned),
        *_named("rollout", session.exec(live).all()),
    ]


def _model_users(draft: Draft, name: str) -> list[str]:
    session = draft.session
    channels = [row.name for row in session.exec(select(ChannelRow)) if name in decode_channel(row.document).models]
    pinned = [row.id for row in session.exec(select(Device)) if name in row.pins]
    live = select(RolloutRow.id).where(RolloutRow.model == name, col(RolloutRow.ended_at).is_(None))
    jobs = select(Job.id).where(Job.model == name, col(Job.ended_at).is_(None))
    tokens = [token.id for token in _live_tokens(draft, "application") if token.scope == f"infer:{name}"]
    samples = session.exec(
        select(func.count()).select_from(SampleRow).where(SampleRow.model == name, col(SampleRow.deleted_at).is_(None))
    ).one()
    return [
        *_named("channel", channels),
        *_named("pin of device", pinned),
        *_named("rollout", session.exec(live).all()),
        *_named("job", session.exec(jobs).all()),
        *_named("application token", tokens),
        *_named("snapshot", session.exec(select(Snapshot.id).where(Snapshot.model == name)).all()),
        *([f"{samples} sample{'s' * (samples > 1)}"] if samples else []),
    ]


def _live_tokens(draft: Draft, kind: str) -> list[Token]:
    """The tokens of a kind that still work: a claim token that was used leads nowhere any more."""
    wanted = select(Token).where(Token.kind == kind, col(Token.revoked_at).is_(None))
    return [
        token
        for token in draft.session.exec(wanted)
        if not token.device_id and (token.expires_at is None or token.expires_at > draft.now)
    ]


def _named(kind: str, names: Sequence[str]) -> list[str]:
    if not names:
        return []
    shown = ", ".join(sorted(names)[:SHOWN])
    return [f"{kind} {shown}" + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")]


def _refuse_used(what: str, subject: str, users: Sequence[str], hint: str) -> None:
    if users:
        raise ConflictError(f"{what} is used by {'; '.join(users)}", subject=subject, hint=f"first: {hint}")
