"""Tells a look about this device: its name, the runtimes that it has, the releases that it holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edge_agent.update.disk.state import AgentState
from edge_agent.update.messages import LookRequest
from edge_agent.update.worker.client import Children


@dataclass(frozen=True)
class DeviceFacts:
    """The device that looks, its channel unless the hub names another, and what it can run.

    `runtimes` are versions by distribution, `variants` those that its owner prefers.
    """

    device_id: str
    channel: str
    kinds: tuple[str, ...]
    runtimes: Mapping[str, str] = field(default_factory=dict)
    capabilities: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()


class Looks:
    """The processes that look, and what each is asked."""

    def __init__(self, children: Children, device: DeviceFacts) -> None:
        self.children, self.device = children, device

    def request(self, state: AgentState) -> LookRequest:
        """Make the request to a look from the device's state."""
        device, looked = self.device, state.looked
        return LookRequest(
            device_id=device.device_id,
            channel=looked.follows(device.channel),
            kinds=device.kinds,
            runtimes=tuple(device.runtimes),
            variants=device.variants,
            capabilities=device.capabilities,
            committed={name: s.committed for name, s in state.models.items() if s.committed is not None},
            held={name: tuple(h for h in (s.active, s.previous) if h) for name, s in state.models.items()},
            groups=looked.groups,
            pins=looked.pins,
        )
