"""Models of other tasks through the whole loop: train, publish, serve, audit, label, watch, retrain, roll out.

Each is made, asked and made again by commands and routes alone, and every quality figure of a verdict is what the
served release answers: the device for an edge variant, the hub for a cloud variant.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cloud_hub.drift.engine import DriftEngine
from cloud_hub.store.tables import RolloutRow
from cloud_hub.training.cli import main as train
from fleet.protocol.interface import interface_of
from model_compiler.inputs.dataset import load_dataset
from tests.support.hub import HubFixture
from tests.support.loop import DeviceOf, Rows, compiled, create, manifest_of, publish, retrain, validation_of

torch.set_num_threads(1)
WINDOWS, LABELS = 4, 48  # the device's windows before the drift monitor has a record; fresh samples that are labelled

START = """
import numpy as np
import torch
from torch import nn
from torch.nn import functional
from cloud_hub.training.recipe import Examples, Hyper, Recipe, Sets

QUICK = Hyper(teacher_epochs=30, student_epochs=30, teacher_rate=0.02, student_rate=0.02, batch=32)

class Net(nn.Module):
    def __init__(self, hidden, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, width))

    def forward(self, load, speed):
        return {OUTPUT: self.layers(torch.cat([load.float(), speed.float()], dim=1))}

def inputs(count, seed):
    random = np.random.default_rng(seed)
    return {name: random.normal(size=(count, 2)).astype(np.float32) for name in ("speed", "load")}

def rows(count, seed):
    x = inputs(count, seed)
    return Examples(x, np.stack([right({name: array[i:i + 1] for name, array in x.items()}) for i in range(count)]))

def sets():
    return Sets(rows(240, 1), rows(40, 2), rows(60, 3), rows(40, 4))
"""
ANOMALY = (
    START
    + """
OUTPUT = "score"

def inputs(count, seed):
    random = np.random.default_rng(seed)
    return {"speed": random.normal(size=(count, 2)).astype(np.float32), "load": random.random((count, 2)) > 0.4}

def right(x):
    return int(x["load"][0].all() and x["speed"][0, 0] > -0.2)

RECIPE = Recipe(data=sets, task="anomaly-score:threshold=0.5", teacher=lambda: Net(24, 1), student=lambda: Net(12, 1),
                targets=("onnx-fp32",), hyper=QUICK)
"""
)
PRESENCE = (
    START
    + """
OUTPUT = "present"

def inputs(count, seed):
    random = np.random.default_rng(seed)
    return {name: random.normal(size=(count, 2)).astype(kind) for name, kind in (("speed", "f2"), ("load", "f4"))}

def right(x):
    return np.array([x["load"][0, 0] > 0, x["speed"][0, 1] > 0.3, x["load"][0, 1] > 0.5]).astype(np.int64)

def label(x):
    return [name for name, there in zip(RECIPE.labels, right(x)) if there]

RECIPE = Recipe(data=sets, task="multi-label:logits=true", labels=("heavy", "fast", "tilted"),
                teacher=lambda: Net(24, 3), student=lambda: Net(12, 3), targets=("onnx-fp32",), hyper=QUICK)
"""
)
FACES = (
    START
    + '''
OUTPUT = "direction"
KINDS = ("north", "south", "west")

def right(x):
    return KINDS[int(x["load"][0, 0] > 0) + int(x["load"][0, 0] > 0 and x["speed"][0, 1] > 0)]

def loss(answer, batch):
    """Towards a corner of the space for each kind, in the order of its number."""
    kinds = batch.y[batch.known]
    wanted = functional.one_hot(kinds, 3).to(torch.float32)
    found = functional.normalize(answer[OUTPUT][batch.known], dim=1)
    return ((found - wanted) ** 2).sum() / max(len(kinds), 1)

RECIPE = Recipe(data=sets, task="embedding", teacher=lambda: Net(24, 3), student=lambda: Net(12, 3), loss=loss,
                targets=("onnx-fp32",), hyper=QUICK)
'''
)
POSE = (
    START
    + '''
OUTPUT = "pose"

def right(x):
    return np.array([x["load"][0, 0] - x["speed"][0, 1], x["load"][0, 1]], np.float32)

def near(outputs, y):
    """Share of poses that are within a half of what is right."""
    return float((np.linalg.norm(outputs["pose"] - np.asarray(y), axis=1) < 0.5).mean())

def label(x):
    return dict(zip("xy", map(float, right(x))))

def loss(answer, batch):
    return functional.mse_loss(answer["pose"][batch.known], batch.y[batch.known])

RECIPE = Recipe(data=sets, task="custom:agreement=tolerance,tolerance=0.5", metric="pose.py:near", loss=loss,
                teacher=lambda: Net(24, 2), student=lambda: Net(12, 2), targets=("onnx-fp32",), hyper=QUICK)
'''
)
CHECK = """
def check(label):
    if not isinstance(label, dict) or set(label) != {"x", "y"}:
        raise ValueError("a pose has x and y")
    return [float(label["x"]), float(label["y"])]
"""
BOXES = '''
import numpy as np
import torch
from torch import nn
from torch.nn import functional
from cloud_hub.training.recipe import Examples, Hyper, Recipe, Sets

SIZE, CELLS = 16, 4

class Detector(nn.Module):
    """(n, 1, 16, 16) to (n, 6, 16): centre and size in pixels, then a probability for each class, of every cell."""

    def __init__(self, channels):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, channels, 4, stride=4), nn.ReLU(), nn.Conv2d(channels, 2 * channels, 3,
                                  padding=1), nn.ReLU(), nn.Conv2d(2 * channels, 6, 1))
        nn.init.constant_(self.body[-1].bias[4:], -2.0)
        cells = torch.arange(CELLS) * 4.0 + 2
        self.register_buffer("places", torch.stack(torch.meshgrid(cells, cells, indexing="xy")).reshape(2, -1))

    def forward(self, image):
        found = self.body(image).flatten(2)
        size = SIZE * torch.sigmoid(found[:, 2:4])
        centre = self.places + 4 * torch.tanh(found[:, :2])
        return {"boxes": torch.cat([centre, size, torch.sigmoid(found[:, 4:])], dim=1)}

def box(image):
    """What is on an image (1, 16, 16), by its bright pixels: corners and class number."""
    down, across = np.nonzero(image[0] > 0.5)
    left, top, beyond, below = across.min(), down.min(), across.max() + 1, down.max() + 1
    return [float(left), float(top), float(beyond), float(below)], int(beyond - left > below - top)

def right(x):
    corners, kind = box(x["image"][0])
    return np.array([[*corners, kind]], np.float32)

def label(x):
    corners, kind = box(x["image"][0])
    return [{"box": corners, "class": RECIPE.labels[kind]}]

def inputs(count, seed):
    random = np.random.default_rng(seed)
    x = 0.1 * random.random((count, 1, SIZE, SIZE)).astype(np.float32)
    for image in range(count):
        width, height = ((4, 4), (8, 3))[random.integers(2)]
        left, top = random.integers(0, SIZE - width + 1), random.integers(0, SIZE - height + 1)
        x[image, 0, top:top + height, left:left + width] += 0.8
    return {"image": x}

def rows(count, seed):
    x = inputs(count, seed)
    return Examples(x, np.stack([right({"image": image[None]}) for image in x["image"]]))

def loss(answer, batch):
    found, labels = answer["boxes"][batch.known], batch.y[batch.known][:, 0]
    centre, size, kind = (labels[:, :2] + labels[:, 2:4]) / 2, labels[:, 2:4] - labels[:, :2], labels[:, 4].long()
    column, row = (centre / 4).long().clamp(0, CELLS - 1).T
    image, cell = torch.arange(len(labels)), row * CELLS + column
    wanted = torch.zeros_like(found[:, 4:])
    wanted[image, kind, cell] = 1.0
    presence = functional.binary_cross_entropy(found[:, 4:].clamp(1e-6, 1 - 1e-6), wanted, reduction="sum")
    apart = functional.smooth_l1_loss(found[image, :4, cell], torch.cat([centre, size], dim=1), reduction="sum")
    return (presence + 0.5 * apart) / max(len(labels), 1)

RECIPE = Recipe(
    data=lambda: Sets(rows(240, 1), rows(40, 2), rows(40, 3), rows(30, 4)), loss=loss, labels=("square", "bar"),
    task="detection:layout=grid,box=cxcywh,threshold=0.3", teacher=lambda: Detector(12), student=lambda: Detector(8),
    hyper=Hyper(teacher_epochs=20, student_epochs=20, teacher_rate=0.02, student_rate=0.02, batch=24),
    targets=("onnx-fp32",),
)
'''


@dataclass(frozen=True)
class Case:
    """A model: its recipe, what makes its drift visible in labels, and the words that `compile` needs besides."""

    name: str
    source: str
    metric: str
    wrong: Any = None  # a label that contradicts any answer; None where no label says that an answer is right
    policy: Mapping[str, Any] | None = None
    datatypes: frozenset[str] = frozenset({"FP32"})  # of the inputs: those of the recipe's data


CASES = [
    Case("wear", ANOMALY, "auc", datatypes=frozenset({"BOOL", "FP32"})),
    Case("presence", PRESENCE, "f1", datatypes=frozenset({"FP16", "FP32"})),
    Case("parts", BOXES, "map", wrong=[]),
    Case("faces", FACES, "recall-at-1"),
    Case("pose", POSE, "near", wrong={"x": 90, "y": 90}, policy={"labels": {"check": "units.py:check"}}),
]


def module_of(path: Path) -> Any:
    """A recipe's own functions; `right(inputs)` is what is right of one row, `label(inputs)` how a person says it."""
    spec = importlib.util.spec_from_file_location(f"own_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def drift(hub: HubFixture) -> dict[str, Any]:
    """The answer of `fleet drift status`."""
    DriftEngine(hub.hub).look()
    (found,) = hub.client.get("/api/v1/drift", headers=hub.auth()).json()["items"]
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_model_goes_round_the_whole_loop(hub: HubFixture, tmp_path: Path, case: Case, device_of: DeviceOf) -> None:
    policy = {"drift": {"baseline_windows": WINDOWS}, **(case.policy or {})}
    recipe = create(hub, case.name, case.source, **policy)
    (recipe.parent / "units.py").write_text(CHECK)
    own = module_of(recipe)
    train([str(recipe), "--out", str(tmp_path / "trained")])
    assert publish(hub, compiled(recipe, tmp_path / "trained", tmp_path / "release"), case.name) == 1
    first = manifest_of(hub, case.name, 1)
    assert first.placed("edge")[0].verdict.metric == case.metric
    assert {tensor.datatype for tensor in first.inputs} == case.datatypes
    entry = {
        "release": 1,
        "audit": {"auditor": 1, "share_ppm": 1_000_000},
        "routing": {"cloud": False},
        "sampling": {"enabled": True, "random_ppm": 1_000_000},
    }
    answer = hub.client.put(f"/api/v1/channels/stable/models/{case.name}", json=entry, headers=hub.auth())
    assert answer.status_code == 200, answer.text

    # the figures, and the audits of every answer
    device = device_of(hub, case.name)
    device.follow()
    device.reproduces(1, load_dataset(tmp_path / "trained" / "validation.npz", precise=True), recipe)
    fresh: Rows = own.inputs(LABELS, 7)
    for window in range(WINDOWS):
        device.serve(1, {name: array[window::WINDOWS] for name, array in fresh.items()})
    device.report()
    assert device.label(getattr(own, "label", lambda x: plain(own.right(x)))) >= LABELS
    found = drift(hub)
    assert found["audits"]["counted"] == WINDOWS + 1 and found["audits"]["record"] > 0.5
    if case.name == "faces":  # no single embedding is right or wrong
        assert found["labels"]["counted"] == 0
    else:
        assert found["labels"]["counted"] >= LABELS and found["labels"]["record"] > 0.5

    # a new release from what was labelled, with the same interface, on its way
    job = retrain(
        hub, case.name, channel="stable", rollout={"stages": [50, 100], "guard": {"evidence": "install"}}, seed=1
    )
    assert job.state == "succeeded", job.error
    assert job.result["gate_release"] == 1 and job.result["gate_labels"] >= LABELS // 4
    second = manifest_of(hub, case.name, 2)
    assert interface_of(second) == interface_of(first) and second.lineage.parents == ("release 1",)
    with hub.hub.reading() as session:
        rollout = session.get(RolloutRow, job.result["rollout"])
    assert rollout is not None and (rollout.state, rollout.release) == ("running", 2)
    device.reproduces(2, validation_of(hub, case.name, recipe, job.result["snapshot"], tmp_path), recipe)

    # and when what is right of them changes, the hub says so
    if case.wrong is not None:
        device.serve(1, own.inputs(30, 8))
        device.label(lambda x: case.wrong)
        assert drift(hub)["labels"]["state"] == "alarmed"


def plain(value: Any) -> Any:
    """A label as JSON."""
    return value.tolist() if isinstance(value, np.ndarray) else value
