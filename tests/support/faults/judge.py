"""The rules that hold after any fault: the agent starts, serves old or new and never torn, and gets where it should."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from msgspec import Struct

from edge_agent.errors import AgentError
from edge_agent.update.disk.state import read_state
from tests.support.faults.points import case
from tests.support.faults.world import MODEL, Scenario, expected, point_at
from tests.support.faults.zygote import Case, Ended, Probe

UNDER_WAY = ("fetching", "verifying", "trying", "probation")


class Verdict(Struct, frozen=True, kw_only=True):
    """`faults` is empty when all is well. `to_serving_s`: from the recovery's start to its first answer."""

    name: str
    faults: tuple[str, ...] = ()
    to_serving_s: float = 0.0
    struck: bool = True  # the fault really happened
    found: str = ""  # the state that the recovery found on the disk
    cycles: int = 1


def recover(run: Callable[[Case], Ended], folder: Path, scenario: Scenario, url: str, name: str) -> Verdict:
    """Start the agent again on `folder`/device, without faults, let it look once, and judge."""
    device = folder / "device"
    point_at(device, f"{url}/{scenario.stage}")
    faults: list[str] = []
    try:
        before = read_state(device).models.get(MODEL)
    except AgentError as error:
        return Verdict(name=name, faults=(f"torn: {error}",))
    ended = run(case(scenario, folder))
    seen = ended.seen
    if seen is None:
        return Verdict(name=name, faults=(f"bricked: the agent ended with {ended.code}: {ended.trace[-600:]}",))
    faults += [f"torn: {why}" for probe in (seen.at_start, seen.at_end) for why in wrong(probe, scenario)]
    if (scenario.old or (before and before.active)) and not seen.at_start.release:
        faults.append("bricked: nothing serves after the start")
    cycles = 1
    if (seen.active, seen.at_end.release) != (scenario.wanted, scenario.wanted):
        cycles = 2
        faults.append(f"stuck: {seen.active} is active, {scenario.wanted} is wanted; {seen.errors} {seen.problem}")
    elif scenario.failing and seen.state != "rolled_back":
        # What was active before is wanted, too: only the state tells that the failing release was tried at all. One
        # look gets there from wherever the fault left it, since fewer starts than a crash loop has have been spent.
        cycles = 2
        faults.append(f"stuck: {seen.state}, the failing release was not tried; {seen.errors} {seen.problem}")
    if not seen.clean or seen.errors:
        faults.append(f"unclean recovery: {seen.errors}")
    faults += _unsaid(before, seen, scenario) + damaged(device)
    found = before.state if before is not None else "nothing"
    return Verdict(name=name, faults=tuple(faults), to_serving_s=seen.to_serving_s, found=found, cycles=cycles)


def wrong(probe: Probe, scenario: Scenario) -> list[str]:
    """The reason why an answer is not exactly that of the old or the new release."""
    if probe.release == 0:
        return []
    if probe.release not in (scenario.old, scenario.new):
        return [f"release {probe.release} answers"]
    if not np.allclose(probe.logits, expected(probe.release), atol=1e-4):
        return [f"release {probe.release} answers {probe.logits}"]
    return []


def _unsaid(before, seen, scenario: Scenario) -> list[str]:
    """The facts that the hub could not learn from the reports: an interruption's reason, or the final state."""
    faults = []
    reasons = {report.reason for report in seen.reports if report.reason}
    if before is not None and before.state in ("fetching", "verifying", "trying") and "interrupted" not in reasons:
        faults.append(f"unsaid: the update was cut short while {before.state}, no report says so")
    if scenario.failing and "failures" not in reasons:
        faults.append("unsaid: no report names the reason of the rollback")
    last = seen.reports[-1] if seen.reports else None
    if last is None or (last.state, last.active) != (seen.state, seen.active):
        faults.append(f"unsaid: {seen.state}, active {seen.active}, but the last report says {last and last.state}")
    return faults


def damaged(device: Path) -> list[str]:
    """Files under a final name that do not hold what the name promises."""
    faults = []
    for path in (*device.glob("blobs/*"), *device.glob("releases/*")):
        name = path.name.removesuffix(".json")
        if len(name) == 64 and hashlib.sha256(path.read_bytes()).hexdigest() != name:
            faults.append(f"torn: {path.name} under its final name")
    for path in (*device.glob("tuf/*.json"), *device.glob("tuf/*/*.json")):
        if path.exists() and path.parent.name != "targets":
            try:
                json.loads(path.read_bytes())
            except ValueError:
                faults.append(f"torn: {path.relative_to(device)}")
    return faults
