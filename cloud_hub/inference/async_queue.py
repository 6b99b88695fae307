"""Requests that are answered later: rows in the database, bodies and answers in the object store, for any instance.

    arriving → queued → running → succeeded | failed
                 ↑_________|   no room for it now, or its instance fell silent or failed

A row is there before its body and goes after its answer, so whatever an instance that dies leaves behind is found
again and deleted at its end. What is written under an attempt is that attempt's: of two instances that both believe to
have a request, the one whose lease ran out writes for nobody.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, and_, func, or_, tuple_, update
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, delete, select

from cloud_hub.clock import SLACK_S
from cloud_hub.context import Hub
from cloud_hub.errors import BusyError, HubError, NotFoundError, RateError
from cloud_hub.store.engine import lock_name
from cloud_hub.store.tables import AsyncRequest

log = logging.getLogger(__name__)

LEASE_S = 30.0
ATTEMPTS = 3  # a request during which that many instances died, or failed by a fault of ours, is not tried again
ERROR_LIMIT = 1000  # characters that are kept of why there is no answer
PIECE = 1 << 20  # bytes of an answer that are in memory while it is sent
SWEPT = 100  # rows that are deleted in one transaction
PENDING = ("arriving", "queued", "running")
ENDED = ("succeeded", "failed")


class Attempt(NamedTuple):
    """One run of a request, which its instance holds."""

    request: str
    number: int


class QueuedRequest(NamedTuple):
    """A request as it came: who asks which release, its body, and the headers that say how it is read."""

    owner: str
    model: str
    release: int
    body: bytes
    headers: Mapping[str, str]


def submit(hub: Hub, asked: QueuedRequest) -> AsyncRequest:
    """Keep a request.

    Raises:
        RateError: its owner has as many without an answer, or as many bytes, as a token may have.
        BusyError: the store is full.
    """
    now, settings = hub.clock(), hub.config.inference.asynchronous
    row = AsyncRequest(
        id=secrets.token_hex(16),
        owner=asked.owner,
        model=asked.model,
        release=asked.release,
        state="arriving",
        headers=dict(asked.headers),
        size_bytes=len(asked.body),
        created_at=now,
        expires_at=now + settings.keep_s,
    )
    with hub.session() as session:
        lock_name(session, "async-requests")
        _check_room(hub, session, asked)
        session.add(row)
    try:
        hub.objects.put(_body_key(row.id), asked.body)
    except HubError:
        with hub.session() as session:
            session.connection().execute(delete(AsyncRequest).where(col(AsyncRequest.id) == row.id))
        raise
    with hub.session() as session:
        session.connection().execute(_where(row.id, "arriving").values(state="queued"))
    row.state = "queued"
    return row


def find(hub: Hub, owner: str, model: str, request: str) -> AsyncRequest:
    """Return a request of its owner.

    Raises:
        NotFoundError: there is none of this id, or it is somebody else's.
    """
    with hub.reading() as session:
        row = session.get(AsyncRequest, request)
    if row is None or (row.owner, row.model) != (owner, model):
        keep_s = hub.config.inference.asynchronous.keep_s
        hint = f"answers are kept for {keep_s:g} s, and only for the token that asked"
        raise NotFoundError(f"no request {request!r} to {model!r}", subject=request, hint=hint)
    return row


def answer_of(hub: Hub, row: AsyncRequest) -> tuple[int, Iterator[bytes]]:
    """The body of the answer to a request that has succeeded: its size in bytes, and its pieces.

    Raises NotFoundError where it was forgotten meanwhile.
    """
    found = hub.objects.info(_answer_key(row))
    if found is None:
        raise NotFoundError(f"the answer to request {row.id!r} was deleted", subject=row.id)
    return found.size, hub.objects.stream(found.key, 0, found.size, PIECE)


def forget(hub: Hub, row: AsyncRequest) -> None:
    """Delete a request and its answer; one that runs ends for nobody."""
    _delete_objects(hub, row.id)
    with hub.session() as session:
        session.connection().execute(delete(AsyncRequest).where(col(AsyncRequest.id) == row.id))
    _delete_objects(hub, row.id)  # an answer that came in between


def claim(hub: Hub, runner: str) -> AsyncRequest | None:
    """Take the request that has waited longest, or whose instance has fallen silent; None where there is none.

    An owner of whom fewer run comes first, so that nobody's requests keep another's waiting.

    Nothing is written before a look has found one: a commit would make every cache of this process look again.
    """
    now = hub.clock()
    due = or_(and_(col(AsyncRequest.state) == "queued", _is_over(AsyncRequest.ready_at, now, 60.0)), _abandoned(now))
    wanted = col(AsyncRequest.expires_at) > now  # the others are the sweep's
    others = aliased(AsyncRequest)
    running = select(func.count()).where(col(others.owner) == col(AsyncRequest.owner), col(others.state) == "running")
    order = running.scalar_subquery(), col(AsyncRequest.created_at)
    oldest = select(AsyncRequest.id).where(due, wanted).order_by(*order).limit(1)
    with hub.reading() as session:
        if session.exec(oldest).first() is None:
            return None
    with hub.session() as session:
        _give_up(session, now, hub.config.inference.asynchronous.keep_s)
        taken = (
            update(AsyncRequest)
            .where(col(AsyncRequest.id) == oldest.with_for_update(skip_locked=True).scalar_subquery())
            .values(state="running", runner=runner, lease_until=now + LEASE_S, attempt=AsyncRequest.attempt + 1)
            .returning(col(AsyncRequest.id))
        )
        found = session.connection().execute(taken).scalar_one_or_none()
        return None if found is None else session.get(AsyncRequest, found)


def body_of(hub: Hub, row: AsyncRequest) -> bytes:
    """The body of a request; NotFoundError where it was forgotten meanwhile."""
    return hub.objects.get(_body_key(row.id)).data


def renew(hub: Hub, runner: str, held: Collection[Attempt]) -> None:
    """Keep what `runner` is running. What it has let go of by a fault is not in `held`, and its lease ends."""
    if not held:
        return
    mine = update(AsyncRequest).where(
        tuple_(col(AsyncRequest.id), col(AsyncRequest.attempt)).in_(held),
        col(AsyncRequest.runner) == runner,
        col(AsyncRequest.state) == "running",
    )
    with hub.session() as session:
        session.connection().execute(mine.values(lease_until=hub.clock() + LEASE_S))


def give_back(hub: Hub, row: AsyncRequest, after_s: float) -> None:
    """Let any instance take a request again in `after_s` seconds; this attempt does not count."""
    values = {"state": "queued", "runner": "", "attempt": row.attempt - 1, "ready_at": hub.clock() + after_s}
    with hub.session() as session:
        session.connection().execute(_mine(row).values(values))


def succeed(hub: Hub, row: AsyncRequest, body: bytes, headers: Mapping[str, str]) -> None:
    """Keep an answer, unless the request is another instance's now, or was forgotten."""
    hub.objects.put(_answer_key(row), body)
    kept = _end(hub, row, state="succeeded", headers=dict(headers), size_bytes=row.size_bytes + len(body))
    if not kept:
        hub.objects.delete(_answer_key(row))


def fail(hub: Hub, row: AsyncRequest, code: str, error: str) -> None:
    """Keep why there is no answer; a NUL of the caller's in it is replaced, since PostgreSQL takes none."""
    _end(hub, row, state="failed", code=code, error=error[:ERROR_LIMIT].replace("\0", "\N{REPLACEMENT CHARACTER}"))


def sweep(hub: Hub) -> int:
    """Delete everything that is past its end, objects first; returns how many."""
    deleted, last = 0, ""
    while True:
        found = _past_their_end(hub, last)
        deleted += _deleted(hub, found)
        if len(found) < SWEPT:
            return deleted
        last = found[-1]


def _past_their_end(hub: Hub, last: str) -> Sequence[str]:
    """Up to SWEPT ids after `last`, in their order."""
    now = hub.clock()
    old = _is_over(AsyncRequest.expires_at, now, hub.config.inference.asynchronous.keep_s)
    running = and_(col(AsyncRequest.state) == "running", ~_abandoned(now))
    after = col(AsyncRequest.id) > last
    with hub.reading() as session:
        return session.exec(
            select(AsyncRequest.id).where(old, ~running, after).order_by(col(AsyncRequest.id)).limit(SWEPT)
        ).all()


def _deleted(hub: Hub, requests: Sequence[str]) -> int:
    """Delete them; one whose objects the store does not delete stays for the next time."""
    gone = []
    for request in requests:
        try:
            _delete_objects(hub, request)
        except HubError as error:
            log.warning("request %s is past its end and cannot be deleted: %s", request, error)
        else:
            gone.append(request)
    if gone:
        with hub.session() as session:
            session.connection().execute(delete(AsyncRequest).where(col(AsyncRequest.id).in_(gone)))
    return len(gone)


def _check_room(hub: Hub, session: Session, asked: QueuedRequest) -> None:
    settings, size = hub.config.inference.asynchronous, func.coalesce(func.sum(AsyncRequest.size_bytes), 0)
    mine = col(AsyncRequest.owner) == asked.owner
    pending = select(func.count()).where(mine, col(AsyncRequest.state).in_(PENDING))
    if session.exec(pending).one() >= settings.pending:
        why = f"{settings.pending} requests of this token have no answer yet"
        raise RateError(why, subject=asked.owner, hint="wait for some of them")
    if session.exec(select(func.count()).where(mine)).one() >= settings.kept:
        why = f"{settings.kept} requests and answers of this token are kept"
        raise RateError(why, subject=asked.owner, hint="delete the answers that were fetched")
    if session.exec(select(size).where(mine)).one() + len(asked.body) > settings.token_bytes:
        why = f"requests and answers of this token would hold more than {settings.token_bytes} bytes"
        raise RateError(why, subject=asked.owner, hint="delete the answers that were fetched")
    if session.exec(select(size)).one() + len(asked.body) > settings.bytes:
        raise BusyError("the store of requests and answers is full", subject="async", hint="try again later")


def _give_up(session: Session, now: float, keep_s: float) -> None:
    worn = and_(_abandoned(now), col(AsyncRequest.attempt) >= ATTEMPTS)
    session.connection().execute(
        update(AsyncRequest)
        .where(worn)
        .values(
            state="failed",
            code="internal",
            error=f"{ATTEMPTS} attempts to answer it ended without an answer",
            ended_at=now,
            expires_at=now + keep_s,
        )
    )


def _end(hub: Hub, row: AsyncRequest, **values: Any) -> bool:
    now = hub.clock()
    ended = {**values, "ended_at": now, "expires_at": now + hub.config.inference.asynchronous.keep_s}
    with hub.session() as session:
        return session.connection().execute(_mine(row).values(ended)).rowcount == 1


def _where(request: str, state: str) -> Any:
    return update(AsyncRequest).where(col(AsyncRequest.id) == request, col(AsyncRequest.state) == state)


def _mine(row: AsyncRequest) -> Any:
    """The row, as long as the attempt is the one that `row` stands for."""
    return _where(row.id, "running").where(
        col(AsyncRequest.runner) == row.runner, col(AsyncRequest.attempt) == row.attempt
    )


def _is_over(moment: Any, now: float, longest_s: float) -> ColumnElement[bool]:
    """Also for what a clock that ran ahead has written."""
    return or_(col(moment) <= now, col(moment) > now + longest_s + SLACK_S)


def _abandoned(now: float) -> ColumnElement[bool]:
    return and_(col(AsyncRequest.state) == "running", _is_over(AsyncRequest.lease_until, now, LEASE_S))


def _delete_objects(hub: Hub, request: str) -> None:
    for found in list(hub.objects.list(f"async/{request}")):
        hub.objects.delete(found.key)


def _body_key(request: str) -> str:
    return f"async/{request}/request"


def _answer_key(row: AsyncRequest) -> str:
    return f"async/{row.id}/answer-{row.attempt}-{row.runner}"
