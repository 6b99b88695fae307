"""The kinds of jobs, and what does them."""

from __future__ import annotations

from collections.abc import Callable

from cloud_hub.execution.port import Executor
from cloud_hub.jobs.running import Running
from cloud_hub.training.retrain import run_retrain
from cloud_hub.training.tuning import tune


def kinds(executor: Executor) -> dict[str, Callable[[Running], dict[str, object]]]:
    """The kinds of jobs, for the worker; recipes run where `executor` runs them."""
    return {
        "retrain": lambda running: run_retrain(running, executor),
        "tune": lambda running: tune(running, executor),
    }
