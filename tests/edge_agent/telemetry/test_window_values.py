"""Windows of models whose answers are numbers carry their quantiles, and stay within a message."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_agent.in_process.records import LocalRecord
from edge_agent.ports import InstalledRelease
from edge_agent.serving.scores import score, score_later
from edge_agent.telemetry.values import WAITING
from edge_agent.telemetry.windows import Builder, Key
from fleet.protocol.codec import decode_msgpack, encode_msgpack
from fleet.protocol.manifest import Tensor, decode_manifest
from fleet.protocol.messages import TELEMETRY_LIMIT
from fleet.protocol.quantiles import quantiles
from fleet.protocol.task import TaskSpec
from fleet.protocol.telemetry import VALUES, Window
from tests.support.manifests import small_release

KEY = Key("tide", 1, "litert-int8", 1)


def release(task: TaskSpec, width: int, labels: tuple[str, ...] = ()) -> InstalledRelease:
    outputs = (Tensor(name="out", datatype="FP32", shape=(-1, width)),)
    data, _ = small_release(outputs=outputs, labels=labels, task=task, requires=(f"task:{task.name}",))
    manifest = decode_manifest(data)
    return InstalledRelease(model="m", number=1, manifest=manifest, variant=manifest.variants[0], blobs=Path())


def test_what_the_task_summarises_is_what_a_window_carries() -> None:
    table = np.array([[1.0], [2.0], [4.0]], np.float32)
    regression = release(TaskSpec(name="regression", tolerance=1.0), 1)
    for scores in (score(regression, {"out": table}), score_later(regression, {"out": table}).get()):
        assert scores.values == ((1.0,), (2.0,), (4.0,)) and scores.classes == ()
    anomaly = release(TaskSpec(name="anomaly-score", threshold=3.0), 1)
    assert score(anomaly, {"out": table}).values == ((1.0,), (2.0,), (4.0,))
    wide = np.arange(6.0, dtype=np.float32).reshape(2, 3)
    for name in ("classification", "multi-label", "embedding"):
        labels = () if name == "embedding" else ("a", "b", "c")
        assert score(release(TaskSpec(name=name), 3, labels), {"out": wide}).values == ()


def test_a_window_says_what_was_answered_value_by_value() -> None:
    builder, rng = Builder(KEY, 0.0, 0, None), np.random.default_rng(0)
    answers = rng.normal((0.0, 300.0), (1.0, 0.01), (2 * WAITING + 7, 2))
    for row in answers:
        builder.request(0.001, ("edge",))
        builder.scores((), (), (tuple(row.tolist()),))
    first, second = decode_msgpack(encode_msgpack(builder.close(60.0)), Window, limit=TELEMETRY_LIMIT).values
    for place, found in enumerate((first, second)):
        assert sum(found.weights) == len(answers)
        wanted = np.quantile(answers[:, place], (0.05, 0.5, 0.95))
        assert quantiles(found, (0.05, 0.5, 0.95)) == pytest.approx(wanted, abs=0.05 * (1.0, 0.01)[place])


def test_many_values_stay_within_a_message() -> None:
    builder, rng = Builder(KEY, 0.0, 0, None), np.random.default_rng(0)
    builder.request(0.001, ("edge",))
    width = release(TaskSpec(name="regression", tolerance=1.0), 1000)
    builder.scores((), (), score(width, {"out": rng.normal(size=(500, 1000)).astype(np.float32)}).values)
    window = builder.close(60.0)
    assert len(window.values) == VALUES and len(encode_msgpack(window)) < TELEMETRY_LIMIT // 2


def test_a_value_that_is_no_number_is_left_out() -> None:
    builder = Builder(KEY, 0.0, 0, None)
    builder.scores((), (), ((float("nan"), 1.0), (float("inf"), 3.0)))
    nothing, found = builder.close(1.0).values
    assert nothing.means == () and found.means == (1.0, 3.0)


def test_an_agent_reads_local_records_of_applications_that_send_none() -> None:
    old = {"model": "m", "release": 1, "variant": "v", "latency_s": 0.1, "confidence": [0.5], "classes": [1]}
    assert decode_msgpack(encode_msgpack(old), LocalRecord, limit=1000).values == ()
