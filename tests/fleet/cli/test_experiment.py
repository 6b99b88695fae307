"""`fleet experiment`: runs of a model in a list, and some of them side by side."""

from __future__ import annotations

from typing import Any

import pytest

PATH = "/models/digits/runs"


def run(name: str, **fields: Any) -> dict[str, Any]:
    return {"id": name, "job": name, "kind": "retrain", "state": "succeeded", "at": 0.0, **fields}


RUNS = [
    run("01B", metric="accuracy", value=0.95, interval=[0.93, 0.97], snapshot="ab" * 32, hyper={"batch": 32.0}, seed=1),
    run("01A", metric="accuracy", value=0.9, gate={"new": 0.9, "old": 0.8, "labels": 50}, snapshot="cd" * 32, seed=1),
    run("01A/2", kind="trial", trial=2, metric="f1", value=0.5, hyper={"batch": 16.0, "student_rate": 0.001}),
]


def test_runs_are_listed_with_their_figures(fleet, hub) -> None:
    hub.on("GET", PATH, {"items": RUNS, "next": None})
    out = " ".join(fleet("experiment", "list", "digits", "--output", "csv").out.split())
    for words in ("0.95 (0.93 to 0.97)", "0.9, before 0.8, on 50 labels", "batch 16, student_rate 0.001"):
        assert words in out, words
    found = fleet("experiment", "list", "digits", "--json").document["items"]
    assert [one["id"] for one in found] == ["01B", "01A", "01A/2"]
    assert fleet("experiment", "list", "digits", "--limit", "1", "--output", "csv").out.count("\n") == 2


def test_runs_are_compared_side_by_side(fleet, hub) -> None:
    hub.on("GET", PATH, {"items": RUNS, "next": None})
    outcome = fleet("experiment", "compare", "digits", "01B", "01A/2", "--json")
    rows = {row["name"]: row for row in outcome.document["items"]}
    assert rows["batch"] == {"name": "batch", "01B": 32.0, "01A/2": 16.0}
    assert rows["student_rate"]["01B"] == "recipe's" and rows["value"]["01B"] == "0.95 (0.93 to 0.97)"
    assert "gate" not in rows and "error" not in rows and "hyper-parameters" not in rows
    assert "different snapshots" in outcome.err and "different metrics" in outcome.err


@pytest.mark.parametrize(
    ("names", "code", "said"),
    [
        (["01B"], 2, "name from 2 to 20 runs"),
        (["01B", "zz"], 3, "no run 'zz' of digits"),
        (["01B", "1A", "x"], 3, "no run 'x'"),
    ],
)
def test_runs_that_are_not_there_are_named(fleet, hub, names: list[str], code: int, said: str) -> None:
    hub.on("GET", PATH, {"items": RUNS, "next": None})
    outcome = fleet("experiment", "compare", "digits", *names)
    assert said in " ".join(outcome.err.replace("│", " ").split()) and outcome.code == code


def test_the_end_of_an_id_has_to_mean_one_run(fleet, hub) -> None:
    hub.on("GET", PATH, {"items": [*RUNS, run("02A")], "next": None})
    outcome = fleet("experiment", "compare", "digits", "01B", "A")
    assert outcome.code == 2 and "means 2 runs" in outcome.err
