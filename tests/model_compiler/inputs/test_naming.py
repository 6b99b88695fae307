"""Names travel: from the model, the data, the command line or an earlier release into every variant."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from fleet.protocol.drift_encoder import fit_encoder
from fleet.protocol.interface import interface_of
from fleet.protocol.manifest import Ports, Tensor, decode_manifest
from fleet.protocol.onnx_file import port_names
from model_compiler.build import onnx
from model_compiler.build.adapting import adapt
from model_compiler.errors import DataError, InterfaceError, SourceError
from model_compiler.importing import import_release
from model_compiler.inputs import naming, sources
from model_compiler.inputs.dataset import Dataset, load_dataset, make_dataset, save_dataset
from model_compiler.inputs.request import CompileRequest
from model_compiler.pipeline import compile_release
from model_compiler.report.document import CompileReport
from tests.model_compiler.conftest import answers
from tests.support.commands import call


class Failure(nn.Module):
    """A table: (n, 4) readings to two classes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(4, 2)

    def forward(self, sensors: torch.Tensor) -> torch.Tensor:
        return self.linear(sensors)


class Pair(nn.Module):
    """Two inputs of one shape, which only their names tell apart: pressure counts, temperature does not."""

    def forward(self, pressure: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
        return torch.cat([pressure.sum(1, keepdim=True), 0 * temperature.sum(1, keepdim=True)], dim=1)


class Riap(nn.Module):
    """The same, its parameters the other way round."""

    def forward(self, temperature: torch.Tensor, pressure: torch.Tensor) -> torch.Tensor:
        return torch.cat([pressure.sum(1, keepdim=True), 0 * temperature.sum(1, keepdim=True)], dim=1)


def table(count: int, seed: int, name: str = "x") -> Dataset:
    x = np.random.default_rng(seed).normal(size=(count, 4)).astype(np.float32)
    with torch.no_grad():
        y = Failure()(torch.from_numpy(x)).argmax(dim=1).numpy()
    return make_dataset({name: x}, y, name)


def pairs(count: int, seed: int) -> Dataset:
    random = np.random.default_rng(seed)
    pressure, temperature = (random.normal(size=(count, 3)).astype(np.float32) for _ in range(2))
    return make_dataset(
        {"temperature": temperature, "pressure": pressure}, (pressure.sum(axis=1) < 0).astype(int), "pairs"
    )


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> CompileReport:
    """A module that takes `sensors`, from data whose array is called `x`, as examples call it."""
    out = tmp_path_factory.mktemp("machines") / "release"
    teacher = onnx.export(Failure().eval(), torch.zeros(1, 4), inputs=("features",), outputs=("scores",))
    return compile_release(
        CompileRequest(
            module=Failure().eval(),
            cloud=teacher,
            calibration=table(60, 1),
            validation=table(80, 2),
            out=out,
            targets=("litert-fp32", "onnx-fp32", "onnx-int8"),
            labels=("fine", "failing"),
        )
    )


def blob(report: CompileReport, variant: str) -> bytes:
    return (report.out / "blobs" / report.manifest.variant(variant).blob.sha256).read_bytes()


def test_a_module_s_own_names_come_out(machines: CompileReport) -> None:
    manifest = machines.manifest
    assert manifest.inputs == (Tensor(name="sensors", datatype="FP32", shape=(-1, 4)),)
    assert [tensor.name for tensor in manifest.outputs] == ["logits"] and manifest.labels == ("fine", "failing")
    assert manifest.sketch is not None
    for variant in ("onnx-fp32", "onnx-int8", "cloud-onnx-fp32"):
        assert port_names(blob(machines, variant)) == (("sensors",), ("logits",))


@pytest.mark.parametrize("file", ["x", "sensors"])
def test_a_release_like_an_earlier_one_keeps_names_classes_and_sketch(
    machines: CompileReport, tmp_path: Path, file: str
) -> None:
    """Another module, whose forward has other names, trained anew for the same model, by the command."""
    save_dataset(tmp_path / "c.npz", table(60, 3, file))
    save_dataset(tmp_path / "v.npz", table(80, 4, file))
    program = torch.export.export(nn.Sequential(nn.Linear(4, 2)), (torch.zeros(1, 4),))
    torch.export.save(program, tmp_path / "m.pt2")
    done = call(
        "model-compiler",
        "compile",
        tmp_path / "m.pt2",
        "--target",
        "litert-fp32",
        "--calibration",
        tmp_path / "c.npz",
        "--validation",
        tmp_path / "v.npz",
        "--like",
        machines.out,
        "--out",
        tmp_path / "r",
    )
    assert done.returncode == 0, done.stderr
    manifest, old = decode_manifest((tmp_path / "r" / "manifest.json").read_bytes()), machines.manifest
    assert [tensor.name for tensor in (*manifest.inputs, *manifest.outputs)] == ["sensors", "logits"]
    assert manifest.labels == old.labels and old.sketch is not None and manifest.sketch is not None
    assert manifest.sketch.encoder.sha256 == old.sketch.encoder.sha256


def like(machines: CompileReport, tmp_path: Path, **changes: Any) -> CompileRequest:
    return replace(
        CompileRequest(
            module=Failure().eval(),
            calibration=table(60, 3),
            validation=table(80, 4),
            targets=("litert-fp32",),
            out=tmp_path / "r",
            interface=interface_of(machines.manifest),
        ),
        **changes,
    )


class Wide(nn.Module):
    """Three classes where the model has two."""

    def forward(self, sensors: torch.Tensor) -> torch.Tensor:
        return torch.cat([sensors[:, :2], sensors[:, 2:3]], dim=1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"module": Wide().eval()}, r"outputs are logits FP32 \[-1, 2\]; this has logits FP32 \[-1, 3\]"),
        ({"labels": ("good", "bad")}, "classes are fine, failing; this has good, bad"),
        ({"inputs": ("readings",)}, "inputs are sensors; these names were asked for: readings"),
        (
            {"calibration": table(60, 3, "readings"), "validation": table(80, 4, "readings")},
            "inputs are sensors; the data has readings",
        ),
        ({"outputs": ("scores",)}, "outputs are logits; these names were asked for: scores"),
        ({"encoder": fit_encoder(table(40, 9).x, tensor="x")}, "encoder watches input 'x'; this has sensors FP32"),
        ({"encoder": fit_encoder(table(40, 9).x[:, :3], tensor="sensors")}, "takes 3 values .* this has 4"),
    ],
)
def test_what_would_change_the_interface_is_refused_before_anything_is_built(
    machines: CompileReport, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    said: list[str] = []
    with pytest.raises(InterfaceError, match=words) as refused:
        compile_release(like(machines, tmp_path, progress=said.append, **changes))
    assert "fleet model create" in refused.value.hint and said == [] and not (tmp_path / "r").exists()


def test_a_release_that_would_lose_the_sketch_is_refused(machines: CompileReport, tmp_path: Path) -> None:
    with pytest.raises(InterfaceError, match="sketch"):
        compile_release(like(machines, tmp_path))  # no encoder was handed in: a new one would be fitted
    encoder = fit_encoder(table(60, 1).x, tensor="sensors")
    few = like(machines, tmp_path, encoder=encoder, validation=table(7, 5))
    with pytest.raises(DataError, match="drift needs at least 8"):
        compile_release(few)


def test_several_inputs_are_paired_by_name_with_student_and_teacher(tmp_path: Path) -> None:
    """Data, student and teacher have three orders; by place the teacher would see pressure and temperature swapped."""
    zeros = (torch.zeros(1, 3), torch.zeros(1, 3))
    teacher = onnx.export(Pair().eval(), zeros, inputs=("pressure", "temperature"), outputs=("answer",))
    made = compile_release(
        CompileRequest(
            module=Riap().eval(),
            cloud=teacher,
            calibration=pairs(60, 1),
            validation=pairs(80, 2),
            out=tmp_path / "r",
            targets=("litert-fp32", "onnx-fp32"),
            inputs=("pressure", "temperature"),
        )
    )
    manifest = made.manifest
    assert [tensor.name for tensor in manifest.inputs] == ["pressure", "temperature"]
    assert {v.name: v.verdict.value for v in manifest.variants} == dict.fromkeys(
        ("litert-fp32", "onnx-fp32", "cloud-onnx-fp32"), 1.0
    )
    assert port_names(blob(made, "cloud-onnx-fp32")) == (("pressure", "temperature"), ("logits",))
    recorded = Ports(inputs={"pressure": 0, "temperature": 1}, outputs={"logits": 0})  # the file numbers its own
    assert [v.ports for v in manifest.variants if v.ports is not msgspec.UNSET] == [recorded]
    other = onnx.export(Pair().eval(), zeros, inputs=("a", "b"), outputs=("logits",))
    with pytest.raises(SourceError, match=r"cloud variant: the inputs are .*pressure.*; the ONNX model has a, b"):
        compile_release(
            CompileRequest(
                module=Riap().eval(),
                cloud=other,
                calibration=pairs(60, 1),
                validation=pairs(80, 2),
                out=tmp_path / "no",
                targets=("litert-fp32",),
            )
        )


def test_several_inputs_that_do_not_fit_by_name_are_refused() -> None:
    data = pairs(4, 1)
    renamed = data.renamed({"temperature": "a", "pressure": "b"})
    with pytest.raises(DataError, match=r"takes pressure, temperature; the data has a, b"):
        adapt(Pair(), renamed)
    with pytest.raises(InterfaceError, match=r"inputs are a, c; the data has a, b"):
        adapt(Pair(), renamed, inputs=("a", "c"))


class Keyword(nn.Module):
    def forward(self, *, sensors: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"word": sensors[:, :1], "class": sensors[:, :2]}


class Free(nn.Module):
    def forward(self, **values: torch.Tensor) -> torch.Tensor:
        return values["pressure"] - values["temperature"]


class Optional(nn.Module):
    def forward(self, sensors: torch.Tensor, mask: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        return sensors, sensors[:, :1]


def test_ways_to_take_inputs_and_to_give_outputs() -> None:
    one, two = table(4, 1), pairs(4, 1)
    found = adapt(Keyword(), one, outputs=("class", "word"))
    assert list(found.data.inputs) == ["sensors"] and [a.shape for a in found.outputs.values()] == [(1, 2), (1, 1)]
    assert [tuple(t.shape) for t in found.module(torch.zeros(1, 4))] == [(1, 2), (1, 1)]
    free = adapt(Free(), two)
    sample = free.data.inputs
    np.testing.assert_allclose(free.outputs["logits"], sample["pressure"] - sample["temperature"])
    assert list(adapt(Optional(), one, outputs=("a", "b")).outputs) == ["a", "b"]
    assert list(adapt(Failure(), one, classes=False).outputs) == ["output"]
    assert list(adapt(Failure(), one, inputs=("logits",)).outputs) == ["output"]  # not twice one name
    with pytest.raises(InterfaceError, match="outputs are a, b; this one gives output"):
        adapt(Failure(), one, outputs=("a", "b"))
    with pytest.raises(InterfaceError, match="outputs are a, word; this one gives word, class"):
        adapt(Keyword(), one, outputs=("a", "word"))


@pytest.mark.parametrize("name", ["y", "label", "file", "linear", "self", "a/b:0", "Größe", "addmm"])
def test_any_name_travels_through_files_and_into_onnx(name: str, tmp_path: Path) -> None:
    data = table(5, 1, name)
    save_dataset(tmp_path / "d.npz", data)
    again = load_dataset(tmp_path / "d.npz")
    assert list(again.inputs) == [name]
    np.testing.assert_array_equal(again.x, data.x)
    np.testing.assert_array_equal(again.labels, data.labels)
    model = onnx.export(Failure().eval(), torch.zeros(1, 4), inputs=(name,), outputs=("linear.weight",))
    assert port_names(model) == ((name,), ("linear.weight",))
    with torch.no_grad():
        wanted = Failure()(torch.from_numpy(data.x)).numpy()
    np.testing.assert_allclose(answers("m", "onnx", model, data.x), wanted, rtol=1e-5, atol=1e-6)


def test_labels_beside_an_input_called_y() -> None:
    with pytest.raises(DataError, match="@y"):
        save_dataset(Path("/nonexistent"), make_dataset({"@y": np.zeros((3, 2), np.float32)}, None, "d"))


def test_an_onnx_file_keeps_the_names_of_its_graph(tmp_path: Path) -> None:
    model = onnx.export(Failure().eval(), torch.zeros(1, 4), inputs=("readings",), outputs=("probabilities",))
    (tmp_path / "m.onnx").write_bytes(model)
    data = table(40, 2)
    request = CompileRequest(calibration=data, validation=data, targets=(), out=tmp_path / "r")
    made = import_release(tmp_path / "m.onnx", request)
    assert [t.name for t in (*made.manifest.inputs, *made.manifest.outputs)] == ["readings", "probabilities"]
    assert blob(made, "onnx-fp32") == model  # unchanged
    named = import_release(tmp_path / "m.onnx", replace(request, inputs=("sensors",), out=tmp_path / "named"))
    assert [t.name for t in named.manifest.inputs] == ["sensors"]


def test_a_litert_file_keeps_the_names_that_it_has(machines: CompileReport, tmp_path: Path) -> None:
    """litert-torch numbers what it was given by place; then the data says how applications call it."""
    (tmp_path / "m.tflite").write_bytes(blob(machines, "litert-fp32"))
    data = table(40, 2, "sensors")
    request = CompileRequest(calibration=data, validation=data, targets=(), out=tmp_path / "r")
    assert import_release(tmp_path / "m.tflite", request).manifest.inputs[0].name == "sensors"
    old = interface_of(machines.manifest)
    anonymous = replace(request, validation=table(40, 2), interface=replace_sketch(old), out=tmp_path / "like")
    assert import_release(tmp_path / "m.tflite", anonymous).manifest.inputs == old.inputs


def replace_sketch(interface: Any) -> Any:
    import msgspec

    return msgspec.structs.replace(interface, sketch_id="")


def test_renaming_onnx_values_lets_others_give_way() -> None:
    """`Gemm`'s own value is called as the input shall be."""
    model = onnx.export(Failure().eval(), torch.zeros(1, 4))
    inner = sources.onnx_names(model)[1][0]
    renamed = sources.named(model, (inner,), ("out",))
    assert port_names(renamed) == ((inner,), ("out",))
    x = table(6, 1).x
    np.testing.assert_array_equal(answers("a", "onnx", model, x), answers("b", "onnx", renamed, x))
    with pytest.raises(SourceError, match="same name"):
        sources.named(model, ("both",), ("both",))
    assert sources.named(renamed, (inner,), ("out",)) == renamed


def test_input_names_pair_by_name_alone() -> None:
    assert naming.input_names(("x",), ("sensors", "mask"), ()) == {"x": "sensors"}
    assert naming.input_names(("image",), ("x",), ()) == {"image": "image"}
    assert naming.input_names(("image",), ("x",), ("picture",)) == {"image": "picture"}
    assert list(naming.input_names(("a", "b"), ("b", "a"), ("b", "a")).values()) == ["b", "a"]
    assert list(naming.input_names(("a", "b"), (), ()).values()) == ["a", "b"]
