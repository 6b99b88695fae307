"""A model file in front of the model: measured through, signed with it, and alike to the bit wherever it runs."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cloud_hub.inference.sessions import load_cloud
from edge_agent import runtimes as agent_runtimes
from edge_agent.ports import InstalledRelease, load_variant
from fleet import runtimes
from fleet.protocol.interface import interface_of
from fleet.protocol.manifest import decode_manifest
from fleet.protocol.preprocessing import Ready
from fleet.protocol.steps import Normalise
from fleet.protocol.tensor_spec import Tensor
from fleet.runtimes import ModelLoadError
from fleet.runtimes.cost import body_limit
from model_compiler.build import fronts, litert, onnx
from model_compiler.errors import DataError, InterfaceError, SourceError
from model_compiler.inputs.dataset import Dataset, make_dataset
from model_compiler.inputs.existing_model import found
from model_compiler.inputs.preprocessing import Preparation
from model_compiler.inputs.request import CompileRequest
from model_compiler.pipeline import compile_release
from model_compiler.report.document import CompileReport
from tests.support.children import keep_children_here
from tests.support.hub import HubFixture, make_hub

STEPS = (Normalise(input="bands", mean=(0.4, 0.3, 0.3, 0.3), std=(0.2,)),)
WEIGHTS = torch.from_numpy(np.random.default_rng(5).normal(size=(16, 4)).astype(np.float32))


class Bands(nn.Module):
    """Sound (n, 16) to how loud each of four waves is in it, (n, 4)."""

    def forward(self, sound: torch.Tensor) -> torch.Tensor:
        return torch.log(1 + (sound @ WEIGHTS) ** 2)


class Net(nn.Module):
    """Bands and a gain to two classes."""

    def forward(self, bands: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
        return torch.cat([bands[:, :1] * gain, bands[:, 1:2]], dim=1)


def sounds(count: int, seed: int) -> Dataset:
    random = np.random.default_rng(seed)
    x = {"sound": random.normal(size=(count, 16)), "gain": random.uniform(0.5, 2, (count, 1))}
    x = {name: array.astype(np.float32) for name, array in x.items()}
    bands = (Bands()(torch.from_numpy(x["sound"])) - torch.tensor(STEPS[0].mean)) / 0.2
    return make_dataset(x, Net()(bands, torch.from_numpy(x["gain"])).argmax(dim=1).numpy(), "sounds")


@cache
def file_of(kind: str) -> bytes:
    one = (torch.zeros(1, 16),)
    return litert.convert(Bands(), one) if kind == "tflite" else onnx.export(Bands(), one, outputs=("bands",))


def asked(out: Path, front: fronts.FrontFile, **changes: object) -> CompileRequest:
    example = {"bands": torch.zeros(1, 4), "gain": torch.zeros(1, 1)}
    teacher = onnx.export(Net(), tuple(example.values()), inputs=tuple(example), outputs=("scores",))
    request = CompileRequest(
        onnx=teacher,
        cloud=teacher,
        calibration=sounds(30, 1),
        validation=sounds(40, 2),
        targets=("onnx-fp32",),
        labels=("low", "high"),
        preprocess=STEPS,
        front=front,
        out=out,
    )
    return replace(request, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=["onnx", "tflite"])
def compiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> CompileReport:
    folder = tmp_path_factory.mktemp("front")
    path = folder / f"front.{request.param}"
    path.write_bytes(file_of(request.param))
    with pytest.MonkeyPatch.context() as patch:
        keep_children_here(patch)
        return compile_release(asked(folder / "release", fronts.read(f"{path}:sound=bands")))


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> HubFixture:
    return make_hub(tmp_path_factory.mktemp("hub"))


def test_the_release_takes_what_applications_send_and_requires_the_front_of_agents(compiled: CompileReport) -> None:
    manifest = decode_manifest((compiled.out / "manifest.json").read_bytes())
    front = manifest.in_front
    assert front is not None and (compiled.out / "blobs" / front.blob.sha256).is_file()
    assert [tensor.name for tensor in manifest.inputs] == ["sound", "gain"] and front.inputs == ("sound",)
    assert [(t.name, t.shape) for t in manifest.ready] == [("gain", (-1, 1)), ("bands", (-1, 4))]
    assert f"front:{front.runtime}" in manifest.requires
    assert interface_of(manifest).preprocess[0] == "front sound"
    assert set(manifest.requires) <= set(agent_runtimes.capabilities())
    assert all(variant.runtimes for variant in manifest.variants)  # the agent's self-test ran through it


def test_agent_hub_and_one_request_of_all_rows_give_the_same_bits(compiled: CompileReport, hub: HubFixture) -> None:
    manifest, blobs, data = compiled.manifest, compiled.out / "blobs", sounds(40, 2)
    variant = manifest.placed("edge")[0]
    release = InstalledRelease(model="m", number=1, manifest=manifest, variant=variant, blobs=blobs)
    device = load_variant(agent_runtimes.for_variant(variant), release.open_blob, manifest, variant)
    name = manifest.outputs[0].name
    rows = [{key: array[row : row + 1] for key, array in data.inputs.items()} for row in range(len(data))]
    alone = np.concatenate([device.run(row)[name] for row in rows])
    assert np.array_equal(alone, device.run(dict(data.inputs))[name])
    right = float((alone.argmax(axis=1) == data.labels).mean())
    assert right == variant.verdict.value == 1.0
    for path in blobs.iterdir():
        hub.hub.objects.put_new(f"blobs/{path.name}", path.read_bytes())
    cloud = load_cloud(hub.hub, manifest)
    assert np.array_equal(cloud.run(dict(data.inputs))[name], alone)
    front = manifest.in_front
    assert front is not None
    ready = Ready(runtimes.before(manifest.pipeline, (blobs / front.blob.sha256).read_bytes()).run(dict(data.inputs)))  # type: ignore[arg-type]
    assert np.array_equal(device.run(ready)[name], alone)
    assert body_limit(manifest) > 1024 * 4 * 17  # the largest batch, raw or ready


def test_a_release_whose_front_is_missing_does_not_load(compiled: CompileReport) -> None:
    variant = compiled.manifest.placed("edge")[0]
    data = (compiled.out / "blobs" / variant.blob.sha256).read_bytes()
    with pytest.raises(ModelLoadError, match="the front"):
        runtimes.load_release(runtimes.best(variant.runtime), data, compiled.manifest)


def test_the_next_release_keeps_the_front_and_another_kind_of_model_is_refused(
    compiled: CompileReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_children_here(monkeypatch)
    kept = found(compiled.out, "", None)
    assert (
        kept.front is not None
        and kept.front.data == (compiled.out / "blobs" / kept.front.described.blob.sha256).read_bytes()
    )
    assert "front sound" in kept.said
    request = asked(tmp_path / "again", kept.front, interface=kept.interface, encoder=kept.encoder)
    again = compile_release(request).manifest
    assert again.front == compiled.manifest.front and interface_of(again) == interface_of(compiled.manifest)
    with pytest.raises(InterfaceError, match="preprocessing is front sound; normalise"):
        compile_release(replace(request, front=None))


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [("front.txt", b"", "a front is an .onnx or a .tflite file"), ("front.onnx", b"no", "front.onnx")],
)
def test_what_is_no_front_is_said(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SourceError, match=words):
        fronts.read(str(tmp_path / name))


def test_a_front_that_does_not_take_the_data_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_children_here(monkeypatch)
    (tmp_path / "front.onnx").write_bytes(file_of("onnx"))
    front = fronts.read(str(tmp_path / "front.onnx"))
    with pytest.raises(SourceError, match="the front takes sound; these names were given: light,dark"):
        fronts.read(f"{tmp_path / 'front.onnx'}:light,dark")
    with pytest.raises(DataError, match="the front takes sound; the data has light, dark"):
        fronts.called(front, ("light", "dark"))
    with pytest.raises(DataError, match="the front"):
        fronts.tried(front, make_dataset({"sound": np.zeros((3, 5), np.float32)}, None, "x"))


@pytest.mark.parametrize("name", ["sound", "mic/0:left", "mic.onnx/0"])
def test_a_front_is_read_back_as_it_was_written(tmp_path: Path, name: str) -> None:
    (tmp_path / "front.onnx").write_bytes(file_of("onnx"))
    tensor = Tensor(name=f"{name}:bands", datatype="FP32", shape=(-1, 4))
    front = fronts.FrontFile(runtime="onnx", data=b"", inputs=(name,), outputs=(tensor,))
    found = fronts.read(f"{tmp_path}/{fronts.written(front, 'front.onnx')}")
    assert (found.inputs, found.names) == ((name,), (tensor.name,))


def test_a_front_may_call_what_it_makes_as_what_it_takes() -> None:
    """It takes its place: a picture in, a smaller picture out."""

    class Halves(nn.Module):
        def forward(self, sound: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"sound": sound / 2}

    class Both(nn.Module):
        def forward(self, sound: torch.Tensor, gain: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"sound": sound / 2, "gain": gain}

    data = sounds(3, 1)
    front = fronts.tried(fronts.of_module(Halves(), data), data)
    assert [tensor.name for tensor in front.outputs] == ["sound"]
    ready = fronts.ready(Preparation(front=front), data).inputs
    assert np.array_equal(ready["sound"], data.inputs["sound"] / 2)
    with pytest.raises(SourceError, match="takes sound, gain and calls what it makes sound, too"):
        fronts.of_module(Both(), data)
