"""One fault by strace at one point of an update, and the recovery after it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from tests.support.faults.judge import Verdict, damaged, recover, wrong
from tests.support.faults.points import TRACE, Point, case
from tests.support.faults.world import Scenario, copy
from tests.support.faults.zygote import Case, Ended, Seen, Strace

KILLED = -9
REASONS = {"error=EIO": "disk-error", "error=ENOSPC": "disk-full"}


def strike(
    run: Callable[[Case], Ended], folder: Path, scenario: Scenario, url: str, point: Point, fault: str
) -> Verdict:
    """Let `fault` (strace's words: `signal=KILL`, `error=EIO`) happen at `point`, then start again and judge."""
    device, log = copy(scenario.image, folder / "device", f"{url}/{scenario.stage}"), folder / "strace.log"
    for old in folder.glob("strace.log*"):
        old.unlink()
    # A full disk stays full; but pipes, which `write` also serves, do not fill up with it, so there it happens once:
    # the row `full disk` has a disk that takes no write any more.
    persistent = "+" if fault == "error=ENOSPC" and point.call != "write" else ""
    inject = f"{point.call}:{fault}:when={point.when}{persistent}"
    strace = Strace(role=point.role, options=("-y", "-e", TRACE), inject=inject, log=str(log))
    looks = 2 if "error" in fault else 1  # the second must not build on what the first could not sync
    ended = run(case(scenario, folder, looks=looks, strace=strace))
    text = "".join(path.read_text(errors="replace") for path in sorted(folder.glob("strace.log*")))
    struck = "(INJECTED)" in text or "killed by SIGKILL" in text
    name = f"{scenario.name} {fault} at {point}"
    faults = alive(ended, scenario, killed=fault == "signal=KILL" and point.role == "agent") if struck else []
    if struck and fault in REASONS and ended.seen is not None:
        faults += said(ended.seen, scenario, REASONS[fault])
    faults += [f"unsynced: {path} got its final name after its fsync failed" for path in unsynced(text)]
    faults += damaged(device)
    after = recover(run, folder, scenario, url, name)
    return Verdict(
        name=name, faults=(*faults, *after.faults), to_serving_s=after.to_serving_s, struck=struck, found=after.found
    )


def alive(ended: Ended, scenario: Scenario, *, killed: bool) -> list[str]:
    """The faults of the life in which the fault happened."""
    if killed:
        return [] if ended.code == KILLED else [f"bricked: ended with {ended.code}, not killed: {ended.trace}"]
    if ended.seen is None:
        return [f"bricked: the agent ended with {ended.code}: {ended.trace[-600:]}"]
    faults = [f"torn: {why}" for probe in (ended.seen.at_start, ended.seen.at_end) for why in wrong(probe, scenario)]
    if scenario.old and not ended.seen.at_end.release:
        faults.append(f"bricked: it serves nothing any more: {ended.seen.errors}")
    return faults


def said(seen: Seen, scenario: Scenario, reason: str) -> list[str]:
    """The complaint that a disk's error passed without its reason in a report or in the agent's problem.

    It may, in one case only: when it was overcome on the spot, so that no look failed and the first got where it
    should. That is also how it must be when the reports' own file is what failed and cannot take a report of it.
    """
    faults = [] if seen.clean else [f"unclean: a task of the agent failed: {seen.errors}"]
    ends = "rolled_back" if scenario.failing else "committed"
    overcome = not seen.errors and seen.steps[0] == (ends, scenario.wanted)
    if reason not in seen.told and not overcome:
        faults.append(f"unsaid: {reason} is not among {sorted(seen.told)}; {seen.steps} {seen.errors}")
    return faults


_FAILED = re.compile(r"^(?:fsync|fdatasync)\(\d+<([^>]+)>\) += -1 \w+ .*\(INJECTED\)")
_RENAMED = re.compile(r'^rename(?:at2?)?\((?:AT_FDCWD[^,]*, )?"([^"]+)", (?:AT_FDCWD[^,]*, )?"([^"]+)"\) += 0')
_MADE = re.compile(r'^(?:openat\([^,]+, "([^"]+)", [^)]*O_(?:TRUNC|EXCL)|unlink(?:at)?\((?:AT_FDCWD[^,]*, )?"([^"]+)")')


def unsynced(log: str) -> list[str]:
    """Files whose fsync failed and that were renamed all the same, without having been written anew.

    After a failed fsync the kernel takes the pages for clean, so a second fsync proves nothing
    (Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020).
    """
    failed: set[str] = set()
    found = []
    for line in log.splitlines():
        if match := _FAILED.match(line):
            failed.add(match[1])
        elif (match := _RENAMED.match(line)) and match[1] in failed:
            found.append(match[2])
        elif match := _MADE.match(line):
            failed.discard(match[1] or match[2])
    return found
