"""Published models on their own data: what the compiler says of them is what is known of them.

Needs a folder of data sets, named by EDGELOOP_DATA; see docs/compiler.md for what is expected in it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from fleet.protocol.manifest import Gate
from model_compiler import metrics
from model_compiler.importing import import_release
from model_compiler.inputs.dataset import Dataset, make_dataset
from model_compiler.inputs.request import CompileRequest
from model_compiler.report.document import CompileReport

pytestmark = pytest.mark.skipif(
    "EDGELOOP_DATA" not in os.environ,
    reason="set EDGELOOP_DATA to a folder with mlperf_tiny, kws01, magic_wand, tflm_seanet, mnist and ai4i2020",
)


def folder(name: str) -> Path:
    return Path(os.environ["EDGELOOP_DATA"]) / name


def imported(file: Path, data: Dataset, out: Path, **options: object) -> CompileReport:
    choices = {key: options.pop(key) for key in ("reference", "raw") if key in options}
    request = CompileRequest(calibration=data, validation=data, targets=(), out=out, **options)
    return import_release(file, request, **choices)


def keyword_spotting(float_scale: tuple[float, int] | None = None) -> Dataset:
    archive = np.load(folder("kws01") / "kws01_int8_mfcc.npz")
    x = archive["x"]
    if float_scale:
        x = ((x.astype(np.float32) - float_scale[1]) * float_scale[0]).astype(np.float32)
    return make_dataset(x, archive["y"].astype(np.int64), "kws01")


def test_keyword_spotting_agrees_with_its_float_model_as_published(tmp_path):
    from ai_edge_litert.interpreter import Interpreter

    models = folder("mlperf_tiny")
    detail = Interpreter(str(models / "kws_dscnn_int8.tflite")).get_input_details()[0]
    data = keyword_spotting(detail["quantization"])
    made = imported(
        models / "kws_dscnn_int8.tflite",
        data,
        tmp_path / "r",
        reference=models / "kws_dscnn_f32.tflite",
        gate=Gate(max_drop_points=1.0, min_agreement=0.98),
    )
    (variant,) = made.manifest.variants
    verdict = variant.verdict
    assert (verdict.value, verdict.reference) == pytest.approx((0.902, 0.900), abs=5e-4)
    assert verdict.agreement == pytest.approx(0.984, abs=5e-4)
    assert verdict.samples == 1000 and variant.precision == "int8"


def gestures(channels_first: bool) -> Dataset:
    x, y = [], []
    for label, file in enumerate(sorted((folder("magic_wand") / "test").glob("*.csv"))):
        rows = np.array(
            [
                [float(cell) for cell in line.split(",")]
                for line in file.read_text().splitlines()[1:]
                if line.strip(", ")
            ],
            dtype=np.float32,
        )
        rows[:, :3] = (rows[:, :3] + 4) / 8
        rows[:, 3:] = (rows[:, 3:] + 2000) / 4000
        windows = rows[: len(rows) // 119 * 119].reshape(-1, 119, 6)
        x.append(windows.transpose(0, 2, 1) if channels_first else windows)
        y += [label] * len(windows)
    return make_dataset(np.concatenate(x), np.array(y), "magic_wand")


def test_one_net_in_three_files_is_judged_alike(tmp_path):
    found = {}
    for file, first in (("model.tflite", False), ("quantized_model.tflite", False), ("model.onnx", True)):
        made = imported(folder("magic_wand") / file, gestures(first), tmp_path / file)
        found[file] = made.manifest.variants[0].verdict.value
    assert found == {"model.tflite": 0.88, "quantized_model.tflite": 0.88, "model.onnx": 0.88}


def test_backends_give_the_same_numbers():
    from model_compiler.running import runner

    float_file, onnx_file = (folder("magic_wand") / name for name in ("model.tflite", "model.onnx"))
    one = runner.run("litert-fp32", "litert", float_file.read_bytes(), gestures(False)).outputs[0]
    two = runner.run("onnx-fp32", "onnx", onnx_file.read_bytes(), gestures(True)).outputs[0]
    assert np.abs(one - two).max() <= 2e-6


def one_operator_models() -> list[Path]:
    if "EDGELOOP_DATA" not in os.environ:
        return []
    return sorted(folder("tflm_seanet").glob("*/*.tflite"))


def golden(model: Path) -> Dataset:
    from ai_edge_litert.interpreter import Interpreter

    details = Interpreter(str(model)).get_input_details()
    files = sorted(model.parent.glob(f"{model.stem}_input*.csv"))
    names = [f"input_{place}" for place in range(len(details))]
    plain = all(len(d["shape"]) and d["shape"][0] == 1 for d in details)
    inputs = {}
    for name, detail, file in zip(names, details, files, strict=True):
        values = np.loadtxt(file, delimiter=",", dtype=np.int64).reshape(-1).astype(detail["dtype"])
        inputs[name] = values.reshape(detail["shape"]) if plain else values.reshape((1, *detail["shape"]))
    y = np.loadtxt(next(iter(model.parent.glob(f"{model.stem}_golden*.csv"))), delimiter=",", dtype=np.int64)
    return make_dataset(inputs, y.reshape(1, -1), model.stem)


@pytest.mark.parametrize(
    "kind", ["add", "conv", "leaky_relu", "pad", "quantize", "strided_slice", "sub", "transpose_conv"]
)
def test_one_operator_models_import_and_give_their_golden_outputs_bit_for_bit(kind, tmp_path):
    models = [model for model in one_operator_models() if model.parent.name == kind]
    assert models
    for model in models:
        made = imported(
            model,
            golden(model),
            tmp_path / model.stem,
            raw=True,
            metric=metrics.parse("exact"),
            gate=Gate(min_metric=1.0),
        )
        assert made.manifest.variants[0].verdict.value == 1.0
        assert json.loads((made.out / "report.json").read_bytes())["metric"] == "exact"


def test_there_are_127_of_them():
    assert len(one_operator_models()) == 127


def test_an_mnist_student_loses_nothing_in_int8_and_shrinks(tmp_path):
    """The recipe's student without its teacher: what is judged is the compiler, and training takes seconds."""
    import torch

    from examples.mnist.data import splits
    from examples.mnist.model import student
    from model_compiler.pipeline import compile_release

    parts = splits(train=8000)
    torch.manual_seed(0)
    net, (x, y) = student(), (torch.from_numpy(array) for array in parts["train"])
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(2):
        for rows in torch.randperm(len(x)).split(100):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
    made = compile_release(
        CompileRequest(
            calibration=make_dataset(*parts["calibration"], "calibration"),
            validation=make_dataset(*parts["validation"], "validation"),
            targets=("litert-int8", "litert-fp32"),
            module=net.eval(),
            out=tmp_path / "r",
        )
    )
    int8, fp32 = (made.manifest.variant(name) for name in ("litert-int8", "litert-fp32"))
    assert fp32.verdict.value > 0.93
    assert abs(int8.verdict.drop_points) <= 0.3
    assert int8.blob.size <= 0.3 * fp32.blob.size
    assert int8.verdict.latency_ratio > 0  # which of the two is faster depends on the processor's instructions


def test_a_table_with_three_percent_positives_is_judged_by_its_auc(tmp_path):
    import torch

    from examples.machines.data import splits
    from examples.machines.model import train
    from model_compiler.pipeline import compile_release

    parts = splits()
    made = compile_release(
        CompileRequest(
            calibration=make_dataset(*parts["calibration"], "calibration"),
            validation=make_dataset(*parts["validation"], "validation"),
            targets=("litert-int8", "litert-fp32"),
            metric=metrics.parse("auc"),
            labels=("fine", "failing"),
            module=train(*(torch.from_numpy(array) for array in parts["train"]), epochs=20),
            out=tmp_path / "r",
        )
    )
    assert 0.02 < parts["validation"][1].mean() < 0.05
    for variant in made.manifest.variants:
        verdict = variant.verdict
        assert verdict.metric == "auc" and verdict.value > 0.9
        assert verdict.interval[0] < verdict.value < verdict.interval[1]
    assert made.manifest.variant("litert-int8").verdict.drop_points < 0.5
