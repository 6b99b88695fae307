"""The measurements that the acts take and hand on to each other."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from fleet.demo.driver import DemoTraffic, Digits
from fleet.demo.workshop import Workshop


@dataclass
class Story:
    """The demo so far: where it runs, the data, the traffic, and the growing report."""

    shop: Workshop
    background: ThreadPoolExecutor
    data: dict[str, Digits] = field(default_factory=dict)
    shifted: dict[str, Digits] = field(default_factory=dict)
    traffic: DemoTraffic | None = None
    input_name: str = ""
    raw_runtime_p50: float = 0.0
    shifted_from: int = 0
    report: dict[str, Any] = field(
        default_factory=lambda: {
            "accuracy": {},
            "rollouts": [],
            "drift": {"alarms_before_shift": 0, "alarm_after_requests": None, "alarms_after_retrain": 0, "labels": 0},
            "accuracy_over_time": {},
            "kill": {"states": [], "requests_failed": 0, "recovered": False},
        }
    )

    @property
    def running_traffic(self) -> DemoTraffic:
        """The traffic; it runs from act 5 on."""
        assert self.traffic is not None
        return self.traffic
