"""One model on a simulated device: its update machine, its open window, and the release that runs beside it. Pure.

Times are seconds since the start of the simulation. What it tells goes to `record`, as the device's clock dates it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from edge_agent.ports import ReleaseHealth
from edge_agent.update.rules import machine
from edge_agent.update.rules.model_state import ModelState, UpdateTarget
from edge_agent.update.rules.probation import judged
from fleet.protocol.channel import RolloutRef
from fleet.protocol.messages import DeviceMe
from fleet.protocol.resolve import resolve, shadows
from fleet.simulator import traffic
from fleet.simulator.outbox import NEVER
from fleet.simulator.profiles import DeviceProfile
from fleet.simulator.view import View

JUDGE_S = 1.0  # between two looks at a probation
CRASHED_S = 3.0  # that a release which crashes the agent takes to be given up


class SimulatedModel:
    """`due` is when the next step is, `opened` since when the open window runs.

    Args:
        name, device_id: of the model, and of the device, which decides on its cohort.
        record: takes a record's kind, its body, and now.
        clock: Unix seconds of the device's own clock.
    """

    def __init__(
        self,
        name: str,
        device_id: str,
        profile: DeviceProfile,
        rng: np.random.Generator,
        record: Callable[[str, msgspec.Struct, float], None],
        clock: Callable[[float], float],
    ) -> None:
        self.name, self._device_id, self._profile, self._rng = name, device_id, profile, rng
        self._record, self._clock = record, clock
        self.state = ModelState()
        self.due, self.opened, self._since = NEVER, 0.0, 0.0
        self._shadowed: RolloutRef | None = None

    def follow(self, view: View, me: DeviceMe, now: float, *, may_shadow: bool) -> None:
        """Begin to move where the channel wants it; `may_shadow`: the agent can run a release beside."""
        who: dict[str, Any] = {
            "groups": frozenset(me.groups),
            "pin": me.pins.get(self.name),
            "committed": self.state.committed,
        }
        target = resolve(view.channel, self.name, self._device_id, **who)
        assert target is not None  # the model is on the channel
        beside = shadows(view.channel, self.name, self._device_id, **who) if may_shadow else None
        self._shadow(beside, view, now)
        facts = view.releases.get((self.name, target.release))
        if facts is None:
            word, detail = view.refused.get((self.name, target.release), ("unsigned", "nobody named this release"))
            self._enter(machine.noted(self.state, word, detail, about=target.rollout), view, now)
            return
        entry = view.channel.models[self.name]
        new = machine.wanted(self.state, UpdateTarget(held=facts.held, rollout=target.rollout), entry.probation)
        if new is None:
            return
        if new.active != self.state.active or new.pairing != self.state.pairing:
            self.close(view, now)
        self._enter(new, view, now)
        self.due = now + facts.bytes / self._profile.bytes_per_s if new.state == "fetching" else NEVER

    def step(self, view: View | None, now: float) -> bool:
        """Take the step that is due; whether a look should follow, since a probation ended."""
        state, self.due = self.state, NEVER
        if state.state == "fetching":
            self._enter(machine.verifying(state), view, now)
            self._enter(machine.trying(self.state), view, now)
            if self.state.state != "trying":  # given up after too many tries
                return False
            self.close(view, now)
            self._enter(machine.activated(self.state), view, now)
            self._since = self.opened = now
            self.due = now + (CRASHED_S if self._crashes(self.state) else JUDGE_S)
        return state.state == "probation" and self._judge(view, now)

    def close(self, view: View | None, now: float) -> None:
        """Close the open window of what serves."""
        opened, self.opened = self.opened, now
        held = self.state.active
        if held is None or view is None or (self.name, held.release) not in view.releases:
            return
        facts, entry = view.releases[self.name, held.release], view.channel.models.get(self.name)
        running = traffic.Running(
            model=self.name,
            release=held.release,
            variant=held.variant,
            classes=facts.classes,
            sketch_id=facts.sketch_id,
            features=facts.features,
            rollout=self.state.pairing,
            shadowed=self._shadowed,
            auditor=entry.audit.auditor if entry is not None else None,
            audit_share=entry.audit.share_ppm / 1e6 if entry is not None else 0.0,
        )
        started, ended = self._clock(opened), self._clock(now)
        found = traffic.window(running, self._profile, self._rng, started=started, ended=ended, elapsed_s=now)
        if found is not None:
            self._record("window", found, now)

    def _shadow(self, wanted: RolloutRef | None, view: View, now: float) -> None:
        """Run the release of a shadow stage beside what serves, or stop that."""
        if wanted is not None and (self.name, wanted.release) not in view.releases:
            wanted = None
        if wanted != self._shadowed:
            self.close(view, now)
            self._shadowed = wanted

    def _judge(self, view: View | None, now: float) -> bool:
        state = self.state
        if self._crashes(state):
            detail = f"the agent started {state.probation.max_starts + 1} times while probation"
            new: ModelState | None = machine.rolled_back(state, "crash-loop", detail, "its profile says so")
        else:
            served = now - self._since
            requests = int(served * self._profile.requests_per_s)
            failures = int(requests * self._profile.failing) if state.pairing is not None else 0
            new = judged(state, ReleaseHealth(requests=requests, failures=failures), served)
        if new is None:
            self.due = now + JUDGE_S
            return False
        self.close(view, now)
        self._enter(new, view, now)
        return True

    def _crashes(self, state: ModelState) -> bool:
        return self._profile.crash_loop and state.pairing is not None

    def _enter(self, new: ModelState, view: View | None, now: float) -> None:
        if new != self.state:
            self.state = new
            version = view.channel.version if view is not None else 0
            self._record("model", machine.reported(self.name, new, version), now)
