"""Rollouts on devices that are off for half an hour a day, at a time of their own: rows of `promises`.

A harmless release, or one that takes each device off the air some time after it was installed. Whole rollouts through
the state machine, by time and install health alone: three stages that soak for four hours each, a look every five
minutes. The hub knows each device's habit, as after a week, or not, as on the first day.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Any

import numpy as np

from fleet.protocol.resolve import in_cohort
from fleet.rollouts import machine
from fleet.rollouts.cohorts import draw_salt
from fleet.rollouts.facts import DeviceFact, RolloutFacts
from fleet.rollouts.stages import plan_stages

DAY_S, OFF_S, LOOK_S, SOAK_S = 86_400.0, 1800.0, 300.0, 4 * 3600.0
STAGES = (10, 50, 100)
PLANNED_S = 1.1 * SOAK_S * len(STAGES)  # what a plan would say, and a tenth
KILLED_S = (600.0, 3600.0)  # from the installation to the end of a device, for the harmful release
LINE = (
    "silence: {release:8}, habit {habit:7}, {devices:3} devices: promoted in time {promoted:.3f}, halted {halted:.3f}"
)


@dataclass
class Board:
    """A device: when its half hour off begins on each day, and when it committed and died."""

    off_at: float
    quiet_s: float
    committed_at: float | None = None
    dies_at: float = float("inf")
    last_seen: float = 0.0
    silenced_at: float | None = None

    def on(self, now: float) -> bool:
        return now < self.dies_at and (now - self.off_at) % DAY_S >= OFF_S

    def fact(self, name: str) -> DeviceFact:
        return DeviceFact(
            device_id=name,
            last_seen=self.last_seen,
            hardware="pi",
            committed=self.committed_at is not None,
            quiet_s=self.quiet_s,
            silenced_at=self.silenced_at,
        )


def rollout(devices: int, harmful: bool, known: bool, seed: int) -> tuple[str, bool]:
    """The end of one rollout, and whether it came within the planned time; looked at for at most two days."""
    rng, names = np.random.default_rng(seed), [f"device-{n}" for n in range(devices)]
    boards = {name: Board(off_at=rng.uniform(0, DAY_S), quiet_s=OFF_S if known else 0.0) for name in names}
    stages = plan_stages(STAGES, soak_s=SOAK_S)
    shares = [stage.share_ppm for stage in stages]
    salt = draw_salt(Random(seed), names, shares, ())
    plan = machine.checked_plan(
        machine.Plan(
            id="r",
            model="m",
            channel="c",
            release=2,
            from_release=1,
            stages=stages,
            salt=salt,
            policy={"evidence": "install"},
        )
    )
    start = now = 2 * DAY_S
    for board in boards.values():
        board.last_seen = now if board.on(now) else now - (now - board.off_at) % DAY_S
    progress = machine.start(plan, now).progress
    while progress.state not in machine.ENDED and now < start + 2 * DAY_S:
        now += LOOK_S
        share = shares[progress.stage]
        inside = [name for name in names if in_cohort(salt, name, share)]
        for name, board in boards.items():
            if board.on(now):
                board.last_seen = now
                if name in inside and board.committed_at is None:
                    board.committed_at = now
                    board.dies_at = now + rng.uniform(*KILLED_S) if harmful else board.dies_at
        facts = RolloutFacts(
            cohort=tuple(boards[name].fact(name) for name in inside),
            control=tuple(boards[name].fact(name) for name in names if name not in inside),
        )
        for name in machine.newly_silent(plan, progress, facts, now):
            boards[name] = replace(boards[name], silenced_at=now)
        progress = machine.decide(plan, progress, facts, now).progress
    return progress.state, now - start <= PLANNED_S


def row(devices: int, harmful: bool, known: bool, draws: int, seed: int) -> dict[str, Any]:
    """Count the ends of `draws` rollouts."""
    ends = [rollout(devices, harmful, known, seed + number) for number in range(draws)]
    return {
        "release": "harmful" if harmful else "harmless",
        "habit": "known" if known else "unknown",
        "devices": devices,
        "promoted": sum(state == "finished" and soon for state, soon in ends) / draws,
        "halted": sum(state == "halted" for state, _ in ends) / draws,
    }


def rows(draws: int, seed: int) -> list[dict[str, Any]]:
    """All rows, printed as they come."""
    found = []
    for harmful in (False, True):
        for known in (True, False):
            for devices in (3, 10, 50, 200):
                found.append(row(devices, harmful, known, draws if devices < 200 else max(1, draws // 4), seed))
                print(LINE.format(**found[-1]))
    return found
