"""What several hubs of one database tell each other: who leads, and how often callers ask."""

from __future__ import annotations

from sqlmodel import Field, SQLModel


class Lease(SQLModel, table=True):
    """A named lock with an end: the publishing lock, an ingest shard, the engines' leadership."""

    name: str = Field(primary_key=True)
    owner: str
    until: float


class CallerUse(SQLModel, table=True):
    """How often a caller with a rate asked one hub, per second, as that hub told at `at`."""

    hub: str = Field(primary_key=True)
    caller: str = Field(primary_key=True)
    per_s: float
    at: float = Field(index=True)
