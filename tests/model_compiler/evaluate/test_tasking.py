"""A release names its task: on the command line, from an earlier release, and in what agents must know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent import CAPABILITIES
from edge_agent.runtimes import selftest
from fleet import tasks
from fleet.protocol.manifest import Manifest, decode_manifest
from fleet.protocol.task import TaskSpec
from model_compiler.errors import CompilerError
from model_compiler.evaluate.tasking import parse
from tests.model_compiler.test_command import run
from tests.support.any_model import onnx_file

X = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
NAMES = "--labels", "red,green,blue"


def linear(width: int) -> bytes:
    """`y` = `x` times a fixed table of `width` columns."""
    weights = np.eye(3, dtype=np.float32)[:, :width]
    return onnx_file(
        [("MatMul", ["x", "w"], ["y"], {})], {"x": ("FP32", ["n", 3])}, {"y": ("FP32", ["n", width])}, {"w": weights}
    )


def imported(folder: Path, width: int, y: np.ndarray, *options: Any, expect: int = 0, out: str = "r") -> Any:
    (folder / "model.onnx").write_bytes(linear(width))
    np.savez(folder / "v.npz", x=X, y=y)
    return run(
        "import",
        folder / "model.onnx",
        "--validation",
        folder / "v.npz",
        "--out",
        folder / out,
        *options,
        expect=expect,
    )


def manifest(folder: Path, out: str = "r") -> Manifest:
    found = decode_manifest((folder / out / "manifest.json").read_bytes(), frozenset(CAPABILITIES))
    assert selftest.run(found, found.variants[0].name, folder / out / "blobs").passed
    return found


CASES = [
    ("regression:tolerance=0.5,low=-9", 1, X[:, :1], (), "rmse", "regression"),
    ("anomaly-score:threshold=1.5", 1, (X[:, 0] > 1).astype(np.int64), (), "auc", "anomaly-score"),
    ("multi-label:logits=true", 3, (X >= 0).astype(np.int64), NAMES, "f1", "multi-label"),
    ("embedding", 3, X, (), "cosine", "embedding"),
    ("custom:agreement=cosine", 3, X, ("--metric", "rmse"), "rmse", "custom"),
]


@pytest.mark.parametrize(("text", "width", "y", "options", "metric", "name"), CASES, ids=[c[-1] for c in CASES])
def test_a_task_is_measured_and_named(
    tmp_path: Path, text: str, width: int, y: np.ndarray, options: tuple[str, ...], metric: str, name: str
) -> None:
    imported(tmp_path, width, y, "--task", text, *options)
    made = manifest(tmp_path)
    tasks.check_task(made)
    verdict = made.variants[0].verdict
    assert (made.named_task, made.requires) == (parse(text), (f"task:{name}",))
    assert (verdict.metric, verdict.agreement) == (metric, 1.0)
    assert verdict.value == pytest.approx(0.0 if metric == "rmse" else 1.0, abs=0.05 if metric == "auc" else 1e-6)
    imported(tmp_path, width, y, "--like", tmp_path / "r", *options[2 * (name == "multi-label") :], out="again")
    assert manifest(tmp_path, "again").named_task == made.named_task, "an earlier release gives the task, too"
    refused = imported(tmp_path, width, y, "--like", tmp_path / "r", "--task", "regression:tolerance=9", expect=1)
    assert f"the model's task is {name}" in refused.stderr


def test_a_classification_is_written_as_agents_of_0_1_read_it(tmp_path: Path) -> None:
    y = X.argmax(axis=1)
    imported(tmp_path, 3, y, "--task", "classification", *NAMES)
    imported(tmp_path, 3, y, *NAMES, out="plain")
    assert b'"task"' not in (tmp_path / "r" / "manifest.json").read_bytes()
    assert manifest(tmp_path).requires == manifest(tmp_path, "plain").requires == ()


REFUSED = [
    ("telepathy", 3, X, "there is no task 'telepathy'"),
    ("regression:tollerance=1", 3, X, "'tollerance=1' is no setting"),
    ("regression:tolerance=near", 3, X, "--task"),
    ("regression", 3, X, "needs a tolerance"),
    ("multi-label", 3, (X >= 0).astype(np.int64), "needs class names"),
    ("multi-label", 3, X, "of 0 and 1"),
    ("anomaly-score:threshold=1", 3, X.argmax(axis=1), "has an output of"),
    ("detection", 3, X, "needs class names"),
]


@pytest.mark.parametrize(("text", "width", "y", "why"), REFUSED)
def test_what_does_not_fit_is_refused_in_words(tmp_path: Path, text: str, width: int, y: np.ndarray, why: str) -> None:
    refused = imported(tmp_path, width, y, "--task", text, expect=1)
    assert why in refused.stderr and "try: " in refused.stderr and not (tmp_path / "r").exists()


def test_settings_are_read_from_the_command_line() -> None:
    assert parse("detection:layout=grid,box=cxcywh,iou=0.6") == TaskSpec(
        name="detection", layout="grid", box="cxcywh", iou=0.6
    )
    with pytest.raises(CompilerError):
        parse("regression:name=other")


METRIC = """
import numpy as np
def found(outputs, y):
    return float(np.mean((outputs["boxes"][:, :, 4] >= 0.5).sum(axis=1) == y))
"""


def test_a_detector_is_measured_by_its_own_metric_and_compared_by_its_boxes(tmp_path: Path) -> None:
    """Two boxes for each input, (n, 2, 6); its output is told to hold rows."""
    file = onnx_file(
        [("MatMul", ["x", "w"], ["flat"], {}), ("Reshape", ["flat", "shape"], ["boxes"], {})],
        {"x": ("FP32", ["n", 3])},
        {"boxes": ("FP32", ["n", 2, 6])},
        {"w": np.ones((3, 12), np.float32) / 3, "shape": np.array([-1, 2, 6], np.int64)},
    )
    (tmp_path / "model.onnx").write_bytes(file)
    (tmp_path / "m.py").write_text(METRIC)
    np.savez(tmp_path / "v.npz", x=np.abs(X), y=2 * (np.abs(X).mean(axis=1) >= 0.5))
    run(
        "import",
        tmp_path / "model.onnx",
        "--validation",
        tmp_path / "v.npz",
        "--out",
        tmp_path / "r",
        "--labels",
        "cup,plate",
        "--metric",
        f"{tmp_path / 'm.py'}:found",
        "--task",
        "detection:threshold=0.5",
    )
    made = manifest(tmp_path)
    verdict = made.variants[0].verdict
    assert (made.requires, made.labels, verdict.agreement) == (("task:detection",), ("cup", "plate"), 1.0)
    assert verdict.value > 0.95
