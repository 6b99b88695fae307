"""Modules of many shapes: several inputs and outputs, inputs by name, integers, either layout, numbers for classes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fleet.protocol.manifest import Gate
from fleet.protocol.task import TaskSpec
from model_compiler import metrics
from model_compiler.build import onnx
from model_compiler.build.targets import TARGETS
from model_compiler.errors import DataError, GateError, SourceError
from model_compiler.inputs import sources
from model_compiler.inputs.dataset import load_dataset, make_dataset
from model_compiler.inputs.release_folder import read_release
from model_compiler.inputs.request import CompileRequest
from model_compiler.pipeline import compile_release
from tests.model_compiler.conftest import answers, stripes


class Heads(nn.Module):
    """Numbers and token ids in, by name and in another order than the data's; three outputs in a dict."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.left = nn.Linear(4, 3)
        self.embed = nn.Embedding(10, 3)
        self.size = nn.Linear(4, 1)

    def forward(self, ids: torch.Tensor, left: torch.Tensor) -> dict[str, torch.Tensor]:
        word = self.embed(ids).mean(dim=1)
        return {"class": 2 * self.left(left) + word, "size": self.size(left), "word": word}


def heads(count: int, seed: int):
    random = np.random.default_rng(seed)
    left = random.normal(size=(count, 4)).astype(np.float32)
    ids = random.integers(0, 10, (count, 5))
    with torch.no_grad():
        y = Heads()(torch.from_numpy(ids), torch.from_numpy(left))["class"].argmax(dim=1).numpy()
    return make_dataset({"left": left, "ids": ids}, y, "heads")


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    request = CompileRequest(
        module=Heads().eval(),
        calibration=heads(60, 1),
        validation=heads(120, 2),
        targets=("litert-fp32", "litert-int8", "litert-int8-dynamic", "onnx-fp32", "onnx-int8"),
        out=tmp_path_factory.mktemp("heads") / "release",
    )
    return compile_release(request)


def test_several_inputs_and_outputs_keep_their_names_and_order(several):
    manifest = read_release(several.out)
    assert [(t.name, t.datatype, t.shape) for t in manifest.inputs] == [
        ("left", "FP32", (-1, 4)),
        ("ids", "INT64", (-1, 5)),
    ]
    assert [(t.name, t.shape) for t in manifest.outputs] == [("class", (-1, 3)), ("size", (-1, 1)), ("word", (-1, 3))]
    assert several.left_out == {} and len(manifest.variants) == 5
    assert manifest.variant("litert-fp32").verdict.value == manifest.variant("onnx-fp32").verdict.value == 1.0
    assert manifest.sketch is not None and set(manifest.selftest.tolerance) == {
        f"{variant.name}:{output.name}" for variant in manifest.variants for output in manifest.outputs
    }
    for variant in manifest.variants:
        assert variant.runtimes and variant.verdict.peak_memory_bytes >= 0 and variant.verdict.load_ms > 0


class Square(nn.Module):
    """Regression: (n, 1, 6, 6) or, by layout, (n, 6, 6, 1)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.dense = nn.Linear(4, 2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.dense(torch.relu(self.conv(image)).mean(dim=(2, 3)))


def squares(count: int, seed: int, *, last: bool = False):
    x = np.random.default_rng(seed).random((count, 2, 6, 6), dtype=np.float32)
    with torch.no_grad():
        y = Square()(torch.from_numpy(x)).numpy()
    return make_dataset({"image": x.transpose(0, 2, 3, 1) if last else x}, y, "squares")


@pytest.mark.parametrize("last", [False, True])
def test_numbers_are_judged_by_their_error_in_either_layout(last, tmp_path):
    request = CompileRequest(
        module=Square().eval(),
        calibration=squares(60, 1, last=last),
        validation=squares(80, 2, last=last),
        targets=("litert-int8", "litert-fp32", "onnx-fp32"),
        channels_last=last,
        out=tmp_path / "release",
    )
    report = compile_release(request)
    manifest = report.manifest
    assert manifest.inputs[0].shape == ((-1, 6, 6, 2) if last else (-1, 2, 6, 6))
    assert manifest.labels == () and manifest.outputs[0].name == "output" and manifest.selftest.min_agreement == 0.0
    for variant in manifest.variants:
        assert variant.deferral is None and variant.verdict.metric == "rmse" and not variant.verdict.higher_is_better
    assert manifest.variant("onnx-fp32").verdict.value < 1e-5
    assert 0.9 < manifest.variant("litert-int8").verdict.agreement < 1.0
    with pytest.raises(GateError, match=r"rmse is .* at most"):
        compile_release(replace(request, gate=Gate(min_metric=1e-9), targets=("litert-int8",), out=tmp_path / "no"))
    model = onnx.export(Square().eval(), torch.zeros(1, 2, 6, 6), inputs=("image",), outputs=("y",))
    again = compile_release(replace(request, module=None, onnx=model, targets=("onnx-fp32",), out=tmp_path / "onnx"))
    assert again.manifest.variants[0].verdict.value < 1e-5


def test_integers_become_floats_only_where_the_model_wants_them(student, request_, tmp_path):
    def whole(data):
        return make_dataset((255 * data.x).astype(np.uint8), data.labels, "bytes")

    data = replace(request_, cloud=None, targets=("litert-fp32",), out=tmp_path / "r")
    made = compile_release(
        replace(data, calibration=whole(request_.calibration), validation=whole(request_.validation))
    )
    assert made.manifest.inputs[0].datatype == "FP32"


def test_an_exported_program_is_a_source(student, request_, tmp_path):
    program = torch.export.export(student, (torch.zeros(1, 1, 8, 8),))
    torch.export.save(program, tmp_path / "student.pt2")
    module = sources.load_torch(str(tmp_path / "student.pt2"), None)
    made = compile_release(
        replace(request_, module=module, cloud=None, targets=("litert-fp32", "onnx-fp32"), out=tmp_path / "r")
    )
    assert made.left_out == {} and made.manifest.variant("onnx-fp32").verdict.value > 0.9


def test_a_size_that_a_program_leaves_open_and_the_release_does_not_is_said(request_, tmp_path):
    class Loud(torch.nn.Module):
        def forward(self, sound):
            return {"scores": torch.stack([sound.mean(1), -sound.mean(1)], 1)}

    sizes = ({0: torch.export.Dim("n"), 1: torch.export.Dim("time", min=2)},)
    program = torch.export.export(Loud().eval(), (torch.zeros(2, 9),), dynamic_shapes=sizes)
    torch.export.save(program, tmp_path / "loud.pt2")
    x = np.random.default_rng(0).normal(size=(60, 9)).astype(np.float32)
    rows = [make_dataset({"sound": part}, (part.mean(1) < 0).astype(int), "loud") for part in (x[:20], x[20:])]
    made = compile_release(
        replace(
            request_,
            module=sources.load_torch(str(tmp_path / "loud.pt2"), None),
            cloud=None,
            labels=("a", "b"),
            targets=("onnx-fp32",),
            calibration=rows[0],
            validation=rows[1],
            out=tmp_path / "r",
            inputs=("noise",),
        )
    )
    assert made.manifest.inputs[0].shape == (-1, 9)
    notes = made.manifest.variant("onnx-fp32").verdict.notes
    said = "input 'noise': the program leaves the size of axis 1 open"
    assert any(said in note and "import" in note for note in notes)


def test_a_module_that_does_not_take_the_data_says_so(request_, tmp_path):
    wrong = make_dataset(np.zeros((4, 5), np.float32), np.zeros(4, int), "wrong")
    other = make_dataset(np.ones((4, 5), np.float32), np.zeros(4, int), "other")
    with pytest.raises(SourceError, match=r"does not run on the data \(x \[1, 5\]\)"):
        compile_release(replace(request_, calibration=other, validation=wrong, cloud=None, out=tmp_path / "r"))
    with pytest.raises(DataError, match="needs an input of shape"):
        compile_release(
            replace(request_, calibration=other, validation=wrong, channels_last=True, cloud=None, out=tmp_path / "r")
        )
    assert list(tmp_path.iterdir()) == []


def test_calibration_needs_no_labels_and_validation_does(tmp_path):
    np.savez(tmp_path / "c.npz", left=np.zeros((3, 2)), right=np.zeros((3, 4), int))
    data = load_dataset(tmp_path / "c.npz", labelled=False)
    assert data.shapes() == {"left": (2,), "right": (4,)} and data.y is None
    with pytest.raises(DataError, match="y"):
        load_dataset(tmp_path / "c.npz")


def test_class_names_in_the_data_are_read_as_the_labels_say(request_, tmp_path):
    np.savez(tmp_path / "v.npz", x=np.zeros((3, 2), np.float32), y=np.array(["top", "low", "top"]))
    named = load_dataset(tmp_path / "v.npz")
    asked = replace(request_, validation=named, labels=("low", "top"))
    assert asked.numbered().validation.labels.tolist() == [1, 0, 1]
    assert asked.numbered().calibration is not None
    with pytest.raises(DataError, match="'low', which is none of the classes mid, top") as refused:
        replace(asked, labels=("mid", "top")).numbered()
    assert "--labels" in refused.value.hint
    faces = replace(asked, task=TaskSpec(name="embedding"))  # rows with the same text belong together
    assert faces.numbered() is faces and replace(asked, labels=()).numbered().validation is named


def test_the_same_inputs_give_the_same_bytes(request_, tmp_path):
    """Measured figures come from where they were kept: docs/adr/0010."""
    kept = replace(request_, measurements=tmp_path / "kept")
    first, second = (compile_release(replace(kept, out=tmp_path / name)).out for name in ("one", "two"))
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(second) for path in second.rglob("*") if path.is_file())
    assert {"manifest.json", "report.json", "report.html"} <= {str(path) for path in files}
    for path in files:
        assert (first / path).read_bytes() == (second / path).read_bytes(), path


def test_the_report_page_stands_alone(compiled):
    page = (compiled.out / "report.html").read_text("utf-8")
    assert "http://" not in page.replace("http://www.w3.org", "") and "<script" not in page and "src=" not in page
    for variant in compiled.manifest.variants:
        assert variant.name in page
    report = json.loads((compiled.out / "report.json").read_bytes())
    assert set(report["variants"]) == {v.name for v in compiled.manifest.variants}
    assert report["lineage"]["tools"]["onnxruntime"] and report["metric"] == "accuracy"


def test_a_runtime_that_refuses_a_variant_is_not_claimed(compiled, request_, tmp_path, monkeypatch):
    """One more place whose runtime always refuses: a python without the model's runtime."""
    from model_compiler.package import preflight

    crash = tmp_path / "python"
    crash.write_text("#!/bin/sh\nkill -SEGV $$\n")
    crash.chmod(0o755)
    real = preflight.places()
    broken = preflight.InstalledRuntime(python=str(crash), runtime="tflite-runtime", kind="litert")
    monkeypatch.setattr(preflight, "places", lambda pythons=(): (*real, broken))
    made = compile_release(replace(request_, cloud=None, targets=("litert-fp32",), out=tmp_path / "r"))
    assert made.manifest.variants[0].runtimes == ("ai-edge-litert",)
    entry = made.document["variants"]["litert-fp32"]
    assert entry["refused"] == {"tflite-runtime": "crashed with signal 11"}


def test_every_target_has_a_way_to_be_built():
    assert set(TARGETS) == {"litert-fp32", "litert-int8", "litert-int8-dynamic", "onnx-fp32", "onnx-int8"}
    assert metrics.default(np.zeros((3, 2))).name == "rmse" and metrics.default(np.zeros(3, int)).name == "accuracy"


def test_an_onnx_source_answers_as_it_did(teacher, request_, tmp_path: Path):
    made = compile_release(
        replace(
            request_,
            module=None,
            onnx=teacher,
            cloud=None,
            targets=("onnx-fp32", "onnx-int8", "litert-fp32"),
            out=tmp_path / "r",
        )
    )
    assert "ONNX source cannot become a LiteRT model" in made.left_out["litert-fp32"]
    found = answers("onnx-fp32", "onnx", teacher, stripes(20, 8).x)
    blob = made.manifest.variant("onnx-fp32").blob.sha256
    again = answers("onnx-fp32", "onnx", (made.out / "blobs" / blob).read_bytes(), stripes(20, 8).x)
    np.testing.assert_array_equal(found, again)


def test_the_memory_of_the_data_is_not_counted_as_the_models(compiled, request_):
    from model_compiler.running import runner

    variant = compiled.manifest.variant("litert-int8")
    model = (compiled.out / "blobs" / variant.blob.sha256).read_bytes()
    few, many = request_.validation.take(slice(4)), np.repeat(request_.validation.x, 200, axis=0)
    small = runner.run("litert-int8", "litert", model, few).profile.peak_memory_bytes
    large = runner.run("litert-int8", "litert", model, make_dataset(many, None, "many")).profile.peak_memory_bytes
    assert many.nbytes > 10e6 and large < small + many.nbytes / 4
