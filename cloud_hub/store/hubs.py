"""The rows by which several hubs of one database coordinate: who leads, and how often callers ask."""

from __future__ import annotations

from sqlmodel import Field, SQLModel


class Lease(SQLModel, table=True):
    """A named lock with an end: the publishing lock, an ingest shard, the engines' leadership."""

    name: str = Field(primary_key=True)
    owner: str
    until: float


class CallerUse(SQLModel, table=True):
    """The requests per second of a caller with a rate to one hub, as that hub told at `at`."""

    hub: str = Field(primary_key=True)
    caller: str = Field(primary_key=True)
    per_s: float
    at: float = Field(index=True)
