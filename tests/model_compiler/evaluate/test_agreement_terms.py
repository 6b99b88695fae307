"""The gate's term on agreement is the task's: a variant may differ as far as two good answers may, and no further."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fleet.protocol.manifest import Gate
from model_compiler.evaluate.tasking import metric_for_task, parse
from model_compiler.evaluate.verdict import Figures, judge

ROWS, OFF = 20, 4  # samples, and those that the variant answers otherwise
RANDOM = np.random.default_rng(0)
COST = Figures(size_bytes=1, latency_us_p50=1.0, latency_us_p95=1.0)


def boxes() -> np.ndarray:
    """One sure box in each sample: (n, 1, 6)."""
    left = RANDOM.uniform(0, 40, (ROWS, 2))
    rows = np.concatenate([left, left + 20, np.full((ROWS, 1), 0.9), np.zeros((ROWS, 1))], axis=1)
    return rows[:, None, :].astype(np.float32)


def box_labels(found: np.ndarray) -> np.ndarray:
    return np.concatenate([found[..., :4], found[..., 5:]], axis=-1)


VECTORS = RANDOM.normal(size=(ROWS, 8)).astype(np.float32)
LEVELS = RANDOM.uniform(0, 9, (ROWS, 2)).astype(np.float32)
BOXES = boxes()
SCORES = np.where(np.arange(ROWS) % 2, 0.9, 0.1)[:, None].astype(np.float32)
Case = tuple[str, tuple[str, ...], np.ndarray, np.ndarray, Any, Any]
CASES: dict[str, Case] = {  # task, classes, answers, labels, a change within what is good and one beyond it
    "regression": ("regression:tolerance=0.5", (), LEVELS, LEVELS, lambda x: x + 0.4, lambda x: x + 0.6),
    "detection": (
        "detection:layout=rows",
        ("cup",),
        BOXES,
        box_labels(BOXES),
        lambda x: x - np.float32([0, 0, 0, 0, 0.2, 0]),
        lambda x: x + np.float32([30, 0, 30, 0, 0, 0]),
    ),
    "embedding": ("embedding", (), VECTORS, np.arange(ROWS) // 2, lambda x: 3 * x, lambda x: -x),
    "anomaly-score": (
        "anomaly-score:threshold=0.5",
        (),
        SCORES,
        np.arange(ROWS) % 2,
        lambda x: 0.5 + 0.5 * (x - 0.5),
        lambda x: 1 - x,
    ),
    "multi-label": (
        "multi-label",
        ("a", "b"),
        np.hstack([SCORES, 1 - SCORES]),
        np.hstack([SCORES, 1 - SCORES]).round().astype(int),
        lambda x: 0.5 + 0.5 * (x - 0.5),
        lambda x: 1 - x,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_gate_reads_agreement_as_the_task_does(name: str) -> None:
    task, classes, answers, y, within, beyond = CASES[name]
    metric = metric_for_task(parse(task), None, classes, y)
    variant = within(answers.copy())
    variant[:OFF] = beyond(answers[:OFF])
    found = judge(metric, {"out": variant}, {"out": answers}, y, cost=COST, reference_cost=COST)
    assert found.agreement == pytest.approx(1 - OFF / ROWS)
    assert Gate(min_agreement=0.75).broken_by(found) == []
    assert Gate(min_agreement=0.9).broken_by(found) == ["agreement is 0.8, at least 0.9 is allowed"]
    near = judge(metric, {"out": within(answers.copy())}, {"out": answers}, y, cost=COST, reference_cost=COST)
    assert near.agreement == pytest.approx(1.0)
