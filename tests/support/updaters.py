"""An updater as the agent wires it, around fakes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edge_agent.config import AgentConfig
from edge_agent.host.timing import Timing
from edge_agent.ports import Activator, Reporter
from edge_agent.update.disk.state import StateFile
from edge_agent.update.looks import DeviceFacts, Looks
from edge_agent.update.rules import install_window
from edge_agent.update.state_reporter import StateReporter
from edge_agent.update.updater import Updater
from edge_agent.update.worker.client import Children

TIMES = ("clock", "now", "rng", "sleep")


class Counting:
    """No budget, and who hears what comes. Implements `install_window.DayBudget`."""

    def __init__(self, hear: Callable[[int], None]) -> None:
        self._hear = hear

    def left(self) -> int | None:
        return None

    def renews_at(self) -> float:
        return 0.0

    def count(self, *, down: int = 0) -> None:
        self._hear(down)


def make_updater(
    config: AgentConfig,
    device_id: str,
    channel: str,
    activator: Activator,
    reporter: Reporter,
    children: Children,
    *,
    kinds: tuple[str, ...],
    runtimes: Mapping[str, str] | None = None,
    capabilities: tuple[str, ...] = (),
    count_bytes: Callable[[int], None] | None = None,
    **options: Any,
) -> Updater:
    device = DeviceFacts(device_id, channel, kinds, runtimes or {}, capabilities, config.variants)
    timing = Timing(**{name: options.pop(name) for name in TIMES if name in options})
    hears = (options.pop("on_look"),) if "on_look" in options else ()
    budget = options.pop("budget", install_window.UNLIMITED if count_bytes is None else Counting(count_bytes))
    states = StateReporter(StateFile(config.dir), reporter, *hears)
    return Updater(config, states, activator, Looks(children, device), budget=budget, timing=timing, **options)
