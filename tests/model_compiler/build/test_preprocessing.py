"""Models behind preprocessing steps: built from what the steps make, and measured through them."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from fleet import runtimes
from fleet.protocol.drift_encoder import decode_encoder
from fleet.protocol.interface import interface_of
from fleet.protocol.manifest import Manifest, Tensor
from fleet.protocol.steps import AnyStep, Concat, Impute, Normalise, OneHot
from model_compiler.build import onnx
from model_compiler.build.prepared import prepare
from model_compiler.errors import CompilerError, DataError, InterfaceError
from model_compiler.evaluate import tasking
from model_compiler.importing import import_release
from model_compiler.inputs.dataset import Dataset, make_dataset
from model_compiler.inputs.preprocessing import read_steps
from model_compiler.inputs.release_folder import read_release
from model_compiler.inputs.request import CompileRequest
from model_compiler.main import app
from model_compiler.pipeline import compile_release
from model_compiler.report.document import CompileReport

STEPS: tuple[AnyStep, ...] = (
    Impute(input="sensors", value=(300.0, 1500.0)),
    Normalise(input="sensors", mean=(300.0, 1500.0), std=(2.0, 180.0)),
    OneHot(input="type", vocabulary=("H", "L")),
    Concat(inputs=("sensors", "type"), output="features"),
)
KINDS = ("impute sensors", "normalise sensors", "one-hot type", "concat sensors, type")


class Wear(nn.Module):
    """A table of four columns to two classes."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)
        with torch.no_grad():
            self.linear.weight.copy_(torch.tensor([[1.0, -1.0, 0.5, 0.0], [-1.0, 1.0, 0.0, 0.5]]))
            self.linear.bias.zero_()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.linear(features)


def machines(count: int, seed: int) -> Dataset:
    """Readings with gaps and a kind in words, labelled as the table says once it is filled in and scaled."""
    random = np.random.default_rng(seed)
    sensors = random.normal((300, 1500), (2, 180), (count, 2)).astype(np.float32)
    kinds = random.choice(["H", "L"], count)
    sensors[random.random(count) < 0.1, 0] = np.nan
    scaled = (np.where(np.isnan(sensors), (300, 1500), sensors) - (300, 1500)) / (2, 180)
    features = np.hstack([scaled, (kinds[:, None] == np.array(["H", "L"]))]).astype(np.float32)
    with torch.no_grad():
        y = Wear()(torch.from_numpy(features)).argmax(dim=1).numpy()
    return make_dataset({"sensors": sensors, "type": kinds}, y, "machines", non_finite=("sensors",))


@cache
def file_of() -> bytes:
    return onnx.export(Wear().eval(), torch.zeros(1, 4), inputs=("features",), outputs=("scores",))


def asked(out: Path, **changes: object) -> CompileRequest:
    request = CompileRequest(
        module=Wear().eval(),
        cloud=file_of(),
        calibration=machines(60, 1),
        validation=machines(120, 2),
        targets=("onnx-int8", "onnx-fp32"),
        labels=("worn", "fine"),
        preprocess=STEPS,
        out=out,
    )
    return replace(request, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> CompileReport:
    return compile_release(asked(tmp_path_factory.mktemp("machines") / "release"))


def answers(report: CompileReport, name: str, data: Dataset) -> np.ndarray:
    """A variant's answers to the inputs of applications, as device and hub load it."""
    variant = report.manifest.variant(name)
    file = (report.out / "blobs" / variant.blob.sha256).read_bytes()
    model = runtimes.load_release(runtimes.best(variant.runtime), file, report.manifest)
    return model.run(dict(data.inputs))[report.manifest.outputs[0].name]


def test_the_release_takes_what_applications_send(compiled: CompileReport) -> None:
    manifest = compiled.manifest
    assert manifest.inputs == (
        Tensor(name="sensors", datatype="FP32", shape=(-1, 2), finite=False),
        Tensor(name="type", datatype="BYTES", shape=(-1,)),
    )
    assert manifest.steps == STEPS and interface_of(manifest).preprocess == KINDS
    assert manifest.ready == (Tensor(name="features", datatype="FP32", shape=(-1, 4)),)
    assert set(manifest.requires) >= {"step:impute", "step:normalise", "step:one-hot", "step:concat"}


@pytest.mark.parametrize("name", ["onnx-fp32", "onnx-int8", "cloud-onnx-fp32"])
def test_asking_the_release_reproduces_its_verdict(compiled: CompileReport, name: str) -> None:
    data = machines(120, 2)
    right = float(np.mean(answers(compiled, name, data).argmax(axis=1) == data.labels))
    assert right == compiled.manifest.variant(name).verdict.value
    assert right == 1.0 or name == "onnx-int8"


def test_each_variant_passed_the_agents_own_self_test(compiled: CompileReport) -> None:
    assert all(variant.runtimes == ("onnxruntime",) for variant in compiled.manifest.variants)


def test_a_retrain_may_fit_other_constants_and_no_other_kinds(compiled: CompileReport, tmp_path: Path) -> None:
    fixed = asked(tmp_path / "release", interface=interface_of(compiled.manifest), targets=("onnx-fp32",), cloud=None)
    other = (STEPS[0], Normalise(input="sensors", mean=(301.0, 1490.0), std=(2.0,)), *STEPS[2:])
    assert compile_release(replace(fixed, preprocess=other)).manifest.steps == other
    for steps in ((*STEPS[:2], *STEPS[:1], *STEPS[2:]), (STEPS[0], STEPS[2], STEPS[3])):
        with pytest.raises(InterfaceError, match="preprocessing is impute sensors; normalise sensors"):
            compile_release(replace(fixed, preprocess=steps))
    with pytest.raises(InterfaceError, match="this has none"):
        compile_release(replace(fixed, preprocess=()))


def test_other_raw_inputs_than_the_models_are_refused_before_anything_is_built(
    compiled: CompileReport, tmp_path: Path
) -> None:
    interface = interface_of(compiled.manifest)
    wide = (msgspec.structs.replace(interface.inputs[0], datatype="INT32"), interface.inputs[1])
    fixed = msgspec.structs.replace(interface, inputs=wide)
    with pytest.raises(InterfaceError, match=r"sensors INT32 \[-1, 2\] or NaN"):
        compile_release(asked(tmp_path / "release", interface=fixed))


def test_raw_inputs_have_the_precision_that_applications_send(compiled: CompileReport, tmp_path: Path) -> None:
    interface = interface_of(compiled.manifest)
    wide = (msgspec.structs.replace(interface.inputs[0], datatype="FP64"), interface.inputs[1])
    request = asked(tmp_path / "release", interface=msgspec.structs.replace(interface, inputs=wide))
    made = prepare(request, tasking.metric_of(request))
    assert made.asked.validation.inputs["sensors"].dtype == np.float64


def test_a_value_that_no_step_can_take_is_said_with_its_place(tmp_path: Path) -> None:
    data = machines(20, 3)
    data.inputs["type"][7] = b"M"
    with pytest.raises(DataError, match=r"input 'type' is 'M' at \[7\]"):
        compile_release(asked(tmp_path / "release", calibration=data))


def test_an_existing_file_is_wrapped_with_its_steps(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(file_of())
    request = asked(tmp_path / "release", module=None, cloud=None, targets=())
    report = import_release(file, request)
    data = machines(120, 2)
    assert report.manifest.variants[0].verdict.value == 1.0
    assert (answers(report, "onnx-fp32", data).argmax(axis=1) == data.labels).all()


def test_a_lone_input_without_a_name_is_called_as_the_steps_call_it_and_drift_is_watched_raw(tmp_path: Path) -> None:
    random = np.random.default_rng(0)

    def table(count: int) -> Dataset:
        x = random.normal(50, 9, (count, 4)).astype(np.float32)
        return make_dataset(x, (x[:, 0] > x[:, 1]).astype(int), "table")

    steps = (Normalise(input="readings", mean=(50.0,), std=(9.0,)),)
    report = compile_release(
        CompileRequest(
            module=Wear().eval(),
            calibration=table(40),
            validation=table(60),
            targets=("onnx-fp32",),
            preprocess=steps,
            out=tmp_path / "release",
        )
    )
    assert [tensor.name for tensor in report.manifest.inputs] == ["readings"]
    assert report.manifest.sketch is not None
    encoder = decode_encoder((report.out / "blobs" / report.manifest.sketch.encoder.sha256).read_bytes())
    assert encoder.tensor == "readings" and np.frombuffer(encoder.mean, "<f4").mean() > 40


def test_the_command_line_takes_steps_and_keeps_them(tmp_path: Path) -> None:
    (tmp_path / "steps.json").write_bytes(msgspec.json.encode(STEPS))
    file = tmp_path / "model.onnx"
    file.write_bytes(file_of())
    data = machines(80, 5)
    words = data.inputs["type"].astype("U1")
    np.savez(tmp_path / "test.npz", sensors=data.inputs["sensors"], type=words, y=data.labels)

    def run(out: str, *more: str) -> Manifest:
        command = ["import", str(file), "--validation", str(tmp_path / "test.npz"), "--out", str(tmp_path / out), *more]
        done = CliRunner().invoke(app, [*command, "--json", "--measurements", str(tmp_path / "kept")])
        assert done.exit_code == 0, done.output
        return read_release(tmp_path / out)

    first = run("one", "--preprocess", str(tmp_path / "steps.json"))
    assert first.steps == STEPS
    assert run("two", "--like", str(tmp_path / "one")).steps == STEPS


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([{"kind": "normalise", "input": "x"}], "step normalise of x has no constants"),
        ([{"kind": "fourier", "input": "x"}], "Invalid value 'fourier'"),
        ({"kind": "scale"}, "not a list of preprocessing steps"),
        ([{"kind": "scale", "input": "x", "factor": "1", "offset": [0]}], r"\$\[0\]\.factor"),
    ],
)
def test_a_file_that_holds_no_steps_is_refused_in_words(document: object, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_steps(json.dumps(document).encode(), "steps.json")
    assert issubclass(DataError, CompilerError)
