"""A worker goes on when the process that has joined a Ray cluster for it does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloud_hub.config_tables import WorkerConfig
from cloud_hub.errors import InvalidError
from cloud_hub.execution import cluster
from cloud_hub.execution.child import ChildExecutor
from cloud_hub.execution.cluster import ClusterExecutor, executor_of
from cloud_hub.execution.on_ray import Reservation
from cloud_hub.execution.port import Limits, NoClusterError, OverLimitError, Progress, Work, WorkDiedError

Ended = dict[str, Any] | Exception


def run(monkeypatch: pytest.MonkeyPatch, *ends: Ended) -> tuple[dict[str, Any], list[str]]:
    """Run a piece of work whose drivers end so, one after the other; its result and steps."""
    left, steps = list(ends), list[str]()

    class Driver:
        """In the place of a child."""

        def __init__(self, limits: Limits, *, polite_s: float) -> None:
            assert polite_s > 0

        def run(self, work: Work, *, progress: Progress, check: Callable[[], None]) -> dict[str, Any]:
            ended = left.pop(0)
            if isinstance(ended, Exception):
                raise ended
            return ended

    monkeypatch.setattr(cluster, "ChildExecutor", Driver)
    work = Work("a:b", Path("work"), {}, {"recipes": Path("recipes")})
    executor = ClusterExecutor("head:6379", Limits(), Reservation())
    result = executor.run(work, progress=lambda step, share: steps.append(step), check=lambda: None)
    assert left == []
    return result, steps


def test_a_driver_that_dies_is_begun_again(monkeypatch: pytest.MonkeyPatch) -> None:
    died = WorkDiedError("the code's process was ended by SIGABRT")
    assert run(monkeypatch, died, died, {"result": {"gate": 1}}) == (
        {"gate": 1},
        ["lost the Ray cluster, 1 of 3 tries", "lost the Ray cluster, 2 of 3 tries"],
    )


def test_one_that_dies_each_time_is_given_up_with_its_last_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NoClusterError, match=r"head:6379 was lost 3 times, at last so: .*SIGABRT"):
        run(monkeypatch, *[WorkDiedError("ended by SIGABRT")] * 3)


@pytest.mark.parametrize(
    ("kind", "error"), [("limit", OverLimitError), ("died", WorkDiedError), ("cluster", NoClusterError)]
)
def test_a_bad_end_on_the_node_is_not_tried_again(
    monkeypatch: pytest.MonkeyPatch, kind: str, error: type[Exception]
) -> None:
    with pytest.raises(error, match="too much") as failed:
        run(monkeypatch, {"failed": {"message": "too much", "hint": "less", "kind": kind}})
    assert type(failed.value) is error and failed.value.hint == "less"  # type: ignore[attr-defined]


@pytest.mark.parametrize("address", ["head", "head:0", "head:70000", ":6379", "ray://head:10001", "a b:1", "auto"])
def test_what_is_no_address_is_refused_at_the_start(address: str) -> None:
    with pytest.raises(InvalidError, match="no address of a Ray cluster"):
        executor_of(WorkerConfig(ray=address))


def test_without_ray_the_command_that_installs_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InvalidError, match=r"needs the extra \[ray\]") as failed:
        executor_of(WorkerConfig(ray="head:6379"))
    assert failed.value.hint == 'pip install "edgeloop[ray]"'
    assert isinstance(executor_of(WorkerConfig()), ChildExecutor)
