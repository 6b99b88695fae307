"""A released LiteRT file with other weights, on the quantization grid that it has."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fleet.protocol.manifest import Gate, encode_manifest
from model_compiler import metrics
from model_compiler.build import grid, litert, onnx
from model_compiler.build.artifacts import Artifact
from model_compiler.build.prepared import prepare
from model_compiler.build.targets import TARGETS
from model_compiler.build.weights import weights_of
from model_compiler.inputs.former_release import former_of
from model_compiler.inputs.release_folder import read_blob, read_release
from model_compiler.package import delta
from model_compiler.package.update_cost import manifest_bytes, update_bytes
from model_compiler.pipeline import compile_release
from model_compiler.search import keeping
from tests.model_compiler.conftest import Net, answers, fitted, stripes

EXAMPLE = (torch.zeros(1, 1, 8, 8),)


@pytest.fixture(scope="module")
def files(compiled) -> dict[str, bytes]:
    """The released LiteRT files by variant."""
    manifest = read_release(compiled.out)
    return {v.name: read_blob(compiled.out, v.blob) for v in manifest.variants if v.runtime == "litert"}


@pytest.fixture(scope="module")
def moved(student: Net) -> Net:
    """The student with a few weights changed."""
    made = Net(4)
    made.load_state_dict(student.state_dict())
    with torch.no_grad():
        made.dense.weight[0, :3] += 0.2
        made.dense.bias[1] -= 0.3
    return made.eval()


@pytest.mark.parametrize("name", ["litert-int8", "litert-fp32", "litert-int8-dynamic"])
def test_the_same_weights_give_the_same_file(files, name) -> None:
    assert grid.write(files[name], files["litert-fp32"]) == files[name]


def test_a_few_weights_make_a_small_patch_and_the_right_answers(files, moved) -> None:
    new = litert.convert(moved, EXAMPLE)
    x = stripes(50, seed=9).x
    with torch.no_grad():
        expected = moved(torch.from_numpy(x)).numpy()
    for name in files:
        written = grid.write(files[name], new)
        assert len(written) == len(files[name]) and written != files[name]
        assert len(delta.build(files[name], written).patch) < 220
        before, after = (answers(name, "litert", model, x) for model in (files[name], written))
        assert np.abs(after - expected).mean() < 0.2 * np.abs(before - expected).mean()


def test_what_lies_beyond_the_grid_is_put_at_its_end(files, student) -> None:
    large = Net(4)
    large.load_state_dict(student.state_dict())
    with torch.no_grad():
        large.conv.weight.mul_(100)
    written = grid.write(files["litert-int8"], litert.convert(large.eval(), EXAMPLE))
    values = [c.values for c in grid.constants(bytearray(written)).values() if c.values.dtype == np.int8]
    assert max(v.max() for v in values) == 127 and min(v.min() for v in values) >= -127


@pytest.mark.parametrize("name", ["litert-fp32", "litert-int8"])
def test_a_network_gets_its_weights_back_from_the_file_that_was_made_of_it(files, student, name: str) -> None:
    other = Net(4).eval()
    before = {key: value.clone() for key, value in other.state_dict().items()}
    found = weights_of(files[name], other, other, EXAMPLE)
    step = 0.0 if name == "litert-fp32" else 0.51 / 127
    for key, value in student.named_parameters():
        expected = value.detach().numpy()
        assert np.abs(found[key] - expected).max() <= step * np.abs(expected).max(), key
    assert set(found) == set(before) and all(torch.equal(value, before[key]) for key, value in other.named_parameters())


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_network_gets_its_weights_back_from_an_onnx_file(student, precision: str) -> None:
    x = stripes(8, seed=1).x
    released = onnx.export(student, EXAMPLE, inputs=("image",), outputs=("scores",))
    if precision == "int8":
        released = onnx.quantize(released, "int8", x)
        assert b"DequantizeLinear" in released
    other = Net(4).eval()
    found = weights_of(released, other, other, EXAMPLE)
    assert set(found) == {name for name, _ in other.named_parameters()}
    step = 0.0 if precision == "fp32" else 0.51 / 127
    for key, value in student.named_parameters():
        expected = value.detach().numpy()
        assert np.abs(found[key] - expected).max() <= step * np.abs(expected).max(), key
    assert weights_of(released, Net(6), Net(6).eval(), EXAMPLE) == {}
    assert weights_of(released[:-900], other, other, EXAMPLE) == {}


def test_a_file_of_another_network_gives_no_weights(files) -> None:
    class Normed(nn.Module):
        """The converter folds the norm into the layer before."""

        def __init__(self) -> None:
            super().__init__()
            self.inner, self.norm = Net(4), nn.BatchNorm1d(2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(self.inner(x))

    for network in (Net(6).eval(), Normed().eval()):
        assert weights_of(files["litert-int8"], network, network, EXAMPLE) == {}
    assert weights_of(files["litert-int8"][:200], Net(4), Net(4).eval(), EXAMPLE) == {}


def test_another_graph_is_not_written(files) -> None:
    assert grid.write(files["litert-int8"], litert.convert(fitted(6, steps=1), EXAMPLE)) is None
    assert grid.write(files["litert-fp32"], files["litert-int8"]) is None  # no real numbers to write


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_not_written_and_nothing_breaks(files, data) -> None:
    damaged = bytearray(files["litert-int8"])
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, 400))] = data.draw(st.integers(0, 255))
    found = grid.write(bytes(damaged), files["litert-fp32"])
    assert found is None or len(found) == len(damaged)
    cut = bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    found = grid.write(cut, files["litert-fp32"])
    assert found is None or len(found) == len(cut)


def test_a_release_keeps_the_grid_of_the_one_before_where_that_costs_nothing(
    request_, compiled, moved, tmp_path
) -> None:
    before = former_of(compiled.out)
    made = compile_release(
        replace(
            request_,
            module=moved,
            targets=("litert-int8",),
            former=before,
            gate=Gate(),
            cloud=None,
            out=tmp_path / "next",
        )
    )
    (variant,) = made.manifest.placed("edge")
    assert keeping.NOTE in variant.verdict.notes
    new = read_release(made.out)
    read = {blob.sha256: read_blob(made.out, blob) for blob in new.blobs()}
    cost = update_bytes(before, new, read)["litert-int8"]
    whole = len(encode_manifest(new)) + sum(blob.size for blob in new.needed_for(new.variants[0]))
    manifest = manifest_bytes(before.manifest, new)
    assert manifest < 0.5 * len(encode_manifest(new))  # as a patch
    assert manifest < cost < 0.2 * whole


def test_a_grid_that_costs_accuracy_is_left(request_, compiled, student) -> None:
    """Judged by the metric on the calibration rows: here the kept range of the answers holds none of the new ones."""
    wide = Net(4)
    wide.load_state_dict(student.state_dict())
    with torch.no_grad():
        wide.dense.bias += 100
    prepared = prepare(replace(request_, module=wide.eval(), former=former_of(compiled.out)), metrics.parse("accuracy"))
    base = litert.convert(wide, EXAMPLE)
    fresh = litert.quantize(base, "int8", prepared.calibration.x)
    artifacts = [
        Artifact(name, TARGETS[name], "edge", model) for name, model in (("litert-fp32", base), ("litert-int8", fresh))
    ]
    kept = keeping.keep_grid(prepared, artifacts)
    assert kept[1].model == fresh and kept[1].notes == ()
    asked = replace(prepared, request=replace(prepared.request, on_grid=True))
    assert keeping.NOTE in keeping.keep_grid(asked, artifacts)[1].notes
