"""A model's own names through the whole loop: train, compile, publish, samples, retrain, publish, serve."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from sqlmodel import select

from cloud_hub.errors import InvalidError
from cloud_hub.samples import snapshots
from cloud_hub.samples.dataset import Dataset
from cloud_hub.store.tables import Model, Release, Snapshot
from cloud_hub.training.checking import Contract, settle_contract
from cloud_hub.training.cli import main as train
from cloud_hub.training.recipe import Examples, load_recipe
from fleet.protocol import drift_encoder
from fleet.protocol.interface import Interface
from fleet.protocol.manifest import Manifest, Tensor, decode_manifest
from tests.support.commands import call
from tests.support.hub import HubFixture
from tests.support.loop import DeviceOf, manifest_of, publish, retrain

torch.set_num_threads(1)

MACHINES = '''
"""A table: (n, 4) readings to two classes."""
import numpy as np
from torch import nn
from cloud_hub.training.recipe import Examples, Hyper, Recipe, Sets

class Failure(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 2))

    def forward(self, sensors):
        return self.layers(sensors)

class Teacher(Failure):
    def forward(self, x):
        return self.layers(x)

def rows(count, seed):
    x = np.random.default_rng(seed).normal(size=(count, 4)).astype(np.float32)
    return Examples(x, (x[:, 0] > x[:, 1]).astype(np.int64))

RECIPE = Recipe(
    data=lambda: Sets(rows(300, 1), rows(60, 2), rows(80, 3), rows(80, 4)),
    teacher=lambda: Teacher(16), student=lambda: Failure(8), labels=("fine", "failing"),
    hyper=Hyper(teacher_epochs=40, student_epochs=30, batch=32), targets=("litert-fp32",),
)
'''

# Student, teacher and data name the same two inputs of one shape in three orders; by place they would be swapped.
PAIR = '''
"""Pressure against temperature, and how far they are apart."""
import numpy as np
import torch
from torch import nn
from cloud_hub.training.recipe import Examples, Hyper, Recipe, Sets

class Student(nn.Module):
    def __init__(self, hidden=8):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, hidden), nn.ReLU(), nn.Linear(hidden, 2))

    def forward(self, y, label):
        scores = self.layers(torch.cat([y, label], dim=1))
        return {"class": scores, "apart": y.mean(1, keepdim=True) - label.mean(1, keepdim=True)}

class Teacher(Student):
    def forward(self, label, y):
        scores = self.layers(torch.cat([label, y], dim=1))
        return {"apart": y.mean(1, keepdim=True) - label.mean(1, keepdim=True), "class": scores}

def rows(count, seed):
    random = np.random.default_rng(seed)
    label, y = (random.normal(size=(count, 3)).astype(np.float32) for _ in range(2))
    return Examples({"label": label, "y": y}, (y.mean(1) > label.mean(1)).astype(np.int64))

RECIPE = Recipe(
    data=lambda: Sets(rows(300, 1), rows(60, 2), rows(80, 3), rows(80, 4)),
    teacher=lambda: Teacher(16), student=Student, labels=("below", "above"), outputs=("class", "apart"),
    hyper=Hyper(teacher_epochs=40, student_epochs=30, batch=32), targets=("litert-fp32",),
)
'''


def made(hub: HubFixture, tmp_path: Path, name: str, source: str) -> None:
    """A model with a recipe in the hub's folder, trained by hand, compiled by the command, published as release 1."""
    folder = hub.hub.config.directory / "recipes"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(source)
    with hub.hub.session() as session:
        session.add(Model(name=name, recipe=f"{name}.py", created_at=0))
    train([str(folder / f"{name}.py"), "--out", str(tmp_path / "trained")])
    publish(hub, compiled(tmp_path / "trained", tmp_path / "release", recipe(hub, name).labels), name)


def recipe(hub: HubFixture, name: str):  # type: ignore[no-untyped-def]
    return load_recipe(f"{name}.py", folder=hub.hub.config.directory / "recipes").recipe


def fresh(name: str) -> Examples:
    """Rows that the recipe's own sets do not hold."""
    return sys.modules[f"_recipe_{name}"].rows(80, 9)


def compiled(trained: Path, out: Path, labels: tuple[str, ...]) -> Path:
    command = [
        "compile",
        trained / "student.pt2",
        "--cloud",
        trained / "teacher.onnx",
        "--labels",
        ",".join(labels),
        "--calibration",
        trained / "calibration.npz",
        "--validation",
        trained / "validation.npz",
        "--target",
        "litert-fp32",
        "--out",
        out,
    ]
    done = call("model-compiler", *command)
    assert done.returncode == 0, done.stderr
    return out


def interface(manifest: Manifest) -> tuple[object, ...]:
    assert manifest.sketch is not None
    return manifest.inputs, manifest.outputs, manifest.labels, manifest.sketch.encoder


def test_a_model_that_takes_sensors_keeps_them_through_a_retrain(
    hub: HubFixture, tmp_path: Path, device_of: DeviceOf
) -> None:
    made(hub, tmp_path, "machines", MACHINES)
    first = manifest_of(hub, "machines", 1)
    assert [t.name for t in (*first.inputs, *first.outputs)] == ["sensors", "logits"]
    device = device_of(hub, "machines")
    data = fresh("machines")
    device.serve(1, {"sensors": data.x})
    assert device.label(lambda x: int(x["sensors"][0, 0] > x["sensors"][0, 1])) == len(data)
    job = retrain(hub, "machines", seed=1)
    assert job.state == "succeeded", job.error
    assert job.result["gate_new"] > 0.8  # by labels that belong to their inputs; by others it would be 0.5
    second = manifest_of(hub, "machines", 2)
    assert interface(second) == interface(first) and second.sketch is not None
    assert second.sketch.reference != first.sketch.reference  # type: ignore[union-attr]
    dataset = snapshots.load(hub.hub, job.result["snapshot"])
    assert list(dataset.inputs) == ["sensors"] and dataset.labelled == len(data)
    found = device.serve(2, {"sensors": data.x})["logits"]
    assert (found.argmax(axis=1) == data.y).mean() > 0.8  # swapped inputs would give 0.2


def test_two_inputs_in_three_orders_called_as_labels_are(hub: HubFixture, tmp_path: Path, device_of: DeviceOf) -> None:
    made(hub, tmp_path, "pair", PAIR)
    first = manifest_of(hub, "pair", 1)
    assert [t.name for t in (*first.inputs, *first.outputs)] == ["label", "y", "class", "apart"]
    assert next(iter(first.placed("cloud"))).verdict.value > 0.8  # the teacher is asked by name
    device = device_of(hub, "pair")
    data = fresh("pair")
    inputs = data.inputs
    turned = {"y": inputs["y"], "label": inputs["label"]}
    device.serve(1, turned)
    assert device.label(lambda x: int(x["y"].mean() > x["label"].mean())) == len(data)
    job = retrain(hub, "pair", seed=1)
    assert job.state == "succeeded", job.error
    assert job.result["gate_new"] > 0.8  # by labels that belong to their inputs; by others it would be 0.5
    second = manifest_of(hub, "pair", 2)
    assert interface(second) == interface(first)
    dataset = snapshots.load(hub.hub, job.result["snapshot"])
    np.testing.assert_array_equal(np.sort(dataset.inputs["y"], axis=0), np.sort(inputs["y"], axis=0))
    answers = device.serve(2, turned)
    assert (answers["class"].argmax(axis=1) == data.y).mean() > 0.8  # swapped inputs would give 0.2
    apart = answers["apart"][:, 0]
    np.testing.assert_allclose(apart, inputs["y"].mean(1) - inputs["label"].mean(1), atol=1e-5)


@pytest.fixture
def published(hub: HubFixture) -> HubFixture:
    """Release 1 of `machines`, made without training; no labels are asked for before the recipe is checked."""
    from fleet.protocol.manifest import Tensor
    from tests.support.manifests import small_release

    (hub.hub.config.directory / "recipes").mkdir(exist_ok=True)
    with hub.hub.session() as session:
        session.add(Model(name="machines", recipe="machines.py", created_at=0))
    encoder = drift_encoder.fit_encoder(np.random.default_rng(0).normal(size=(40, 4)), tensor="sensors")
    data = drift_encoder.encode_encoder(encoder)
    manifest, blobs = small_release(
        inputs=(Tensor(name="sensors", datatype="FP32", shape=(-1, 4)),),
        labels=("fine", "failing"),
        outputs=(Tensor(name="logits", datatype="FP32", shape=(-1, 2)),),
        sketch_id=drift_encoder.sketch_id(encoder),
        encoder=data,
    )
    for sha256, blob in blobs.items():
        hub.hub.objects.put_new(f"blobs/{sha256}", blob)
    hub.hub.publisher.publish_release("machines", manifest, actor="t")
    x = np.random.default_rng(1).normal(size=(20, 4)).astype(np.float32)
    data = Dataset({"sensors": x}, np.full(20, -1), np.arange(20).astype(str))
    snapshots.save(hub.hub, "machines", data, actor="t")
    return hub


def frozen(hub: HubFixture) -> str:
    with hub.hub.reading() as session:
        return session.exec(select(Snapshot.id)).one()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            'labels=("fine", "failing")',
            'labels=("fine", "failing"), inputs=("readings",)',
            "inputs are sensors; these names were asked for: readings",
        ),
        (
            'labels=("fine", "failing")',
            'labels=("fine", "failing"), outputs=("scores",)',
            "outputs are logits; these names were asked for: scores",
        ),
        ('labels=("fine", "failing")', 'labels=("good", "bad")', "classes are fine, failing; this has good, bad"),
        ("Examples(x, ", 'Examples({"readings": x}, ', "inputs are sensors; the data has readings"),
        ("size=(count, 4)", "size=(count, 5)", r"inputs are sensors FP32 \[-1, 4\]; this has sensors FP32 \[-1, 5\]"),
        (
            "nn.Linear(hidden, 2)",
            "nn.Linear(hidden, 3)",
            r"outputs are logits FP32 \[-1, 2\]; this has logits FP32 \[-1, 3\]",
        ),
        ("Teacher(16)", "nn.Linear(4, 3)", r"student has shape \[1, 2\], the teacher's \[1, 3\]"),
        ("nn.ReLU()", "nn.Embedding(9, 3)", "the recipe: the model does not run on the data"),
    ],
)
def test_a_recipe_that_would_break_applications_is_refused_before_it_trains(
    published: HubFixture, monkeypatch: pytest.MonkeyPatch, old: str, new: str, words: str
) -> None:
    source = MACHINES.replace(old, new).replace("nn.Linear(4, hidden)", "nn.LazyLinear(hidden)")
    assert source != MACHINES
    (published.hub.config.directory / "recipes" / "machines.py").write_text(source)
    monkeypatch.setattr("cloud_hub.training.fitting.fit_network", pytest.fail)
    job = retrain(published, "machines", snapshot=frozen(published))
    assert job.state == "failed"
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(job.error)
    assert "model 'machines' has an interface, fixed by release 1" in job.error or "the recipe" in job.error
    with published.hub.reading() as session:
        assert session.get(Release, ("machines", 2)) is None


def test_a_lost_encoder_is_named_before_anything_is_trained(published: HubFixture) -> None:
    (published.hub.config.directory / "recipes" / "machines.py").write_text(MACHINES)
    sketch = manifest_of(published, "machines", 1).sketch
    assert sketch is not None
    published.hub.objects.delete(f"blobs/{sketch.encoder.sha256}")
    job = retrain(published, "machines", snapshot=frozen(published))
    assert job.state == "failed" and "sketch encoder of model 'machines'" in job.error
    assert "--end-monitoring" in job.error


def test_training_by_hand_keeps_a_model_s_interface(published: HubFixture, tmp_path: Path) -> None:
    (tmp_path / "r.py").write_text(
        MACHINES.replace("def forward(self, sensors)", "def forward(self, x)")
        .replace("self.layers(sensors)", "self.layers(x)")
        .replace("_epochs=40", "_epochs=1")
    )
    words = [str(tmp_path / "r.py"), "--hub", str(published.hub.config.directory), "--model", "machines"]
    train([*words, "--out", str(tmp_path / "a")])
    with np.load(tmp_path / "a" / "validation.npz") as arrays:
        assert set(arrays.files) == {"sensors", "y"}
    from fleet.protocol.onnx_file import port_names

    assert port_names((tmp_path / "a" / "teacher.onnx").read_bytes()) == (("sensors",), ("logits",))
    assert json.loads((tmp_path / "a" / "metrics.json").read_text())


def test_names_that_the_recipe_says_reach_the_release(tmp_path: Path) -> None:
    """The student's own names say nothing: a tuple, and parameters that the recipe calls otherwise."""
    source = MACHINES.replace(
        'labels=("fine", "failing")', 'labels=("fine", "failing"), inputs=("x",), outputs=("probabilities",)'
    )
    (tmp_path / "r.py").write_text(source.replace("_epochs=40", "_epochs=1"))
    train([str(tmp_path / "r.py"), "--out", str(tmp_path / "t")])
    release = compiled(tmp_path / "t", tmp_path / "release", ("fine", "failing"))
    manifest = decode_manifest((release / "manifest.json").read_bytes())
    assert [t.name for t in (*manifest.inputs, *manifest.outputs)] == ["x", "probabilities"]


def test_a_model_that_means_nan_may_be_trained_on_it(tmp_path: Path) -> None:
    """Missing readings are NaN to a model that fills them in; its interface says so, and a retrain takes them."""
    (tmp_path / "machines.py").write_text(
        MACHINES.replace("return self.layers(x)", "return self.layers(x.nan_to_num())").replace(
            "return self.layers(sensors)", "return self.layers(sensors.nan_to_num())"
        )
    )
    recipe = load_recipe(str(tmp_path / "machines.py")).recipe
    sets = recipe.data()
    sets.train.inputs["x"][0, 0] = np.nan
    tensor = Tensor(name="sensors", datatype="FP32", shape=(-1, 4))
    outputs = (Tensor(name="logits", datatype="FP32", shape=(-1, 2)),)

    def contract(*, finite: bool) -> Contract:
        inputs = (msgspec.structs.replace(tensor, finite=finite),)
        return Contract("machines", "it is", Interface(inputs=inputs, outputs=outputs, labels=("fine", "failing")))

    settled = settle_contract(recipe, sets, contract(finite=False), tmp_path / "out")
    assert list(settled.sets.train.inputs) == ["sensors"] and settled.outputs == ("logits",)
    with pytest.raises(InvalidError, match="train: input 'x' holds NaN or infinity in row 0"):
        settle_contract(recipe, sets, contract(finite=True), tmp_path / "out")
