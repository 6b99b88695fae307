"""The client: all calls of the hub's operator API, and an application's."""

from __future__ import annotations

from fleet.client.devices import DeviceCalls
from fleet.client.events import EventCalls
from fleet.client.inference import InferenceCalls
from fleet.client.releases import ReleaseCalls
from fleet.client.rollouts import RolloutCalls
from fleet.client.samples import SampleCalls


class Client(DeviceCalls, EventCalls, InferenceCalls, ReleaseCalls, RolloutCalls, SampleCalls):
    """An operator's view of one hub."""
