"""Power loss at any moment of an update, simulated from a record of what the update wrote."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from msgspec import Struct
from msgspec.structs import replace

from edge_agent.errors import AgentError
from edge_agent.update.disk.state import read_state
from tests.support.faults import results
from tests.support.faults.judge import Verdict, recover
from tests.support.faults.points import case, sample
from tests.support.faults.record import OPTIONS, Op, Recorder, UnknownCallError, recorded
from tests.support.faults.replay import Disk, same
from tests.support.faults.world import Scenario, World, copy, point_at
from tests.support.faults.zygote import Strace

pytestmark = pytest.mark.fault

UPDATES = ("install", "swap", "halt", "rollback", "rotation") if results.FULL else ("install", "swap")
POINTS = 600 if results.FULL else 60
MODES = ("nothing", "names", "anything")
SEED = 7


class Cut(Struct, frozen=True, kw_only=True):
    """The power fails after `after` operations of an update."""

    scenario: Scenario
    ops: list[Op]
    after: int
    mode: str
    seed: int
    replayed_stage: str  # an older repository that the hub, or somebody in its place, serves afterwards

    @property
    def name(self) -> str:
        last = self.ops[self.after - 1] if self.after else None
        what = f"{last.kind} {last.path}" if last else "nothing"
        return f"{self.scenario.name}, power off after {self.after} ({what}), {self.mode}, seed {self.seed}"


def record(run, folder: Path, scenario: Scenario, url: str) -> list[Op]:
    """The writes of an undisturbed update; checked against the disk that it leaves."""
    device, log = copy(scenario.image, folder / "device", f"{url}/{scenario.stage}"), folder / "record.log"
    before = Path(shutil.copytree(device, folder / "before", symlinks=True, dirs_exist_ok=False))
    ended = run(case(scenario, folder, strace=Strace(role="agent", options=OPTIONS, log=str(log), follow=True)))
    assert ended.seen is not None and ended.seen.active == scenario.wanted, ended
    ops = recorded(log, device)
    disk = Disk(before)
    for op in ops:
        disk.apply(op)
    assert same(disk, device) == []
    shutil.rmtree(before)
    return ops


def cut_power(run, folder: Path, cut: Cut, url: str) -> Verdict:
    """Build the disk, start on it, judge; and once more with an older repository in the hub's place."""
    scenario, device = cut.scenario, folder / "device"
    start = copy(scenario.image, folder / "start", f"{url}/{scenario.stage}")
    disk = Disk(start)
    for op in cut.ops[: cut.after]:
        disk.apply(op)
    faults = []
    for stage in (cut.replayed_stage, scenario.stage) if cut.replayed_stage else (scenario.stage,):
        shutil.rmtree(device, ignore_errors=True)
        disk.after_power_loss(random.Random(cut.seed), device, cut.mode)
        if stage != scenario.stage:
            faults += replay_old(run, folder, scenario, f"{url}/{stage}")
    shutil.rmtree(start)
    verdict = recover(run, folder, scenario, url, cut.name)
    return replace(verdict, faults=(*faults, *verdict.faults))


def replay_old(run, folder: Path, scenario: Scenario, url: str) -> list[str]:
    """Serve the repository as it was: whatever the disk acknowledged must not be taken back."""
    point_at(folder / "device", url)
    try:
        known = read_state(folder / "device").looked.tuf
    except AgentError as error:
        return [f"bricked: {error}"]
    seen = run(case(scenario, folder)).seen
    if seen is None:
        return ["bricked: the agent ended"]
    back = [role for role, version in known.items() if seen.tuf.get(role, 0) < version]
    return [f"accepted: an older {role} was taken for {known[role]}" for role in back]


@pytest.mark.timeout(1800)
def test_power_loss_at_any_moment_leaves_a_device_that_serves_and_gets_there(bench, static, world: World, strace):
    made = world("small")
    older = {"install": "", "swap": "first", "halt": "first", "rollback": "first", "rotation": "second"}
    cuts: list[Cut] = []
    for update in UPDATES:
        scenario = made.scenarios[update]
        with bench.worker() as (run, folder):
            ops = record(run, folder, scenario, static.url)
        moments = [(k, mode) for k in range(len(ops) + 1) for mode in MODES]
        for number, (k, mode) in enumerate(sample(moments, POINTS // len(UPDATES), SEED)):
            stage = f"{older[update]}-0" if older[update] and number % 3 == 0 else ""
            cuts.append(
                Cut(scenario=scenario, ops=ops, after=k, mode=mode, seed=SEED * 10_000 + k, replayed_stage=stage)
            )
    verdicts = bench.map(lambda run, folder, cut: cut_power(run, folder, cut, static.url), cuts)
    faults = []
    for mode in MODES:
        mine = [v for v in verdicts if f", {mode}," in v.name]
        faults += results.keep("power loss", f"{mode} unsynced", mine, seed=SEED, updates=list(UPDATES))
    assert not faults, "\n".join(faults)


def lost(tmp_path: Path, ops: list[Op], mode: str = "nothing", seed: int = 0) -> dict[str, bytes]:
    """The rest of a folder that held `old` in the file `f`."""
    before = tmp_path / f"before-{mode}-{seed}"
    before.mkdir()
    (before / "f").write_bytes(b"old")
    disk = Disk(before)
    for op in ops:
        disk.apply(op)
    after = tmp_path / f"after-{mode}-{seed}"
    disk.after_power_loss(random.Random(seed), after, mode)
    return {path.name: path.read_bytes() for path in after.iterdir()}


DRAFT = [Op(kind="make", path="d"), Op(kind="write", path="d", data=b"newer")]
MOVE = Op(kind="rename", path="d", other="f")


def test_the_replay_keeps_what_was_synced_and_drops_what_was_not(tmp_path):
    synced = [*DRAFT, Op(kind="sync", path="d"), MOVE]
    assert lost(tmp_path, synced) == {"f": b"old"}
    assert lost(tmp_path, [*synced, Op(kind="sync", path="")], seed=1) == {"f": b"newer"}


def test_the_replay_finds_a_rename_without_fsync(tmp_path):
    """The classic mistake: the name is there, the bytes are not."""
    assert lost(tmp_path, [*DRAFT, MOVE], "names") == {"f": b""}
    found = [lost(tmp_path, [*DRAFT, MOVE], "anything", seed).get("f") for seed in range(40)]
    assert {b"old", b"newer", b""} <= set(found) and any(f and b"newer".startswith(f) and f != b"newer" for f in found)


def test_the_record_refuses_what_it_does_not_understand(tmp_path):
    recorder = Recorder(tmp_path)
    hexed = "".join(f"\\x{byte:02x}" for byte in f"{tmp_path}/f".encode())
    with pytest.raises(UnknownCallError):
        recorder.feed(1, f"fallocate(3<{hexed}>, 0, 0, 4096) = 0")
