"""A benchmark that is called as a module of Python's own stands in no other's way."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.rollout_load import Results, looks, messages, slope, wrong
from tests.support.size import FULL, sized

FOLDER = Path(__file__).parents[2] / "benchmarks"


def test_scripts_find_the_standard_library_and_not_each_other() -> None:
    """A script's folder is where Python looks first."""
    shadows = sorted({path.stem for path in FOLDER.glob("*.py")} & set(sys.stdlib_module_names))
    code = f"""
import importlib, sys
def public():
    return [set(dir(importlib.import_module(name))) for name in {shadows!r}]
own = public()
for name in {shadows!r}:
    del sys.modules[name]
sys.path.insert(0, {str(FOLDER)!r})
for theirs, found in zip(own, public(), strict=True):
    assert theirs <= found, theirs - found
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_results_of_some_parts_begin_a_file_that_is_not_there_yet_and_join_one_that_is(tmp_path: Path) -> None:
    out = tmp_path / "new.json"
    command = [sys.executable, str(FOLDER / "statistics.py"), "--only", "teachers", "--draws", "1", "--out", str(out)]
    for known in ({}, {"guard": ["as it was"]}):
        if known:
            out.write_text(json.dumps(known))
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        found = json.loads(out.read_text())
        assert len(found["teachers"]) == 6 and found.items() >= known.items()


def test_scripts_find_the_package_fleet_and_not_the_benchmark_of_that_name() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(FOLDER)!r}); import fleet, fleet.protocol.topics as t; print(t.__file__)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd="/")
    assert ran.stdout.strip() == str(FOLDER.parent / "fleet" / "protocol" / "topics.py"), ran.stderr


def test_a_steps_cost_is_what_came_between_two_scrapes_and_its_slope_is_per_thousand_devices() -> None:
    name = "edgeloop_hub_look_"
    before = {(name + "seconds_count", "rollouts"): 10.0, (name + "seconds_sum", "rollouts"): 1.0}
    after = {
        (name + "seconds_count", "rollouts"): 30.0,
        (name + "seconds_sum", "rollouts"): 2.0,
        (name + "cpu_seconds_sum", "rollouts"): 0.2,
    }
    steps = looks(before, after)
    assert steps == {"rollouts": {"looks": 20.0, "ms": 50.0, "cpu_ms": 10.0}}
    dearer = {"rollouts": {**steps["rollouts"], "cpu_ms": 28.0}}
    sizes = {"10000": {"good": {"steps": dearer}}, "1000": {"good": {"steps": steps}}, "5000": {"enrol": {}}}
    assert slope(sizes) == {"rollouts": 2.0} and slope({"1000": sizes["1000"]}) == {}


def test_messages_are_those_of_the_time_between_two_scrapes_by_their_kind() -> None:
    name = "edgeloop_hub_messages_total"
    before = {(name, "window"): 10.0, (name, "dropped"): 3.0, ("another", "window"): 1.0}
    after = {(name, "window"): 25.0, (name, "dropped"): 3.0, (name, "repeated"): 2.0, ("another", "window"): 9.0}
    assert messages(before, after) == {"repeated": 2, "window": 15}


def test_what_a_fleet_must_not_lose_or_miss_fails_the_benchmark() -> None:
    fine = {"lost": 0, "waiting": 0, "held": True}
    rollout = {"state": "finished", "reason": "healthy"}
    assert wrong({"enrol": {"lost": 0, "waiting": 0}, "good": fine}) == []
    assert len(wrong({"enrol": {**fine, "waiting": 2}, "bad": {**fine, "held": False, "rollout": rollout}})) == 2


def test_what_was_measured_stays_whatever_comes_after_it(tmp_path: Path) -> None:
    out = tmp_path / "folder" / "fleet.json"
    good = {"steps": {"rollouts": {"looks": 2.0, "ms": 9.0, "cpu_ms": 10.0}}}
    Results(out).keep("sqlite", "1000", {"good": good})
    again = Results(out)
    again.keep("sqlite", "2000", {"enrol": {}})
    again.keep("postgresql", "1000", {"enrol": {}})
    found = json.loads(out.read_text())
    assert found["sqlite"]["sizes"] == {"1000": {"good": good}, "2000": {"enrol": {}}} and "postgresql" in found


@pytest.mark.e2e
def test_a_small_fleet_goes_through_the_benchmark_in_the_full_size_and_its_command_is_read_in_the_small(
    tmp_path: Path,
) -> None:
    out = tmp_path / "fleet.json"
    options = ("--devices", "20", "--database", "sqlite", "--window", "10", "--out", str(out))
    command = [sys.executable, str(FOLDER / "fleet.py"), *sized(("--help",), options)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "--devices" in ran.stdout or FULL
    if FULL:
        found = json.loads(out.read_text())["sqlite"]["sizes"]["20"]
        assert found["enrol"]["receipted"] == found["enrol"]["records"] > 60
        assert all(found["enrol"]["processes"][name]["memory_mib"] > 1 for name in ("hub", "broker", "simulation"))
