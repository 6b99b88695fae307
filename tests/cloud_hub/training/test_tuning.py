"""The search over hyper-parameters: comparable trials, none lost or run twice, and the best one becomes a retrain."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from cloud_hub.errors import InvalidError
from cloud_hub.execution.port import LOG, NoClusterError, Progress, Work, WorkFailedError
from cloud_hub.jobs import queue
from cloud_hub.jobs.logs import read_log
from cloud_hub.jobs.worker import run_worker
from cloud_hub.samples import snapshots
from cloud_hub.samples.dataset import Dataset
from cloud_hub.store.tables import Job, Model
from cloud_hub.training.halving import rungs
from cloud_hub.training.handed import SNAPSHOT
from cloud_hub.training.kinds import kinds
from cloud_hub.training.proposing import Proposer
from cloud_hub.training.recipe import Hyper, LoadedRecipe, Recipe, with_epochs, with_hyper
from fleet.api.hyper import HyperOptions
from fleet.api.jobs import TuneOptions
from tests.support.hub import HubFixture

SPACE = {"student_rate": {"low": 1e-4, "high": 1e-1, "log": True}, "batch": [32, 64]}


class Scores:
    """An executor whose work scores best at a rate of 0.01; `fault(number)` comes before that of its nth run."""

    def __init__(self, fault: Callable[[int], None] = lambda number: None, higher: bool = True) -> None:
        self.works: list[dict[str, Any]] = []
        self._fault, self._higher, self._lock = fault, higher, threading.Lock()

    def run(self, work: Work, *, progress: Progress, check: Callable[[], None]) -> dict[str, Any]:
        with self._lock:
            self.works.append({**work.arguments, "snapshot": (work.folder / SNAPSHOT).read_bytes()})
            number = len(self.works)
        (work.folder / LOG).write_text(f"run {number}\n")
        progress("training", 0.5)
        self._fault(number)
        check()
        error = abs(math.log10(work.arguments["hyper"]["student_rate"]) + 2)
        score = 1 - error if self._higher else error
        return {"score": score, "metric": "accuracy", "higher_is_better": self._higher, "rows": 100}


@pytest.fixture
def model(hub: HubFixture) -> HubFixture:
    """A model with a recipe, and a snapshot."""
    folder = hub.hub.config.directory / "recipes"
    folder.mkdir()
    (folder / "r.py").write_text("")
    with hub.hub.session() as session:
        session.add(Model(name="m", recipe="r.py", created_at=0))
    return hub


def order(hub: HubFixture, **options: Any) -> str:
    data = Dataset({"x": np.zeros((8, 2), np.float32)}, np.arange(8) % 2, np.arange(8).astype(str))
    body = {"space": SPACE, "trials": 12, "snapshot": snapshots.save(hub.hub, "m", data, actor="t").id, **options}
    answer = hub.client.post("/api/v1/models/m/tune", json=body, headers=hub.auth())
    assert answer.status_code == 201, answer.text
    found: str = answer.json()["id"]
    return found


def work(hub: HubFixture, executor: Scores) -> None:
    table = kinds(executor)
    run_worker(hub.hub, {"tune": table["tune"], "retrain": lambda running: {}}, once=True)


def test_the_best_of_comparable_trials_is_trained(model: HubFixture) -> None:
    executor = Scores()
    job = order(model, retrain={"seed": 5}, seed=3)
    work(model, executor)
    ended = queue.get(model.hub, job)
    assert ended.state == "succeeded", ended.error
    trials, best = ended.result["trials"], ended.result["best"]
    assert len(trials) == 12 and best in trials and best["score"] == max(trial["score"] for trial in trials)
    assert abs(math.log10(best["hyper"]["student_rate"]) + 2) < 0.5 and best["hyper"]["batch"] in (32, 64)
    assert len({(one["snapshot"], one["seed"], one["recipe"]) for one in executor.works}) == 1
    follower = queue.get(model.hub, ended.result["retrain"])
    assert (follower.kind, follower.created_by, follower.payload["seed"]) == ("retrain", f"job:{job}", 3)
    assert follower.payload["snapshot"] == ended.result["snapshot"]
    assert HyperOptions.model_validate(follower.payload["hyper"]).given == best["hyper"]
    assert "== trial 0: " in read_log(model.hub, job) and "run 12\n" in read_log(model.hub, job)
    assert not (model.hub.config.directory / "work" / job).exists()


def test_a_search_proposes_the_same_again() -> None:
    space, found = TuneOptions.model_validate({"space": SPACE}).space, []
    for _ in range(2):
        proposer = Proposer(space, seed=1, before=[(4, {"student_rate": 0.1, "batch": 32}, 1.0)])
        found.append([])
        for _ in range(15):
            number, hyper = proposer.ask()
            proposer.tell(number, hyper["student_rate"] if number % 4 else None)
            found[-1].append((number, hyper))
    assert [number for number, _ in found[0]] == list(range(5, 20))
    assert found[0] == found[1] and len({hyper["student_rate"] for _, hyper in found[0]}) == 15


def test_the_same_numbers_are_not_tried_twice(model: HubFixture) -> None:
    executor, job = Scores(), order(model, space={"student_rate": [0.01, 0.1]}, trials=9)
    work(model, executor)
    trials = queue.get(model.hub, job).result["trials"]
    assert len(executor.works) == 2 and [trial["trial"] for trial in trials] == list(range(9))
    for trial in trials:
        assert trial["score"] == (1.0 if trial["hyper"]["student_rate"] == 0.01 else 0.0)
    assert sum("as" in trial for trial in trials) == 7


def test_the_same_numbers_do_not_run_side_by_side(model: HubFixture) -> None:
    together = threading.Barrier(2, timeout=30)
    executor = Scores(lambda number: together.wait() and None)
    job = order(model, space={"student_rate": [0.01, 0.1]}, trials=9, parallel=4)
    work(model, executor)
    assert len(queue.get(model.hub, job).result["trials"]) == 9
    assert sorted(work["hyper"]["student_rate"] for work in executor.works) == [0.01, 0.1]


def test_a_trial_that_a_full_cluster_has_no_room_for_waits_for_another_to_end(model: HubFixture) -> None:
    refused, lock, running = threading.Event(), threading.Lock(), list[int]()

    def fault(number: int) -> None:
        with lock:
            full = len(running) == 2
            running.extend([] if full else [number])
        if full:
            refused.set()
            raise NoClusterError("no node of the cluster had room")
        assert refused.wait(30)
        with lock:
            running.remove(number)

    executor, job = Scores(fault), order(model, parallel=3, trials=6)
    work(model, executor)
    ended = queue.get(model.hub, job)
    assert ended.state == "succeeded", ended.error
    assert len(executor.works) == 7 and sorted(trial["trial"] for trial in ended.result["trials"]) == list(range(6))


def test_several_run_at_a_time(model: HubFixture) -> None:
    together = threading.Barrier(3, timeout=30)
    job = order(model, parallel=3)
    work(model, Scores(lambda number: together.wait() and None))
    assert len(queue.get(model.hub, job).result["trials"]) == 12


def test_a_trial_that_fails_is_kept_with_its_reason_and_the_others_go_on(model: HubFixture) -> None:
    def fault(number: int) -> None:
        if number == 2:
            raise WorkFailedError("the weights are NaN")

    job = order(model, trials=4)
    work(model, Scores(fault))
    ended = queue.get(model.hub, job)
    assert ended.state == "succeeded"
    assert [trial.get("error") for trial in ended.result["trials"]] == [None, "the weights are NaN", None, None]


@pytest.mark.parametrize(("error", "runs"), [(WorkFailedError("no data"), 3), (NoClusterError("no data"), 1)])
def test_where_none_can_succeed_the_job_fails_soon(model: HubFixture, error: Exception, runs: int) -> None:
    def fault(number: int) -> None:
        raise error

    executor, job = Scores(fault), order(model, retrain={})
    work(model, executor)
    ended = queue.get(model.hub, job)
    assert (ended.state, len(executor.works)) == ("failed", runs) and "no data" in ended.error
    assert "retrain" not in ended.result


def test_a_worker_that_takes_over_goes_on_and_orders_one_retrain(model: HubFixture) -> None:
    def dies(number: int) -> None:
        if number == 6:
            with model.hub.session() as session:
                row = session.get(Job, job)
                assert row is not None
                row.owner = "another"  # as after a lease that ran out
            raise WorkFailedError("whatever")

    first, second, job = Scores(dies), Scores(higher=False), order(model, retrain={})
    work(model, first)
    ended = queue.get(model.hub, job)
    assert ended.state == "running" and len(ended.result["trials"]) == 5
    model.clock.advance(3600.0)
    work(model, second)
    ended = queue.get(model.hub, job)
    assert ended.state == "succeeded" and len(ended.result["trials"]) == 12 and len(second.works) == 7
    assert [trial["trial"] for trial in ended.result["trials"]] == list(range(12))
    assert ended.result["best"]["loss"] == min(trial["loss"] for trial in ended.result["trials"])


def test_no_trial_begins_when_the_time_is_over(model: HubFixture) -> None:
    job = order(model, for_s=100.0)
    work(model, Scores(lambda number: model.clock.advance(20.0)))
    assert len(queue.get(model.hub, job).result["trials"]) == 5


def test_a_search_that_is_cancelled_ends_its_trials(model: HubFixture) -> None:
    def fault(number: int) -> None:
        if number == 3:
            queue.cancel(model.hub, job, actor="t")

    executor, job = Scores(fault), order(model)
    work(model, executor)
    assert queue.get(model.hub, job).state == "cancelled" and len(executor.works) < 12


@pytest.mark.parametrize("parallel", [1, 4])
def test_halving_lets_the_best_third_go_on_whoever_ends_first(model: HubFixture, parallel: int) -> None:
    executor, job = Scores(), order(model, halving=True, trials=10, parallel=parallel, seed=4)
    work(model, executor)
    ended = queue.get(model.hub, job)
    assert ended.state == "succeeded", ended.error
    trials = sorted(ended.result["trials"], key=lambda one: one["trial"])
    shares = [round(9 * one["share"]) for one in trials]
    assert shares == [1] * 10 + [3] * 4 + [9] * 2 and len(executor.works) == 16
    losses = [one["loss"] for one in trials]
    assert losses[10:14] == sorted(losses[:10])[:4] and losses[14:] == sorted(losses[:10])[:2]
    assert ended.result["best"] == trials[14] and "11% of its epochs" in read_log(model.hub, job)
    assert sorted(work["share"] for work in executor.works) == [one["share"] for one in trials]


def test_halving_goes_on_after_a_takeover_and_without_those_that_failed(model: HubFixture) -> None:
    def dies(number: int) -> None:
        if number == 3:
            raise WorkFailedError("NaN")
        if number == 8:
            with model.hub.session() as session:
                row = session.get(Job, job)
                assert row is not None
                row.owner = "another"
            raise WorkFailedError("whatever")

    first, second, job = Scores(dies), Scores(), order(model, halving=True, trials=7)
    work(model, first)
    model.clock.advance(3600.0)
    work(model, second)
    ended = queue.get(model.hub, job)
    assert ended.state == "succeeded", ended.error
    trials = ended.result["trials"]
    assert len(trials) == 7 + 3 + 1 and len(second.works) == 4
    failed = next(one for one in trials if "error" in one)
    assert failed["share"] < 1 and all(one["hyper"] != failed["hyper"] for one in trials if one != failed)
    assert ended.result["best"] == trials[-1] and trials[-1]["share"] == 1.0


@pytest.mark.parametrize(("count", "sizes"), [(1, [1]), (2, [2]), (3, [3, 1]), (9, [9, 3, 1]), (100, [100, 34, 12])])
def test_rungs_end_with_all_epochs(count: int, sizes: list[int]) -> None:
    found = rungs(count)
    assert [size for size, _ in found] == sizes and found[-1][1] == 1.0


def test_a_share_of_the_epochs_is_at_least_one() -> None:
    loaded = LoadedRecipe("r", "00", Recipe(data=lambda: None, student=lambda: None, hyper=Hyper(student_epochs=4)))  # type: ignore[arg-type,return-value]
    short = with_epochs(loaded, 1 / 9).recipe.hyper
    assert (short.student_epochs, short.teacher_epochs, short.warm_epochs) == (1, 3, None)
    assert with_epochs(loaded, 1.0) is loaded


@pytest.mark.parametrize(
    "space",
    [
        {},
        {"colour": [1]},
        {"batch": [0.5]},
        {"batch": [0]},
        {"batch": []},
        {"soft_share": {"low": 0, "high": 2}},
        {"student_rate": {"low": 0, "high": 1, "log": True}},
        {"batch": {"low": 2, "high": 2}},
    ],
)
def test_a_space_that_holds_what_no_run_can_have_is_refused(space: Any) -> None:
    with pytest.raises(ValidationError):
        TuneOptions.model_validate({"space": space})


def test_the_recipe_s_numbers_and_those_of_the_api_have_the_same_names() -> None:
    numbers = {field.name: getattr(Hyper(), field.name) for field in fields(Hyper)}
    assert set(HyperOptions.model_fields) == set(numbers) - {"precision", "compiled"}
    HyperOptions.model_validate({name: numbers[name] for name in HyperOptions.model_fields})


def test_other_numbers_are_another_recipe() -> None:
    loaded = LoadedRecipe("r", "00", Recipe(data=lambda: None, student=lambda: None))  # type: ignore[arg-type,return-value]
    other = with_hyper(loaded, {"batch": 8})
    assert (other.recipe.hyper.batch, loaded.recipe.hyper.batch) == (8, 64) and other.sha256 != loaded.sha256
    assert with_hyper(loaded, {}) is loaded
    own = LoadedRecipe("r", "00", Recipe(data=lambda: None, fit=lambda given: None))  # type: ignore[arg-type,return-value]
    with pytest.raises(InvalidError, match="its own fit"):
        with_hyper(own, {"batch": 8})
