"""A model that ended the agent while it was being loaded: remembered over starts, and left alone after a few."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from edge_agent.errors import ActivationError
from edge_agent.update.activation import Activation
from edge_agent.update.disk.crash_log import FILE, MOST, CrashLog, loader
from edge_agent.update.rules.model_state import HeldRelease
from fleet.protocol.channel import RolloutRef

ONE, TWO = (HeldRelease(release=n, variant="onnx-fp32", manifest=f"{n}" * 64) for n in (1, 2))


GONE = []


def crash(directory: Path, model: str = "tiny", held: HeldRelease = ONE, by: str = "v1") -> None:
    """A process that begins a load and is gone."""
    load = CrashLog(directory, by).loading(model, held)
    load.__enter__()
    GONE.append(load)  # never left


def condemned(directory: Path, model: str = "tiny", held: HeldRelease = ONE, by: str = "v1") -> bool:
    try:
        CrashLog(directory, by).check(model, held)
    except ActivationError as error:
        assert error.reason == "crash-loop" and "next boot" in error.hint
        return True
    return False


def test_a_load_that_ends_the_process_again_and_again_is_left_alone(tmp_path: Path) -> None:
    for _ in range(MOST):
        assert not condemned(tmp_path)
        crash(tmp_path)
    assert condemned(tmp_path) and CrashLog(tmp_path, "v1").suspected("tiny")
    assert not condemned(tmp_path, held=TWO) and not condemned(tmp_path, "other")


def test_a_load_that_comes_to_an_end_good_or_bad_is_forgotten(tmp_path: Path) -> None:
    for _ in range(MOST - 1):
        crash(tmp_path)
    crash_log = CrashLog(tmp_path, "v1")
    with contextlib.suppress(ActivationError), crash_log.loading("tiny", ONE):
        raise ActivationError("no memory")
    assert not crash_log.suspected("tiny") and not (tmp_path / FILE).exists()
    crash(tmp_path)
    assert not condemned(tmp_path)


def test_the_release_before_it_can_be_loaded_and_does_not_clear_it(tmp_path: Path) -> None:
    for _ in range(MOST):
        crash(tmp_path)
    crash_log = CrashLog(tmp_path, "v1")
    with crash_log.loading("tiny", TWO):
        pass
    assert crash_log.suspected("tiny") and condemned(tmp_path)


def test_other_versions_of_agent_or_runtime_try_again(tmp_path: Path) -> None:
    for _ in range(MOST):
        crash(tmp_path)
    assert not condemned(tmp_path, by="v2")
    crash(tmp_path, by="v2")
    assert not condemned(tmp_path, by="v2") and not condemned(tmp_path)


def test_a_boot_and_a_version_make_another_loader(tmp_path: Path) -> None:
    (tmp_path / "boot").write_text("one\n")
    (tmp_path / "later").write_text("two\n")
    runtimes = {"onnxruntime": "1.27.0"}
    assert loader(runtimes) == loader(dict(runtimes))
    told = {
        loader(runtimes, tmp_path / "boot"),
        loader(runtimes, tmp_path / "later"),
        loader(runtimes, tmp_path / "none"),
        loader({"onnxruntime": "1.28.0"}, tmp_path / "boot"),
    }
    assert len(told) == 4


def test_of_two_loads_at_once_both_are_suspected_and_the_good_one_is_cleared(tmp_path: Path) -> None:
    crash_log = CrashLog(tmp_path, "v1")
    for model in ("a", "b"):
        GONE.append(crash_log.loading(model, ONE))
        GONE[-1].__enter__()
    again = CrashLog(tmp_path, "v1")
    assert again.suspected("a") and again.suspected("b")
    with again.loading("a", ONE):
        pass
    assert not again.suspected("a") and again.suspected("b")


@pytest.mark.parametrize(
    ("crashes", "loads"),
    [
        ([], [(TWO, ONE)]),
        ([TWO], [(TWO, None), (TWO, ONE)]),  # one by one, to tell which it was
        ([ONE] * MOST, [(TWO, None)]),
    ],
)
def test_a_release_and_the_one_paired_with_it_are_told_apart(tmp_path: Path, crashes, loads) -> None:
    for held in crashes:
        crash(tmp_path, held=held)
    done = []

    async def activate(release, previous, pairing) -> None:
        done.append((release, previous))

    store, activator = SimpleNamespace(open=lambda model, held, former=None: held), SimpleNamespace(activate=activate)
    service = Activation(store, activator, None, CrashLog(tmp_path, "v1"))
    asyncio.run(
        service.activate(
            "tiny", TWO, ONE, RolloutRef(id="r", attempt=1, release=2, from_release=1, share_ppm=0, salt="")
        )
    )
    assert done == loads


@pytest.mark.parametrize("text", [b"", b"[{", b"{}", b'[{"model": 1}]', bytes(100)])
def test_a_file_that_a_kill_tore_says_nothing(tmp_path: Path, text: bytes) -> None:
    (tmp_path / FILE).write_bytes(text)
    crash_log = CrashLog(tmp_path, "v1")
    assert not crash_log.suspected("tiny")
    with crash_log.loading("tiny", ONE):
        pass
    assert not (tmp_path / FILE).exists()


def test_a_disk_that_refuses_keeps_no_model_from_its_load(tmp_path: Path, caplog) -> None:
    crash_log, loaded = CrashLog(tmp_path / "gone", "v1"), False
    with crash_log.loading("tiny", ONE):
        loaded = True
    assert loaded and "cannot be written" in caplog.text
