"""A model's training runs side by side: what each was given and what came of it, whatever its job's result holds."""

from __future__ import annotations

from typing import Any

import pytest

from cloud_hub.errors import NotFoundError
from cloud_hub.jobs.runs import list_runs, retrain_of, trials_of
from cloud_hub.store.tables import Job
from tests.support.acting import Person, text_of
from tests.support.hub import HubFixture

TRIALS: list[dict[str, Any]] = [
    {"trial": 0, "hyper": {"batch": 32}, "score": 0.9, "loss": -0.9, "metric": "accuracy", "rows": 10},
    {"trial": 1, "hyper": {"batch": 64}, "error": "out of memory"},
    {"trial": 2, "hyper": {"batch": 16}, "score": 0.95, "loss": -0.95, "metric": "accuracy", "rows": 10},
]


def job(number: int = 1, kind: str = "retrain", **fields: Any) -> Job:
    known = {"state": "succeeded", "created_at": 5.0, "started_at": 6.0, "ended_at": 16.0, "model": "digits"}
    return Job(id=f"j-{number}", kind=kind, **{**known, **fields})


def test_a_retrain_is_a_run_with_what_its_gate_and_its_release_say(hub: HubFixture) -> None:
    hub.model()
    release = hub.release("digits")
    result = {"snapshot": "ab", "release": release, "gate_new": 0.93, "gate_old": 0.91, "gate_labels": 200}
    with hub.hub.session() as session:
        session.add(job(1, payload={"seed": 3, "hyper": {"student_rate": 0.01, "batch": None}}, result=result))
        session.add(job(2, state="failed", error="no label", payload={"snapshot": "cd"}))
        session.add(job(3, model="other"))
        session.add(job(4, kind="scan"))
    failed, good = list_runs(hub.hub, "digits", limit=10).items
    assert (good.metric, good.value, good.interval, good.release) == ("accuracy", 0.95, (0.93, 0.97), release)
    assert (good.gate.new, good.gate.old, good.gate.labels, good.seed) == (0.93, 0.91, 200, 3)
    assert good.hyper == {"student_rate": 0.01} and good.snapshot == "ab" and good.took_s == 10.0
    assert (failed.state, failed.error, failed.snapshot, failed.value) == ("failed", "no label", "cd", None)
    with pytest.raises(NotFoundError):
        list_runs(hub.hub, "none", limit=10)


def test_the_trials_of_a_search_are_runs_and_the_best_comes_first() -> None:
    found = list(trials_of(job(kind="tune", result={"trials": TRIALS, "snapshot": "ab"})))
    assert [(run.trial, run.best, run.state) for run in found] == [
        (2, True, "succeeded"),
        (0, False, "succeeded"),
        (1, False, "failed"),
    ]
    assert found[0].id == "j-1/2" and found[0].value == 0.95 and found[2].error == "out of memory"
    (begun,) = trials_of(job(kind="tune", state="running", ended_at=None))
    assert begun.state == "running" and begun.trial is None and begun.took_s is None


@pytest.mark.parametrize("odd", [None, 7, "x", [1], {"a": 1}, float("nan"), True], ids=str)
def test_a_result_of_another_version_breaks_nothing(odd: Any) -> None:
    names = ("snapshot", "release", "gate_new", "gate_old", "gate_labels", "gate_release", "trials")
    strange = job(payload={"seed": odd, "hyper": odd, "snapshot": odd}, result=dict.fromkeys(names, odd))
    run = retrain_of(strange, None)
    assert run.value is None and run.interval is None
    assert len(list(trials_of(strange))) == 1
    assert list(trials_of(job(kind="tune", result={"trials": [{"trial": odd, "hyper": odd, "loss": odd}]})))


def test_runs_come_job_by_job_and_are_shown_to_viewers(hub: HubFixture) -> None:
    hub.model()
    with hub.hub.session() as session:
        session.add(job(1, kind="tune", result={"trials": TRIALS}))
        session.add(job(2))
    auth = hub.auth(hub.token(role="viewer"))
    first = hub.client.get("/api/v1/models/digits/runs?limit=1", headers=auth).json()
    assert [run["id"] for run in first["items"]] == ["j-2"] and first["next"] == "j-2"
    rest = hub.client.get("/api/v1/models/digits/runs?after=j-2", headers=auth).json()
    assert [run["id"] for run in rest["items"]] == ["j-1/2", "j-1/0", "j-1/1"] and rest["next"] is None
    said = text_of(Person(hub, hub.token(role="viewer")).open("/models/digits").text)
    assert "trial 2" in said and "best" in said and "accuracy 0.95" in said and "out of memory" in said
