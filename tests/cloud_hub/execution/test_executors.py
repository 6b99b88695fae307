"""What every executor promises, and what only one with a process of its own can: users' code never takes it along."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloud_hub.execution.child import ChildExecutor
from cloud_hub.execution.here import InlineExecutor
from cloud_hub.execution.port import (
    LOG,
    LOG_BYTES,
    Executor,
    Limits,
    OverLimitError,
    Work,
    WorkDiedError,
    WorkFailedError,
)
from cloud_hub.jobs.queue import CancelledError

MB = 1_000_000
Steps = list[tuple[str, float]]


def run(
    executor: Executor, folder: Path, chore: str, *, check: Callable[[], None] = lambda: None, **arguments: Any
) -> tuple[dict[str, Any], Steps]:
    steps: Steps = []
    work = Work(f"tests.support.chores:{chore}", folder, arguments)
    found = executor.run(work, progress=lambda step, share: steps.append((step, share)), check=check)
    return found, steps


@pytest.fixture(params=[ChildExecutor, InlineExecutor])
def executor(request: pytest.FixtureRequest) -> Executor:
    """Each adapter of the port."""
    made: Executor = request.param()
    return made


def test_work_says_where_it_is_and_gives_its_result(executor: Executor, tmp_path: Path) -> None:
    found, steps = run(executor, tmp_path, "good", number=21)
    assert found == {"doubled": 42, "runs": 1}
    assert [step for step, _ in steps] == ["step 0", "step 1", "step 2"]
    assert run(executor, tmp_path, "good", number=1)[0]["runs"] == 2  # the same folder


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


def test_a_hung_one_is_cancelled_with_all_that_it_started(tmp_path: Path) -> None:
    def check() -> None:
        if (tmp_path / "pids").exists():
            raise CancelledError("job 1 was cancelled")

    with pytest.raises(CancelledError):
        run(ChildExecutor(), tmp_path, "hangs", check=check)
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
    for name, value in (("EDGELOOP_HUB_DATABASE", "x"), ("EDGELOOP_PASSPHRASE", "x"), ("PLAIN", "seen")):
        monkeypatch.setenv(name, value)
    found, _ = run(ChildExecutor(), tmp_path, "looks_around")
    assert found == {"hidden": [], "temporary": str(tmp_path / "tmp"), "plain": "seen"}
    assert not (tmp_path / "tmp").exists() and os.environ["EDGELOOP_PASSPHRASE"] == "x"
