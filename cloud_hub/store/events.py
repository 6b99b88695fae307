"""The tables of events out: the outbox, and one row for each target that is to be told. See `tables`."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, Index, Text, func
from sqlmodel import Field, Session, SQLModel, col, select

from cloud_hub.store.types import Json
from cloud_hub.store.types import json_field as _json


class EventRow(SQLModel, table=True):
    """Something that people are told, written in the transaction in which it happened; `id` is what receivers see.

    `once` names what is said once only. `target` is the one that a test is for. `spread_at` is null until every target
    that is to be told has its delivery.
    """

    __tablename__ = "event"
    __table_args__ = (Index("ix_event_kind_at", "kind", "at"), Index("ix_event_spread_at", "spread_at"))

    number: int | None = Field(default=None, primary_key=True)
    id: str = Field(unique=True)
    at: float
    kind: str
    subject: str
    message: str = Field(sa_column=Column(Text, nullable=False))
    data: dict[str, Any] = _json(dict)
    once: str | None = Field(default=None, unique=True)
    target: str = ""
    spread_at: float | None = None


class EventDelivery(SQLModel, table=True):
    """An event on its way to one target. `state`: waiting, delivered, dead. `next_at`: not tried before.

    Who tries it has written its `owner` and moved `next_at` behind the time that a try can take. `log` lists the last
    tries, oldest first: when, which status, what was wrong, how long it took.
    """

    __tablename__ = "event_delivery"
    __table_args__ = (Index("ix_event_delivery_due", "target", "state", "next_at"),)

    event: str = Field(primary_key=True, foreign_key="event.id", ondelete="CASCADE")
    target: str = Field(primary_key=True)
    state: str
    tries: int = 0
    next_at: float
    expires_at: float
    owner: str = ""
    log: list[dict[str, Any]] = Field(default_factory=list, sa_column=Column(Json, nullable=False))
    updated_at: float


def counts(session: Session) -> dict[tuple[str, str], int]:
    """Count the deliveries, by target and state."""
    grouped = select(EventDelivery.target, EventDelivery.state, func.count()).group_by(
        col(EventDelivery.target), col(EventDelivery.state)
    )
    return {(target, state): count for target, state, count in session.exec(grouped)}
