"""The file that the compiler signs is the one that serves: one model with a truth value beside its numbers, compiled
once, asked through
every door.

Rounded to 8 bits, an answer lies on a grid, and what differs in the last bit before the rounding may differ by a whole
step after it: equal batches get equal bits everywhere. Joined requests may differ as much as the self-test allows.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from cloud_hub.inference.sessions import load_cloud
from edge_agent.ports import InstalledRelease
from fleet import runtimes
from fleet.protocol.manifest import Manifest, decode_manifest, encode_manifest
from model_compiler import CompileRequest, compile_release, make_dataset
from model_compiler.inputs.dataset import Dataset
from model_compiler.metrics import parse
from model_compiler.running import runner, runner_process
from tests.cloud_hub.inference.test_sessions import together
from tests.contract.test_models import agent_door, hub_door, process_door
from tests.support.any_model import Arrays
from tests.support.hub import make_hub

WIDE, ROWS = 64, 6


class Masked(nn.Module):
    """Two dense layers over the readings that `keep` is true of."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(WIDE, 32), nn.Linear(32, 3)

    def forward(self, x: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x.masked_fill(~keep, 0.0))))


def readings(count: int, seed: int) -> Dataset:
    random = np.random.default_rng(seed)
    inputs = {
        "x": random.normal(size=(count, WIDE)).astype(np.float32),
        "keep": random.random((count, WIDE)) > 0.3,
    }
    with torch.no_grad():
        y = Masked().eval()(*map(torch.from_numpy, inputs.values())).numpy()
    return make_dataset(inputs, y, "readings", precise=True)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, Path]:
    """The release, with the blobs of its folder; a cloud variant of the same file beside each ONNX variant."""
    request = CompileRequest(
        module=Masked().eval(),
        calibration=readings(32, seed=1),
        validation=readings(32, seed=2),
        targets=("litert-int8", "onnx-int8", "onnx-fp32"),
        metric=parse("rmse"),
        out=tmp_path_factory.mktemp("compiled") / "release",
    )
    report = compile_release(request)
    assert report.left_out == {}
    return report.manifest, request.out / "blobs"


def release(compiled: tuple[Manifest, Path], name: str) -> InstalledRelease:
    """As a device has installed the variant; an ONNX file is also what the hub serves."""
    manifest, blobs = compiled
    variant = manifest.variant(name)
    made = [variant]
    if variant.runtime == "onnx":
        made.append(msgspec.structs.replace(variant, name="cloud", placement="cloud"))
    alone = decode_manifest(encode_manifest(msgspec.structs.replace(manifest, variants=tuple(made))))
    return InstalledRelease(model="any", number=1, manifest=alone, variant=variant, blobs=blobs)


def of_compiler(made: InstalledRelease, data: Dataset) -> np.ndarray:
    """The compiler's measurements: row by row."""
    file = runtimes.named(runner_process.NAMES[made.variant.runtime]).open(made.open_blob(made.variant.blob.sha256))
    return runner_process.Loaded(file, list(data.inputs), list(data.inputs.values()), runner.ALL).answers([0])[0][0]


def test_an_input_of_truth_values_stays_one(compiled: tuple[Manifest, Path]) -> None:
    assert [(tensor.name, tensor.datatype) for tensor in compiled[0].inputs] == [("x", "FP32"), ("keep", "BOOL")]


@pytest.mark.parametrize("name", ["litert-int8", "onnx-int8", "onnx-fp32"])
def test_equal_batches_get_equal_bits_at_every_door(name: str, compiled: tuple[Manifest, Path], tmp_path: Path) -> None:
    made, data = release(compiled, name), readings(ROWS, seed=3)
    doors = {"agent": agent_door(tmp_path), "process": process_door(made.blobs.parent)}
    if made.variant.runtime == "onnx":
        doors["hub"] = hub_door(tmp_path)
    of_rows = of_compiler(made, data)
    if name.endswith("int8"):
        assert not np.array_equal(of_rows, data.y)
    whole = {}
    for door, ask in doors.items():
        alone = ask(made, {name: array[:1] for name, array in data.inputs.items()})["output"]
        assert alone.tobytes() == of_rows[:1].tobytes(), door
        whole[door] = ask(made, data.inputs)["output"].tobytes()
    assert len(set(whole.values())) == 1, list(whole)


def test_joined_requests_differ_no_more_than_the_self_test_allows(
    compiled: tuple[Manifest, Path], tmp_path: Path
) -> None:
    made, data, hub = release(compiled, "onnx-fp32"), readings(ROWS, seed=4), make_hub(tmp_path)
    for blob in made.blobs.iterdir():
        hub.hub.objects.put_new(f"blobs/{blob.name}", blob.read_bytes())
    model = load_cloud(hub.hub, made.manifest)
    requests: list[Arrays] = [{n: array[row : row + 1] for n, array in data.inputs.items()} for row in range(ROWS)]
    answers, batches = together(model, requests)
    assert batches == [1, ROWS - 1]
    limit = made.manifest.selftest.tolerance["onnx-fp32"]
    assert 0 < limit < 0.05
    for request, answer in zip(requests, answers, strict=True):
        assert np.abs(answer["output"] - model.run(dict(request))["output"]).max() <= limit
