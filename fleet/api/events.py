"""Events out: what people are told, and how it reached each target."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fleet.api.base import Page, RequestModel, ResponseModel
from fleet.api.types import Document, Name

DeliveryState = Literal["waiting", "delivered", "dead"]


class Try(ResponseModel):
    """One try: when, with which status (of HTTP, or a broker's reason to refuse; 0: none), what was wrong or is to be
    known, and how long it took."""

    at: float
    status: int = 0
    error: str = ""
    took_s: float = 0.0


class DeliveryInfo(ResponseModel):
    """An event's way to one target; `dead`: it was given up. `log` lists the last tries, the oldest first."""

    target: str
    state: DeliveryState
    tries: int = 0
    next_at: float | None = None
    log: list[Try] = []


class EventInfo(ResponseModel):
    """Something that happened. `id` is what receivers see; `kind` is one of those in `docs/how-to/be-told.md`."""

    number: int
    id: str
    at: float
    kind: str
    subject: str
    message: str
    data: Document = {}
    deliveries: list[DeliveryInfo] = []


class EventPage(Page[EventInfo]):
    """Events, newest first."""


class TargetInfo(ResponseModel):
    """A target of this hub's `hub.toml`, by its host alone: its address may be a secret. Deliveries are counted."""

    name: str
    format: Literal["standard", "slack", "mqtt"]
    host: str
    kinds: list[str]
    waiting: int = 0
    delivered: int = 0
    dead: int = 0


class TargetPage(Page[TargetInfo]):
    """Targets, by name."""


class NewTest(RequestModel):
    """The target that is to be sent a test."""

    target: Name


class Resend(RequestModel):
    """The deliveries of an event that are tried anew: those to `target`, or every dead one."""

    target: Annotated[str, Field(max_length=63, pattern=r"^[a-z0-9_-]*$")] = ""
