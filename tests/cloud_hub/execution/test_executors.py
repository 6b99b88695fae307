"""The promises of every executor, and those of one with a process of its own: users' code never takes it along."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cloud_hub.execution import node
from cloud_hub.execution.child import ChildExecutor
from cloud_hub.execution.cluster import ClusterExecutor
from cloud_hub.execution.here import InlineExecutor
from cloud_hub.execution.on_ray import RayExecutor, Reservation, connected
from cloud_hub.execution.port import (
    LOG,
    LOG_BYTES,
    Executor,
    Limits,
    NoClusterError,
    OverLimitError,
    Work,
    WorkDiedError,
    WorkFailedError,
)
from cloud_hub.execution.shipping import PIECE
from cloud_hub.jobs.queue import CancelledError
from tests.support.ray_cluster import TwoNodes, two_nodes

MB = 1_000_000
Steps = list[tuple[str, float]]


def run(
    executor: Executor, folder: Path, chore: str, *, check: Callable[[], None] = lambda: None, **arguments: Any
) -> tuple[dict[str, Any], Steps]:
    steps: Steps = []
    work = Work(f"tests.support.chores:{chore}", folder, arguments)
    found = executor.run(work, progress=lambda step, share: steps.append((step, share)), check=check)
    return found, steps


@pytest.fixture(scope="module")
def nodes() -> Iterator[TwoNodes]:
    """A cluster that this process is connected to."""
    with two_nodes() as found, connected(found.address, 5.0, lambda step, share: None):
        yield found


def on_ray(limits: Limits | None = None, **asked: float) -> RayExecutor:
    return RayExecutor(limits, Reservation(**{"every_s": 0.1, **asked}))


@pytest.fixture(params=[ChildExecutor, InlineExecutor, on_ray])
def executor(request: pytest.FixtureRequest) -> Executor:
    """Each adapter of the port."""
    if request.param is on_ray:
        request.getfixturevalue("nodes")
    made: Executor = request.param()
    return made


def test_work_says_where_it_is_and_gives_its_result(executor: Executor, tmp_path: Path) -> None:
    found, steps = run(executor, tmp_path, "good", number=21)
    assert found == {"doubled": 42, "runs": 1}
    assert [step for step, _ in steps][-3:] == ["step 0", "step 1", "step 2"]
    assert run(executor, tmp_path, "good", number=1)[0]["runs"] == 2  # the same folder


def test_folders_beside_the_work_s_own_are_read_and_what_it_makes_and_removes_is_so(
    executor: Executor, tmp_path: Path
) -> None:
    recipes, folder, size = tmp_path / "recipes", tmp_path / "work", PIECE + 1
    for path in (recipes / "one.py", folder / "given"):
        path.parent.mkdir()
        path.write_text("x = 1")
    work = Work("tests.support.chores:reads_beside", folder, {"bytes": size}, beside={"recipes": recipes})
    assert executor.run(work, progress=lambda step, share: None, check=lambda: None)["beside"] == ["one.py"]
    assert (folder / "release" / "blobs" / "model").stat().st_size == size and not (folder / "given").exists()


@pytest.mark.parametrize(
    ("chore", "words", "hint"),
    [
        ("refuses", "the recipe has no data", "give it some"),
        ("raises", r"KeyError in line \d+ of chores.py: 'colour'", "log"),
        ("leaves", r"sys.exit\(3\)", "return"),
    ],
)
def test_an_error_of_the_code_is_told_in_words(
    executor: Executor, tmp_path: Path, chore: str, words: str, hint: str
) -> None:
    with pytest.raises(WorkFailedError, match=words) as failed:
        run(executor, tmp_path, chore)
    assert hint in failed.value.hint


def test_what_progress_raises_ends_the_work_and_passes_through(executor: Executor, tmp_path: Path) -> None:
    def stop(step: str, share: float) -> None:
        raise CancelledError("stop")

    work = Work("tests.support.chores:good", tmp_path, {"number": 1})
    with pytest.raises(CancelledError):
        executor.run(work, progress=stop, check=lambda: None)


@pytest.mark.parametrize(
    ("chore", "arguments", "words"),
    [
        ("vanishes", {"code": 0}, "exit code 0 before the work was done; its last words: last words"),
        ("vanishes", {"code": 7}, "exit code 7"),
        ("crashes", {}, "SIGSEGV"),
        ("turns_away", {}, "closed its line to the worker"),
    ],
)
def test_a_process_that_ends_early_is_told_from_one_that_is_done(
    tmp_path: Path, chore: str, arguments: dict[str, int], words: str
) -> None:
    with pytest.raises(WorkDiedError, match=words):
        run(ChildExecutor(), tmp_path, chore, **arguments)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.parametrize("where", ["here", "on a node"])
def test_a_hung_one_is_cancelled_with_all_that_it_started(
    tmp_path: Path, where: str, request: pytest.FixtureRequest
) -> None:
    def check() -> None:
        if (tmp_path / "pids").exists():
            raise CancelledError("job 1 was cancelled")

    executor: Executor = ChildExecutor()
    if where == "on a node":
        executor = ClusterExecutor(request.getfixturevalue("nodes").address, Limits(), Reservation(every_s=0.1))
    with pytest.raises(CancelledError):
        run(executor, tmp_path, "hangs", check=check)
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 2 and not any(map(alive, pids))


class Clock:
    """Turns by an hour each time that it is read."""

    now = 0.0

    def __call__(self) -> float:
        self.now += 3600.0
        return self.now


def test_time_is_limited(tmp_path: Path) -> None:
    with pytest.raises(OverLimitError, match=r"ended after 7200 s, its limit of time") as ended:
        run(ChildExecutor(Limits(wall_s=7200.0), clock=Clock()), tmp_path, "hangs")
    assert "worker.wall_s" in ended.value.hint


def test_memory_is_limited(tmp_path: Path) -> None:
    with pytest.raises(OverLimitError, match="not enough memory in line") as ended:
        run(ChildExecutor(Limits(memory_bytes=400 * MB)), tmp_path, "eats")
    assert "worker.memory_bytes is 400000000" in ended.value.hint


def test_memory_of_several_processes_counts_together(tmp_path: Path) -> None:
    with pytest.raises(OverLimitError, match=r"its processes used .* 300 MB is the limit"):
        run(ChildExecutor(Limits(memory_bytes=300 * MB)), tmp_path, "eats_together", bytes=200 * MB)


@pytest.mark.parametrize(
    ("chore", "error", "words"),
    [
        ("writes", OverLimitError, "its folder holds .* 20 MB is the limit"),
        ("writes_one", (OverLimitError, WorkFailedError), "20 MB is the limit|File too large"),
    ],
)
def test_the_disk_is_limited(tmp_path: Path, chore: str, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        run(ChildExecutor(Limits(disk_bytes=20 * MB)), tmp_path, chore)


def test_a_disk_that_is_nearly_full_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(OverLimitError, match="must stay so"):
        run(ChildExecutor(Limits(spare_disk_bytes=1 << 60)), tmp_path, "good", number=1)
    assert not (tmp_path / "runs").exists()


def test_what_is_printed_is_kept_bounded_and_is_no_message(tmp_path: Path) -> None:
    lines = 2 * LOG_BYTES // 100
    assert run(ChildExecutor(), tmp_path, "prints", lines=lines)[0] == {"printed": lines}
    log, before = tmp_path / LOG, tmp_path / f"{LOG}.1"
    assert log.read_text().splitlines()[-1].endswith(str(lines - 1))
    assert max(log.stat().st_size, before.stat().st_size) <= LOG_BYTES


def test_a_thread_that_was_left_behind_keeps_nobody(tmp_path: Path) -> None:
    assert run(ChildExecutor(), tmp_path, "goes_on")[0] == {"done": True}


def test_the_code_sees_no_secret_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "EDGELOOP_HUB_DATABASE",
        "EDGELOOP_PASSPHRASE",
        "EDGELOOP_SECRET_OPS",
        "OTEL_EXPORTER_OTLP_HEADERS",
        "AWS_SECRET_ACCESS_KEY",
    ):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("PLAIN", "seen")
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    found, _ = run(ChildExecutor(), tmp_path, "looks_around")
    quiet = "PASSIVE"  # threads that wait for each other leave the cores to others
    assert found == {"hidden": [], "temporary": str(tmp_path / "tmp"), "plain": "seen", "omp_wait_policy": quiet}
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert run(ChildExecutor(), tmp_path, "looks_around")[0]["omp_wait_policy"] == "ACTIVE", "it was chosen"
    assert not (tmp_path / "tmp").exists() and os.environ["EDGELOOP_PASSPHRASE"] == "x"


def test_a_bad_end_on_a_node_is_told_as_here(nodes: TwoNodes, tmp_path: Path) -> None:
    with pytest.raises(WorkDiedError, match="exit code 7 before the work was done; its last words: last words"):
        run(on_ray(), tmp_path, "vanishes", code=7)
    assert (tmp_path / LOG).read_text() == "last words\n"
    with pytest.raises(OverLimitError, match="must stay so"):
        run(on_ray(Limits(spare_disk_bytes=1 << 60)), tmp_path, "good", number=1)


def test_a_cluster_that_has_no_room_says_what_it_has(nodes: TwoNodes, tmp_path: Path) -> None:
    with pytest.raises(NoClusterError, match=r"room for 2 CPUs, 1 GPUs within 0 s; it has 2 nodes, .* 1 CPUs and 0"):
        run(on_ray(cpus=2, gpus=1, wait_s=0), tmp_path, "good", number=1)


def test_a_cluster_that_does_not_answer_is_an_error_in_words(tmp_path: Path) -> None:
    with pytest.raises(NoClusterError, match=r"no Ray cluster answers at 127.0.0.1:1: .*refused") as failed:
        run(ClusterExecutor("127.0.0.1:1", Limits(), Reservation(wait_s=0)), tmp_path, "good", number=1)
    assert "ray status" in failed.value.hint


def test_another_version_on_a_node_is_refused(nodes: TwoNodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "version", lambda: "0.1.0")
    with pytest.raises(NoClusterError, match=r"has edgeloop .*, this worker 0.1.0"):
        run(on_ray(), tmp_path, "good", number=1)


def test_work_goes_on_from_its_checkpoint_when_its_node_is_killed(nodes: TwoNodes, tmp_path: Path) -> None:
    """Last in this file: the cluster has one node then."""
    killed: list[str] = []

    def check() -> None:
        if not killed and (tmp_path / "checkpoints" / "epoch").exists():
            killed.append("second")
            nodes.kill()
            let_go()

    with nodes.only_second() as let_go:
        found, steps = run(on_ray(), tmp_path, "takes_up", check=check)
    assert killed and found == {"from": "7"} and (tmp_path / LOG).read_text() == "first try\n"
    assert [step.split(":")[0] for step, _ in steps if "lost" in step] == ["lost the node, 1 of 3 tries"]
