"""Shadows without processes: what the runner says, and what a process would answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

from edge_agent.errors import ShadowError
from edge_agent.serving.outcomes import Outcome
from edge_agent.serving.router import RoutingResult
from edge_agent.serving.scores import Scores
from edge_agent.shadow.child import Answered
from edge_agent.update.messages import Beside
from edge_agent.update.rules.model_state import HeldRelease
from fleet.protocol.channel import RolloutRef
from fleet.protocol.shadow import Shadow

HELD = HeldRelease(release=2, variant="onnx-fp32", manifest="m" * 64)


def ordered(attempt: int = 1, *, held: HeldRelease | None = HELD, reason: str = "", share: float = 0.05) -> Beside:
    """A shadow stage from release 1 to 2 of `tiny`."""
    rollout = RolloutRef(
        id="r-1", attempt=attempt, release=2, from_release=1, share_ppm=0, salt="s", shadow=Shadow(cpu_share=share)
    )
    return Beside(model="tiny", rollout=rollout, held=held, reason=reason, detail=reason)


def outcome(x: np.ndarray, y: np.ndarray, *, release: int = 1, model: str = "tiny") -> Outcome:
    """A request that the device's own model answered."""
    return Outcome(
        model=model,
        release=release,
        variant="onnx-fp32",
        verdict=RoutingResult(served_by="edge"),
        latency_s=0.001,
        inputs={"input": x},
        outputs={"logits": y},
        scores=Scores(),
    )


class FakeSink:
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.answers: list[tuple[Answered, int]] = []
        self.crashes = 0
        self.given_up: list[tuple[str, str]] = []

    def compared(self, copy: Any, answered: Answered, dropped: int) -> None:
        self.answers.append((answered, dropped))

    def crashed(self, copy: Any) -> None:
        self.crashes += 1

    def not_compared(self, model: str, rollout: RolloutRef, reason: str) -> None:
        self.given_up.append((model, reason))


class FakeProcesses:
    """Processes that take `cpu_s` for each request, by the test's clock; while `dies`, each request ends one."""

    def __init__(self, cpu_s: float = 0.01, now: list[float] | None = None) -> None:
        self.cpu_s, self.now = cpu_s, now or [0.0]
        self.started: list[FakeProcess] = []
        self.dies = False
        self.how = ""
        self.closing: Callable[[], Awaitable[None]] | None = None
        self.refuses: Exception | None = None

    async def start(self, held: HeldRelease) -> tuple[FakeProcess, float]:
        if self.refuses is not None:
            raise self.refuses
        self.started.append(FakeProcess(self))
        return self.started[-1], 0.0


class FakeProcess:
    def __init__(self, made_by: FakeProcesses) -> None:
        self._made_by, self.closed, self.took = made_by, False, 0.0

    async def ask(self, copy: Any) -> Answered:
        if self._made_by.dies or self.closed:
            raise ShadowError("it ended", reason=self._made_by.how)
        self.took += self._made_by.cpu_s
        self._made_by.now[0] += self._made_by.cpu_s
        return Answered(agree=(True,), broken=(False,), run_s=self._made_by.cpu_s, cpu_s=self.took)

    async def close(self) -> None:
        self.closed = True
        meanwhile, self._made_by.closing = self._made_by.closing, None
        if meanwhile is not None:
            await meanwhile()
