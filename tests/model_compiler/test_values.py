"""Values beyond plain numbers: NaN and infinity where a model means them, text, and outputs in another order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.runtimes import selftest
from fleet.protocol.finite import CAPABILITY
from fleet.protocol.manifest import Manifest, decode_manifest
from fleet.protocol.sketch import decode_sketch
from model_compiler import metrics
from model_compiler.build.artifacts import CLOUD, Artifact
from model_compiler.build.targets import TARGETS
from model_compiler.errors import TargetError
from model_compiler.evaluate import judging
from model_compiler.inputs.dataset import make_dataset
from tests.model_compiler.test_command import run
from tests.support import any_model
from tests.support.any_model import onnx_file

SUM = onnx_file(
    [("Add", ["torque", "speed"], ["sum"], {})],
    {name: ("FP32", ["n", 3]) for name in ("torque", "speed")},
    {"sum": ("FP32", ["n", 3])},
)
X = np.abs(np.random.default_rng(0).normal(size=(40, 2))).astype(np.float32)


def imported(tmp_path: Path, file: bytes, data: dict[str, Any], *options: str, expect: int = 0) -> Any:
    (tmp_path / "model.onnx").write_bytes(file)
    np.savez(tmp_path / "v.npz", **data)
    return run(
        "import",
        tmp_path / "model.onnx",
        "--validation",
        tmp_path / "v.npz",
        "--out",
        tmp_path / "r",
        "--metric",
        "exact",
        *options,
        expect=expect,
    )


def manifest(tmp_path: Path) -> Manifest:
    found = decode_manifest((tmp_path / "r" / "manifest.json").read_bytes())
    assert selftest.run(found, found.variants[0].name, tmp_path / "r" / "blobs").passed
    return found


def test_a_model_that_means_infinity_is_packed_when_that_is_said(tmp_path: Path) -> None:
    x = X.copy()
    x[::4, 0] = 0
    with np.errstate(divide="ignore"):
        data = {"x": x, "y": np.log(x)}
    refused = imported(tmp_path, any_model.logarithm(), data, expect=1)
    assert "NaN or infinite values in 10 of 40 rows, the first in row 0" in refused.stderr
    assert "--non-finite NAME" in refused.stderr
    imported(tmp_path, any_model.logarithm(), data, "--non-finite", "logits", expect=1)
    imported(tmp_path, any_model.logarithm(), data, "--non-finite", "y")
    made = manifest(tmp_path)
    assert [tensor.finite for tensor in (*made.inputs, *made.outputs)] == [True, False]
    assert made.requires == (CAPABILITY,)  # an agent of 0.1 would fail the self-test
    assert made.variants[0].verdict.value > 0.5


def test_a_model_that_answers_infinity_without_saying_so_is_not_packed(tmp_path: Path) -> None:
    x = X.copy()
    x[::4, 0] = 0
    refused = imported(tmp_path, any_model.logarithm(), {"x": x, "y": x}, expect=1)
    assert "10 of 40 outputs hold NaN or infinity in 'y'" in refused.stderr
    assert "try: a model that means them: --non-finite y" in refused.stderr


def test_missing_values_may_be_nan_where_the_model_takes_them(tmp_path: Path) -> None:
    nodes = [("IsNaN", ["x"], ["gone"], {}), ("Where", ["gone", "zero", "x"], ["y"], {})]
    shape = ("FP32", ["n", 2])
    file = onnx_file(nodes, {"x": shape}, {"y": shape}, {"zero": np.zeros(1, np.float32)})
    x = X.copy()
    x[::3, 1] = np.nan
    said = imported(tmp_path, file, {"x": x, "y": np.nan_to_num(x)}, "--non-finite", "x").stdout
    made = manifest(tmp_path)
    assert "drift:" not in said and made.sketch is not None
    assert [tensor.finite for tensor in (*made.inputs, *made.outputs)] == [False, True]
    assert made.requires == ("sketch-gaps",)
    assert made.variants[0].verdict.value == 1.0


def test_an_unknown_name_is_said_with_those_there_are(tmp_path: Path) -> None:
    refused = imported(tmp_path, any_model.logarithm(), {"x": X, "y": np.log(X)}, "--non-finite", "scores", expect=1)
    assert "no input or output 'scores' that may be non-finite; there are x, y" in refused.stderr


def test_a_model_of_text_is_measured_on_text(tmp_path: Path) -> None:
    text = ("BYTES", ["n"])
    file = onnx_file([("Identity", ["x"], ["y"], {})], {"x": text}, {"y": text})
    words = np.array([f"Grüße {k}" for k in range(20)])
    said = imported(tmp_path, file, {"x": words, "y": words}).stdout
    made = manifest(tmp_path)
    assert made.sketch is not None and "drift:" not in said
    assert [(t.datatype, t.shape) for t in (*made.inputs, *made.outputs)] == [("BYTES", (-1,))] * 2
    assert made.variants[0].verdict.value == 1.0
    assert json.loads((tmp_path / "r" / "report.json").read_bytes())["metric"] == "exact"


def difference(*, inputs: str, outputs: tuple[str, str]) -> bytes:
    shape = ("FP32", ["n", 2])
    nodes = [("Sub", ["a", "b"], ["minus"], {}), ("Add", ["a", "b"], ["plus"], {})]
    return onnx_file(nodes, dict.fromkeys(inputs, shape), dict.fromkeys(outputs, shape))


def ran(cloud: bytes) -> Any:
    data = make_dataset({"a": X, "b": X[::-1]}, X - X[::-1], "set")
    edge = difference(inputs="ab", outputs=("minus", "plus"))
    artifacts = [
        Artifact("onnx-fp32", TARGETS["onnx-fp32"], "edge", edge),
        Artifact(CLOUD, TARGETS["onnx-fp32"], "cloud", cloud),
    ]
    found, _ = judging.run(artifacts, data, ("minus", "plus"), metrics.parse("rmse"))
    return [item.outputs for item in found]


def test_what_was_quantized_of_a_model_that_answers_nan_is_no_variant() -> None:
    """Integers have no NaN: it would be judged against itself, and pass."""
    data = make_dataset({"x": X - 10}, X, "set")
    shape = ("FP32", ["n", 2])
    whole = onnx_file([("Identity", ["x"], ["y"], {})], {"x": shape}, {"y": shape})
    artifacts = [
        Artifact(name, TARGETS[name], "edge", file)
        for name, file in (("onnx-fp32", any_model.logarithm()), ("onnx-int8", whole))
    ]
    with pytest.raises(TargetError, match=r"onnx-int8: onnx-fp32, which it was made from, answers NaN"):
        judging.run(artifacts, data, ("y",), metrics.parse("rmse"))


def test_a_cloud_variant_is_judged_by_name_whatever_its_order() -> None:
    """By position it would have been judged well and served wrong, or the other way round."""
    edge, cloud = ran(difference(inputs="ba", outputs=("plus", "minus")))
    assert list(edge) == list(cloud) == ["minus", "plus"]
    for name, values in edge.items():
        np.testing.assert_array_equal(values, cloud[name])


@pytest.mark.parametrize(
    ("renamed", "words"),
    [
        ({"a": "left", "b": "right"}, r"the manifest's inputs are not the model file's \(a, b\).*\(left, right\)"),
        ({"minus": "less"}, "its outputs are less, plus; the release's are minus, plus"),
    ],
)
def test_a_cloud_variant_of_other_names_is_refused_with_both_sides(renamed: dict[str, str], words: str) -> None:
    import onnx

    model = onnx.load_from_string(difference(inputs="ab", outputs=("minus", "plus")))
    for value in (*model.graph.input, *model.graph.output):
        value.name = renamed.get(value.name, value.name)
    for node in model.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    with pytest.raises(TargetError, match=words):
        ran(model.SerializeToString())


def test_an_input_that_may_hold_nan_is_watched_by_what_is_there(tmp_path: Path) -> None:
    x = X.copy()
    x[::2, 0] = np.nan
    imported(tmp_path, any_model.logarithm(), {"x": x, "y": np.log(x)}, "--non-finite", "x", "--non-finite", "y")
    made = manifest(tmp_path)
    assert "sketch-gaps" in made.requires  # agents that leave rows with NaN out are not offered it
    assert made.sketch is not None
    blob = (tmp_path / "r" / "blobs" / made.sketch.reference.sha256).read_bytes()
    assert decode_sketch(blob).count == len(X) // 2  # of all calibration rows


@pytest.mark.parametrize(("watch", "words"), [("speed", "watched on speed; of torque only"), ("", "watched on torque")])
def test_which_of_several_inputs_drift_is_watched_on_is_chosen_and_said(tmp_path: Path, watch: str, words: str) -> None:
    (tmp_path / "model.onnx").write_bytes(SUM)
    random = np.random.default_rng(0)
    torque, speed = random.normal(size=(2, 40, 3)).astype(np.float32)
    np.savez(tmp_path / "v.npz", torque=torque, speed=speed, y=torque + speed)
    asked = ["--watch", watch] if watch else []
    base = ["import", tmp_path / "model.onnx", "--validation", tmp_path / "v.npz", "--metric", "rmse"]
    assert words in run(*base, "--out", tmp_path / "r", *asked, expect=0).stdout
    assert "no input 'wear' to watch" in run(*base, "--out", tmp_path / "s", "--watch", "wear", expect=1).stderr
    other = ["--extends", tmp_path / "r", "--watch", "torque" if watch else "speed"]
    assert "and stays so" in run(*base, "--out", tmp_path / "t", *other, expect=1).stderr


def test_a_cloud_variant_that_is_the_edge_s_own_file_is_said_to_be_no_auditor(tmp_path: Path) -> None:
    x = X + np.float32(1)
    (tmp_path / "cloud.onnx").write_bytes(any_model.logarithm())
    told = imported(tmp_path, any_model.logarithm(), {"x": x, "y": np.log(x)}, "--cloud", str(tmp_path / "cloud.onnx"))
    assert "cloud-onnx-fp32 is the same file as onnx-fp32" in told.stdout
    (tmp_path / "cloud.onnx").write_bytes(any_model.logarithm(rows="m"))
    told = run(
        "import",
        tmp_path / "model.onnx",
        "--validation",
        tmp_path / "v.npz",
        "--out",
        tmp_path / "s",
        "--metric",
        "rmse",
        "--cloud",
        tmp_path / "cloud.onnx",
    )
    assert "same file" not in told.stdout
    assert "cloud-onnx-fp32 answers as the float model of the files for devices does" in told.stdout
    (cloud,) = decode_manifest((tmp_path / "s" / "manifest.json").read_bytes()).placed("cloud")
    assert cloud.twin is True
