"""The `model-compiler` command as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.commands import call


def run(*arguments: object, expect: int = 0) -> subprocess.CompletedProcess[str]:
    done = call("model-compiler", *arguments)
    assert done.returncode == expect, done.stderr
    return done


def test_help_loads_nothing_heavy():
    heavy = ("torch", "onnx", "litert_torch", "rich.table")
    code = f"import sys, model_compiler.main; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_inspect_shows_a_release_and_notices_a_changed_blob(compiled, tmp_path):
    import shutil

    document = json.loads(run("inspect", compiled.out, "--json").stdout)
    assert next(v["name"] for v in document["manifest"]["variants"]) == "litert-int8"
    copy = tmp_path / "copy"
    shutil.copytree(compiled.out, copy)
    blob = next((copy / "blobs").iterdir())
    blob.write_bytes(blob.read_bytes() + b"x")
    assert "has changed" in run("inspect", copy, expect=1).stderr


@pytest.mark.parametrize("name", ["onnx-fp32", "onnx-int8", "litert-int8", "litert-int8-dynamic", "litert-fp32"])
def test_import_wraps_a_file_unchanged(name, compiled, request_, tmp_path):
    variant = compiled.manifest.variant(name)
    model = tmp_path / f"model.{'onnx' if 'onnx' in name else 'tflite'}"
    model.write_bytes((compiled.out / "blobs" / variant.blob.sha256).read_bytes())
    np.savez(tmp_path / "v.npz", x=request_.validation.x, y=request_.validation.y)
    document = json.loads(
        run("import", model, "--validation", tmp_path / "v.npz", "--out", tmp_path / "r", "--json").stdout
    )
    (imported,) = document["manifest"]["variants"]
    assert imported["blob"]["sha256"] == variant.blob.sha256
    assert imported["name"] == name and imported["precision"] == variant.precision
    assert imported["verdict"]["value"] == pytest.approx(variant.verdict.value)
    report = json.loads((tmp_path / "r" / "report.json").read_bytes())
    assert report["variants"][name]["verdict"]["value"] == imported["verdict"]["value"]


def test_a_model_that_answers_nan_is_not_imported(request_, tmp_path):
    from onnx import TensorProto, helper, save_model

    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["x"], ["f"]),
            helper.make_node("Log", ["f"], ["l"]),
            helper.make_node("Mul", ["l", "l"], ["m"]),
            helper.make_node("Sub", ["m", "m"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 64])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    save_model(made, str(tmp_path / "nan.onnx"))
    np.savez(tmp_path / "v.npz", x=np.zeros((20, 1, 8, 8), np.float32), y=np.zeros(20, int))
    done = run("import", tmp_path / "nan.onnx", "--validation", tmp_path / "v.npz", "--out", tmp_path / "r", expect=1)
    assert "20 of 20 outputs hold NaN" in done.stderr


def test_bad_input_is_one_clear_line_and_nothing_is_written(request_, tmp_path):
    np.savez(tmp_path / "c.npz", x=request_.calibration.x, y=request_.calibration.y)
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    (tmp_path / "broken.tflite").write_bytes(b"\0" * 100)
    for source, word, code in (
        ("broken.onnx", "broken.onnx", 1),
        ("broken.tflite", "identifier is missing", 1),
        ("none.onnx", "No such file", 3),
    ):
        asked = ("import", tmp_path / source, "--validation", tmp_path / "c.npz", "--out", tmp_path / "r")
        done = run(*asked, expect=code)
        assert word in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "r").exists()


def test_external_data_is_refused(tmp_path):
    import onnx
    from onnx import TensorProto, helper

    weight = helper.make_tensor("w", TensorProto.FLOAT, [1, 2], np.ones(2, np.float32).tobytes(), raw=True)
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])],
        [weight],
    )
    path = tmp_path / "outside.onnx"
    onnx.save_model(helper.make_model(graph), str(path), save_as_external_data=True, location="w.bin", size_threshold=0)
    np.savez(tmp_path / "v.npz", x=np.ones((4, 2), np.float32), y=np.zeros(4, int))
    done = run("import", path, "--validation", tmp_path / "v.npz", "--out", tmp_path / "r", expect=1)
    assert "other files" in done.stderr


@pytest.mark.skipif(
    "EDGELOOP_DATA" not in os.environ, reason="set EDGELOOP_DATA to the folder with mlperf_tiny and kws01"
)
@pytest.mark.parametrize(("file", "accuracy"), [("kws_dscnn_int8.tflite", 0.902), ("kws_dscnn_f32.tflite", 0.900)])
def test_keyword_spotting_as_mlperf_tiny_publishes_it(file, accuracy, tmp_path):
    data = Path(os.environ["EDGELOOP_DATA"])
    archive = np.load(data / "kws01" / "kws01_int8_mfcc.npz")
    x = archive["x"]
    if "f32" in file:
        from ai_edge_litert.interpreter import Interpreter

        detail = Interpreter(str(data / "mlperf_tiny" / "kws_dscnn_int8.tflite")).get_input_details()[0]
        scale, zero = detail["quantization"]
        x = ((x.astype(np.float32) - zero) * scale).astype(np.float32)
    np.savez(tmp_path / "v.npz", x=x, y=archive["y"].astype(np.int64))
    done = run(
        "import", data / "mlperf_tiny" / file, "--validation", tmp_path / "v.npz", "--out", tmp_path / "r", "--json"
    )
    (variant,) = json.loads(done.stdout)["manifest"]["variants"]
    assert variant["verdict"]["value"] == pytest.approx(accuracy, abs=5e-4)


def test_a_later_release_carries_patches_from_an_earlier_one(compiled, request_, student, tmp_path):
    import copy
    from dataclasses import replace

    import torch

    from model_compiler.package import delta
    from model_compiler.pipeline import compile_release

    nudged = copy.deepcopy(student)
    with torch.no_grad():
        nudged.dense.bias += 0.05
    later = compile_release(
        replace(
            request_,
            module=nudged,
            cloud=None,
            targets=("litert-int8", "litert-fp32"),
            earlier=(compiled.out,),
            out=tmp_path / "later",
        )
    )
    patches = sorted((later.out / "deltas").glob("*/*"))
    assert patches
    for patch in patches:
        old = (compiled.out / "blobs" / patch.name).read_bytes()
        new = (later.out / "blobs" / patch.parent.name).read_bytes()
        assert delta.apply(old, patch.read_bytes()) == new and patch.stat().st_size < len(new)
    shown = json.loads(run("delta", compiled.out, later.out, "--out", tmp_path / "patch", "--json").stdout)
    assert shown["patch_bytes"] == (tmp_path / "patch").stat().st_size == min(shown["methods"].values())
    assert "bsdiff" in run("delta", compiled.out, later.out, "--variant", "litert-fp32").stdout
    assert "no edge variant" in run("delta", compiled.out, later.out, "--variant", "none", expect=1).stderr
    assert "No such file" in run("delta", tmp_path / "missing", later.out, expect=3).stderr


def test_a_model_that_needs_a_custom_operator_is_refused_by_its_name(compiled, request_, tmp_path):
    from ai_edge_litert import schema_py_generated as schema
    from flatbuffers import Builder
    from onnx import TensorProto, helper

    np.savez(tmp_path / "v.npz", x=request_.validation.x, y=request_.validation.y)
    blob = compiled.manifest.variant("litert-fp32").blob.sha256
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs((compiled.out / "blobs" / blob).read_bytes(), 0))
    model.operatorCodes[0].builtinCode = model.operatorCodes[0].deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    model.operatorCodes[0].customCode = "Whiten"
    builder = Builder(1 << 16)
    builder.Finish(model.Pack(builder), b"TFL3")
    (tmp_path / "custom.tflite").write_bytes(bytes(builder.Output()))
    node = helper.make_node("Whiten", ["x"], ["y"], domain="house.operators")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 1, 8, 8]) for name in "xy"]
    graph = helper.make_graph([node], "g", values[:1], values[1:])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("house.operators", 1)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    (tmp_path / "custom.onnx").write_bytes(made.SerializeToString())
    for name in ("custom.tflite", "custom.onnx"):
        done = run("import", tmp_path / name, "--validation", tmp_path / "v.npz", "--out", tmp_path / "r", expect=1)
        assert "Whiten" in done.stderr and "Traceback" not in done.stderr, done.stderr
        assert len([line for line in done.stderr.splitlines() if line.strip()]) <= 2
    assert not (tmp_path / "r").exists()


def test_data_that_does_not_fit_the_model_is_named(compiled, request_, tmp_path):
    blob = compiled.manifest.variant("onnx-fp32").blob.sha256
    (tmp_path / "m.onnx").write_bytes((compiled.out / "blobs" / blob).read_bytes())
    x, y = request_.validation.x, request_.validation.y
    for arrays, words in (
        ({"x": x[:, :, :7], "y": y}, "has shape [1, 7, 8] per sample, the model takes [1, 8, 8]"),
        ({"x": x, "z": x, "y": y}, "takes 1 inputs, the data has 2"),
        ({"x": x, "y": y + 9}, "labels lie in 9 to 11"),
        ({"x": x[:0], "y": y[:0]}, "more than none"),
    ):
        np.savez(tmp_path / "v.npz", **arrays)
        done = run("import", tmp_path / "m.onnx", "--validation", tmp_path / "v.npz", "--out", tmp_path / "r", expect=1)
        assert words in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "r").exists()
