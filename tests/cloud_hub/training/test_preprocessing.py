"""A model behind steps whose constants training fits: trained, compiled, served raw, and trained again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cloud_hub.errors import ConflictError, InvalidError
from cloud_hub.samples.dataset import Dataset
from cloud_hub.training.checking import Contract, settle_contract
from cloud_hub.training.cli import main as train
from cloud_hub.training.dealing import deal_run
from cloud_hub.training.recipe import Examples, Recipe, Sets, load_recipe
from cloud_hub.training.rehearsal import rehearse
from cloud_hub.training.run import settle_run
from cloud_hub.training.run_request import RunRequest
from cloud_hub.training.steps import fitted
from cloud_hub.training.trying import request_of
from fleet.protocol.interface import Interface, interface_of
from fleet.protocol.manifest import Tensor
from fleet.protocol.steps import AnyStep, Clip, Concat, Impute, Normalise, OneHot, Ordinal, Scale
from model_compiler.inputs.dataset import load_dataset
from model_compiler.inputs.preprocessing import Preparation, read_steps
from tests.support.hub import HubFixture
from tests.support.loop import DeviceOf, Rows, compiled, create, manifest_of, publish, retrain, validation_of

torch.set_num_threads(1)

WORN = '''
"""Worn tools, of two readings in their units, some of them missing, and the kind of machine in words."""
import numpy as np
from torch import nn
from cloud_hub.training.recipe import Examples, Hyper, Recipe, Sets
from fleet.protocol.steps import Concat, Impute, Normalise, OneHot

class Net(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, hidden), nn.ReLU(), nn.Linear(hidden, 2))

    def forward(self, features):
        return {"worn": self.layers(features)}

def rows(count, seed):
    random = np.random.default_rng(seed)
    sensors = random.normal((300, 1500), (2, 180), (count, 2)).astype(np.float32)
    kind = random.choice(["H", "L", "M"], count)
    y = ((sensors[:, 0] - 300) / 2 + (kind == "H") > 0.3).astype(np.int64)
    sensors[random.random(count) < 0.1, 1] = np.nan
    return Examples({"kind": kind, "sensors": sensors}, y)

RECIPE = Recipe(
    data=lambda: Sets(rows(300, 1), rows(60, 2), rows(80, 3), rows(60, 4)), labels=("fine", "worn"),
    teacher=lambda: Net(16), student=lambda: Net(8), targets=("litert-fp32", "litert-int8", "onnx-fp32"),
    hyper=Hyper(teacher_epochs=25, student_epochs=25, teacher_rate=0.02, student_rate=0.02, batch=32),
    preprocess=(
        Impute(input="sensors"), Normalise(input="sensors"), OneHot(input="kind"),
        Concat(inputs=("sensors", "kind"), output="features"),
    ),
)
'''
KINDS = ("impute sensors", "normalise sensors", "one-hot kind", "concat sensors, kind")


INTERFACE = Interface(
    inputs=(
        Tensor(name="kind", datatype="BYTES", shape=(-1,)),
        Tensor(name="sensors", datatype="FP32", shape=(-1, 2), finite=False),
    ),
    outputs=(Tensor(name="worn", datatype="FP32", shape=(-1, 2)),),
    labels=("fine", "worn"),
    preprocess=KINDS,
)


TONES = '''
"""High and low tones in 64 samples of sound; their spectrum is a front, and its bands are normalised."""
import math
import numpy as np
import torch
from torch import nn
from cloud_hub.training.recipe import Examples, Hyper, Recipe, Sets
from fleet.protocol.steps import Normalise

class Spectrum(nn.Module):
    def __init__(self):
        super().__init__()
        phase = 2 * math.pi * torch.outer(torch.arange(64) / 64, torch.arange(1, 17))
        self.register_buffer("waves", torch.cat([torch.cos(phase), torch.sin(phase)], dim=1))

    def forward(self, sound):
        real, imaginary = (sound @ self.waves).split(16, dim=1)
        return {"bands": torch.log(real * real + imaginary * imaginary + 1e-3)}

class Net(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(16, hidden), nn.ReLU(), nn.Linear(hidden, 2))

    def forward(self, bands):
        return {"pitch": self.layers(bands)}

def rows(count, seed, loud=1.0):
    random = np.random.default_rng(seed)
    y = random.integers(0, 2, count)
    turns = np.where(y == 1, random.uniform(9, 14, count), random.uniform(2, 7, count))[:, None]
    phase = 2 * np.pi * turns * np.arange(64) / 64 + random.uniform(0, 6.28, count)[:, None]
    sound = loud * np.sin(phase) + 0.05 * random.normal(size=(count, 64))
    return Examples({"sound": sound.astype(np.float32)}, y.astype(np.int64))

RECIPE = Recipe(
    data=lambda: Sets(rows(200, 1), rows(50, 2), rows(70, 3), rows(40, 4)), labels=("low", "high"), front=Spectrum,
    preprocess=(Normalise(input="bands"),), teacher=lambda: Net(12), student=lambda: Net(6), targets=("onnx-fp32",),
    hyper=Hyper(teacher_epochs=15, student_epochs=15, teacher_rate=0.02, student_rate=0.02, batch=32),
)
'''


def pitch(x: Rows) -> int:
    """By the strongest frequency, which no network computes."""
    return int(np.abs(np.fft.rfft(x["sound"][0]))[1:].argmax() + 1 > 8)


def test_a_model_behind_a_front_goes_round_the_loop(hub: HubFixture, tmp_path: Path, device_of: DeviceOf) -> None:
    recipe = create(hub, "pitch", TONES)
    trained = tmp_path / "trained"
    train([str(recipe), "--out", str(trained)])
    publish(hub, compiled(recipe, trained, tmp_path / "release"), "pitch")
    first = manifest_of(hub, "pitch", 1)
    assert interface_of(first).preprocess == ("front sound", "normalise bands") and first.in_front is not None
    assert [(tensor.name, tensor.shape) for tensor in first.inputs] == [("sound", (-1, 64))]

    device = device_of(hub, "pitch")
    device.reproduces(1, load_dataset(trained / "validation.npz"), recipe)
    fresh = load_recipe(str(recipe)).recipe.data().exam.inputs["sound"] * np.float32(3)  # another microphone
    device.serve(1, {"sound": fresh})
    assert device.label(pitch) == 70 + len(fresh)
    answer = hub.client.put("/api/v1/channels/stable/models/pitch", json={"release": 1}, headers=hub.auth())
    assert answer.status_code == 200, answer.text
    job = retrain(
        hub, "pitch", channel="stable", rollout={"stages": [50, 100], "guard": {"evidence": "install"}}, seed=1
    )
    assert job.state == "succeeded", job.error
    assert job.result["gate_old"] > 0.7 and job.result["gate_new"] > 0.7 and job.result["gate_labels"] > 0
    second = manifest_of(hub, "pitch", 2)
    assert interface_of(second) == interface_of(first) and second.steps != first.steps
    assert second.in_front == first.in_front  # to the bit: devices have it already
    update, whole = job.result["update_bytes"]["onnx-fp32"], job.result["whole_bytes"]["onnx-fp32"]
    assert update < whole - first.in_front.blob.size
    device.reproduces(2, validation_of(hub, "pitch", recipe, job.result["snapshot"], tmp_path), recipe)


def right(x: Rows) -> int:
    return int((x["sensors"][0, 0] - 300) / 2 + (x["kind"][0] == b"H") > 0.3)


def fresh(count: int) -> Rows:
    """Rows around other means than those of the recipe."""
    random = np.random.default_rng(9)
    kind = np.array([str(word).encode() for word in random.choice(["H", "L", "M"], count)], object)
    return {"sensors": random.normal((301, 1400), (2, 180), (count, 2)).astype(np.float32), "kind": kind}


def test_a_model_behind_steps_goes_round_the_loop(hub: HubFixture, tmp_path: Path, device_of: DeviceOf) -> None:
    recipe = create(hub, "worn", WORN)
    trained = tmp_path / "trained"
    train([str(recipe), "--out", str(trained)])
    steps = read_steps((trained / "steps.json").read_bytes(), "steps.json")
    assert isinstance(steps[1], Normalise) and steps[1].mean == pytest.approx((300, 1500), rel=0.02)
    assert isinstance(steps[2], OneHot) and steps[2].vocabulary == ("H", "L", "M")
    publish(hub, compiled(recipe, trained, tmp_path / "release"), "worn")
    first = manifest_of(hub, "worn", 1)
    assert interface_of(first).preprocess == KINDS and first.steps == steps
    assert {variant.name for variant in first.placed("edge")} == {"litert-fp32", "litert-int8", "onnx-fp32"}

    device = device_of(hub, "worn")
    device.reproduces(1, load_dataset(trained / "validation.npz", non_finite=("sensors",)), recipe)
    device.serve(1, fresh(60))
    assert device.label(right) == 60 + 80
    answer = hub.client.put("/api/v1/channels/stable/models/worn", json={"release": 1}, headers=hub.auth())
    assert answer.status_code == 200, answer.text
    job = retrain(
        hub, "worn", channel="stable", rollout={"stages": [50, 100], "guard": {"evidence": "install"}}, seed=1
    )
    assert job.state == "succeeded", job.error
    assert job.result["gate_old"] > 0.7 and job.result["gate_new"] > 0.7
    second = manifest_of(hub, "worn", 2)
    assert interface_of(second) == interface_of(first) and second.steps != first.steps
    device.reproduces(2, validation_of(hub, "worn", recipe, job.result["snapshot"], tmp_path), recipe)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('Impute(input="sensors"), ', "", "preprocessing is impute sensors; normalise sensors"),
        ('Impute(input="sensors"), Normalise(input="sensors")', 'Impute(input="sensors")', "impute sensors; normalise"),
        ('OneHot(input="kind")', 'OneHot(input="sort")', "one-hot kind"),
    ],
)
def test_a_recipe_with_other_kinds_of_steps_than_the_model_is_refused(
    hub: HubFixture, tmp_path: Path, old: str, new: str, words: str
) -> None:
    path = tmp_path / "worn.py"
    path.write_text(WORN.replace(old, new))
    recipe = load_recipe(str(path)).recipe
    with pytest.raises(ConflictError, match=words):
        settle_contract(recipe, recipe.data(), Contract("worn", "the model", INTERFACE), tmp_path)


def test_the_check_of_a_recipe_goes_through_its_steps(tmp_path: Path) -> None:
    (tmp_path / "worn.py").write_text(WORN)
    steps = list(rehearse(load_recipe(str(tmp_path / "worn.py")), tmp_path / "out"))
    assert [step.words for step in steps if not step.passed] == [] and steps[-1].name == "export"
    assert "inputs kind object [n], sensors float32 [n, 2]" in steps[0].words


def fit(steps: tuple[AnyStep, ...], inputs: dict[str, np.ndarray]) -> tuple[AnyStep, ...]:
    return fitted(Preparation(steps=steps, loose=("x",)), inputs)


def test_constants_are_those_of_the_rows_and_what_is_given_stays() -> None:
    random = np.random.default_rng(0)
    x = random.normal(5, 2, (200, 3)).astype(np.float32)
    x[:20, 1] = np.nan
    x[:, 2] = 7
    kind = np.array([b"b", b"a", b"b", b"c"] * 50, object)
    scale, impute, normalise, clip, hot, place, _ = fit(
        (
            Scale(input="y"),
            Impute(input="x"),
            Normalise(input="x", std=(2.0,)),
            Clip(input="x"),
            OneHot(input="k"),
            Ordinal(input="n"),
            Concat(inputs=("x", "k"), output="all"),
        ),
        {"x": x, "y": x[:, :1], "k": kind, "n": np.arange(200) % 3},
    )
    y = x[:, 0].astype(np.float64)
    assert scale.factor == pytest.approx((1 / (y.max() - y.min()),)) and scale.offset[0] == -y.min() * scale.factor[0]
    assert impute.value == pytest.approx(np.nanmedian(x.astype(np.float64), axis=0))
    filled = np.where(np.isnan(x), np.float32(impute.value), x)
    assert normalise.mean == pytest.approx(filled.astype(np.float64).mean(axis=0)) and normalise.std == (2.0,)
    made = ((filled - np.float32(normalise.mean)) / np.float32(2)).astype(np.float64)
    assert clip.low == pytest.approx(made.min(axis=0)) and clip.high == pytest.approx(made.max(axis=0))
    assert hot.vocabulary == ("a", "b", "c") and place.vocabulary == (0, 1, 2)


def test_channels_have_constants_of_their_own_and_what_does_not_vary_is_left_alone() -> None:
    image = np.stack([np.full((10, 4, 4), 3.0), np.arange(160.0).reshape(10, 4, 4)], axis=1).astype(np.float32)
    (found,) = fit((Normalise(input="image", axis=-3),), {"image": image})
    assert isinstance(found, Normalise) and found.mean == (3.0, 79.5) and found.std[0] == 1.0
    ready = Preparation(steps=(found,)).pipeline({"image": image})
    assert ready is not None and abs(float(ready.run({"image": image})["image"].mean())) < 1e-6


WRONG: list[tuple[AnyStep, str]] = [
    (Normalise(input="z"), "there is no 'z'"),
    (Normalise(input="k"), "it holds text"),
    (Normalise(input="x", axis=-2), "axis -2"),
    (OneHot(input="x"), "it holds float32"),
    (Impute(input="x"), "element 1 is NaN"),
]


@pytest.mark.parametrize(("step", "words"), WRONG, ids=[words for _, words in WRONG])
def test_what_cannot_be_fitted_is_said(step: AnyStep, words: str) -> None:
    x = np.ones((4, 2), np.float32)
    x[:, 1] = np.nan
    with pytest.raises(InvalidError, match=words):
        fit((step,), {"x": x, "k": np.array([b"a"] * 4, object)})


def test_a_new_model_may_take_nan_by_its_recipe_alone(tmp_path: Path) -> None:
    source = WORN.replace('Impute(input="sensors"), ', "").replace(
        "self.layers(features)", "self.layers(features.nan_to_num())"
    )
    path = tmp_path / "worn.py"
    for more, wrong in (
        ("", "input 'sensors' holds NaN"),
        ('non_finite=("sensors",), ', ""),
        ('non_finite=("load", "sensors"), ', "no input or output 'load'"),
    ):
        path.write_text(source.replace("    preprocess=", f"    {more}preprocess="))
        steps = list(rehearse(load_recipe(str(path)), tmp_path / "out"))
        assert steps[-1].passed == (not wrong) and wrong in steps[-1].words


UNKNOWN = WORN.replace(
    'OneHot(input="kind")', 'Ordinal(input="sort", unknown="last"), OneHot(input="kind", unknown="zeros")'
)
UNKNOWN = UNKNOWN.replace("Normalise, OneHot", "Normalise, OneHot, Ordinal").replace(
    '"sensors": sensors}', '"sensors": sensors, "sort": kind}'
)
UNKNOWN = UNKNOWN.replace("self, features", "self, features, sort")


def test_a_new_word_of_a_sample_changes_no_column_and_numbers_are_fitted_to_all(tmp_path: Path) -> None:
    (tmp_path / "worn.py").write_text(UNKNOWN)
    loaded = load_recipe(str(tmp_path / "worn.py"))
    kind = np.array([b"A", b"H", b"L", b"M"] * 25, object)
    random = np.random.default_rng(3)
    sensors = random.normal((900, 1500), (2, 180), (100, 2)).astype(np.float32)
    taken = Dataset({"kind": kind, "sensors": sensors, "sort": kind}, np.arange(100) % 2, np.arange(100).astype(str))
    request = RunRequest(loaded, tmp_path / "out", snapshot=taken)
    settled = settle_run(request)
    parts = deal_run(request, settled)
    _, normalise, place, hot, _ = parts.steps.preparation.steps
    assert isinstance(place, Ordinal) and isinstance(hot, OneHot) and isinstance(normalise, Normalise)
    assert place.vocabulary == hot.vocabulary == ("H", "L", "M") and normalise.mean[0] > 400
    ready = parts.steps.inputs({name: array[:2] for name, array in taken.inputs.items()})
    assert ready["features"][:, 2:].tolist() == [[0, 0, 0], [1, 0, 0]] and ready["sort"].tolist() == [3, 0]


class Drawn(torch.nn.Module):
    """A front with weights that nobody trains."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = torch.nn.Linear(2, 2)

    def forward(self, sensors: torch.Tensor) -> torch.Tensor:
        return self.mix(sensors)


def test_a_front_that_is_drawn_is_the_same_in_every_run(tmp_path: Path) -> None:
    recipe = Recipe(data=lambda: sets, student=Drawn, front=Drawn, labels=("fine", "worn"))
    rows = Examples({"sensors": np.ones((4, 2), np.float32)}, np.arange(4) % 2)
    sets, found = Sets(rows, rows, rows, rows), []
    for seed in (1, 2):  # as another run, or another of torchrun's processes, may have drawn before
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        front = request_of(recipe, sets, None, frozenset(), tmp_path, None, None).front
        assert front is not None and torch.equal(torch.get_rng_state(), before)
        found.append(front.data)
    assert found[0] == found[1]
