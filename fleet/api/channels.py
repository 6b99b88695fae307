"""Channels: the signed desired state that devices follow."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fleet.api.base import Page, RequestModel, ResponseModel
from fleet.api.types import Name, ReleaseNumber
from fleet.api.wire import Changes, Changing, Wire, unchanged
from fleet.protocol.channel import Audit, Bench, Channel, Fetching, Probation, Routing, Sampling, Telemetry
from fleet.protocol.durations import DAY_S
from fleet.rollouts.explain import Explained
from fleet.rollouts.usual import UsualSchedule

Spread = Annotated[int, Field(ge=0, le=DAY_S)]


class NewChannel(RequestModel):
    """A channel that names no model yet."""

    name: Name


class EntryChanges(RequestModel):
    """Changes of one model's entry; a field that is left out, also inside a policy, stays as it is. Devices spread
    their next look over `spread_s` seconds."""

    release: ReleaseNumber | None = None
    routing: Annotated[Changes[Routing], Changing(Routing)] = unchanged(Routing)
    audit: Annotated[Changes[Audit], Changing(Audit)] = unchanged(Audit)
    sampling: Annotated[Changes[Sampling], Changing(Sampling)] = unchanged(Sampling)
    probation: Annotated[Changes[Probation], Changing(Probation)] = unchanged(Probation)
    bench: Annotated[Changes[Bench], Changing(Bench)] = unchanged(Bench)
    spread_s: Spread = 0


class ChannelChanges(RequestModel):
    """Changes of the whole channel. `schedule` is the one that new rollouts take when they name none themselves; it is
    no part of the signed document."""

    telemetry: Annotated[Changes[Telemetry], Changing(Telemetry)] = unchanged(Telemetry)
    fetching: Annotated[Changes[Fetching], Changing(Fetching)] = unchanged(Fetching)
    schedule: Annotated[Changes[UsualSchedule], Changing(UsualSchedule)] = unchanged(UsualSchedule)
    spread_s: Spread = 0


class ChangedChannel(ResponseModel):
    """A channel after a change, with its signed document."""

    name: str
    version: int
    document: Annotated[Channel, Wire(Channel)]


class ChannelInfo(ChangedChannel):
    """A channel as it stands; `schedule` is what new rollouts take where they say none themselves."""

    updated_at: float
    spread_s: int = 0
    schedule: Annotated[UsualSchedule, Wire(UsualSchedule)] = Field(default_factory=UsualSchedule)


class ChannelExplanation(ResponseModel):
    """The release that a device should run of each model of its channel, and the reason; `version` is the channel's,
    null if the channel does not exist."""

    device: str
    channel: str
    version: int | None
    items: list[Annotated[Explained, Wire(Explained)]]


class ChannelPage(Page[ChannelInfo]):
    """All channels by name."""
