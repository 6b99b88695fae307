"""Channels: the signed desired state that devices follow."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fleet.api.base import Answer, Page, Request
from fleet.api.types import Name, ReleaseNumber, Settings
from fleet.api.wire import Described, Wire
from fleet.protocol.channel import Channel

DAY_S = 86_400
Spread = Annotated[int, Field(ge=0, le=DAY_S)]

# The policies of `fleet.protocol.channel`; fields that are not given keep their values.
RoutingChanges = Annotated[Settings, Described("Routing")]
AuditChanges = Annotated[Settings, Described("Audit")]
SamplingChanges = Annotated[Settings, Described("Sampling")]
ProbationChanges = Annotated[Settings, Described("Probation")]
BenchChanges = Annotated[Settings, Described("Bench")]
TelemetryChanges = Annotated[Settings, Described("Telemetry")]
FetchingChanges = Annotated[Settings, Described("Fetching")]


class NewChannel(Request):
    """A channel that names no model yet."""

    name: Name


class EntryChanges(Request):
    """What changes for one model; what is left out, also inside a policy, stays. Devices spread their next look over
    `spread_s` seconds."""

    release: ReleaseNumber | None = None
    routing: RoutingChanges = {}
    audit: AuditChanges = {}
    sampling: SamplingChanges = {}
    probation: ProbationChanges = {}
    bench: BenchChanges = {}
    spread_s: Spread = 0


class ChannelChanges(Request):
    """What changes for the whole channel."""

    telemetry: TelemetryChanges = {}
    fetching: FetchingChanges = {}
    spread_s: Spread = 0


class ChangedChannel(Answer):
    """A channel after a change, with its signed document."""

    name: str
    version: int
    document: Annotated[Channel, Wire(Channel)]


class ChannelInfo(ChangedChannel):
    """A channel as it stands."""

    updated_at: float
    spread_s: int = 0


class ChannelPage(Page[ChannelInfo]):
    """All channels by name."""
