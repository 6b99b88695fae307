"""Recipes for tasks other than classes, by every way to fit: what is settled, trained, gated, and kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from msgspec import structs
from torch import nn

from cloud_hub.errors import InvalidError
from cloud_hub.samples.dataset import make_dataset
from cloud_hub.training.checking import Contract, Settled, handful, samples_of, settle_contract, task_of
from cloud_hub.training.dealing import deal_run
from cloud_hub.training.examples import Examples, Sets, labels_like
from cloud_hub.training.handed import CURRENT, CURRENT_FILES, Handed, weights_in
from cloud_hub.training.models import Made
from cloud_hub.training.recipe import Fitting, Hyper, LoadedRecipe, Recipe
from cloud_hub.training.run import onnx_of_made, run_training, settle_run
from cloud_hub.training.run_request import RunRequest
from cloud_hub.training.teacher_student import train_student, train_teacher
from cloud_hub.training.work import GateRefusedError, gate_model
from fleet.protocol.interface import Interface
from fleet.protocol.manifest import Blob, Tensor, decode_manifest, encode_manifest
from fleet.protocol.task import TaskSpec
from model_compiler.build import litert
from model_compiler.errors import InterfaceError
from tests.support.manifests import small_release

torch.set_num_threads(1)
QUICK = Hyper(teacher_epochs=25, student_epochs=25, batch=32, teacher_rate=0.02, student_rate=0.02)


class Two(nn.Module):
    """Two named inputs to `width` numbers."""

    def __init__(self, width: int = 1, hidden: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, width))

    def forward(self, load: torch.Tensor, speed: torch.Tensor) -> torch.Tensor:
        return self.layers(torch.cat([load, speed], dim=1))


def rows(count: int, seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {name: random.normal(size=(count, 2)).astype(np.float32) for name in ("speed", "load")}


LABELS: dict[str, Any] = {
    "regression": lambda x: (3 * x["load"][:, 0] - x["speed"][:, 1]).astype(np.float32),
    "multi-label": lambda x: np.stack([x["load"][:, 0] > 0, x["speed"][:, 1] > 0], 1).astype(np.int64),
    "anomaly-score": lambda x: (x["load"][:, 0] > 1).astype(np.int64),
}
TASKS = {
    "regression": "regression:tolerance=1",
    "multi-label": "multi-label:logits=true",
    "anomaly-score": "anomaly-score:threshold=0.5",
}


def sets(task: str, train: int = 200) -> Sets:
    made = []
    for seed, count in enumerate((train, 40, 60, 60)):
        x = rows(count, seed)
        made.append(Examples(x, LABELS[task](x)))
    return Sets(*made)


def recipe(task: str, **more: Any) -> Recipe:
    names = ("heavy", "fast") if task == "multi-label" else ()
    given: dict[str, Any] = {"student": lambda: Two(max(1, len(names))), **more}
    return Recipe(data=lambda: sets(task), labels=names, task=TASKS[task], hyper=QUICK, **given)


def trained(made: Recipe, out: Path, **more: Any) -> tuple[Made | None, Made, Settled, RunRequest]:
    request = RunRequest(LoadedRecipe("r", "0" * 64, made), out, seed=1, **more)
    settled = settle_run(request)
    parts = deal_run(request, settled)
    teacher = train_teacher(request, parts, settled)
    return teacher, train_student(request, parts, settled, teacher), settled, request


@pytest.mark.parametrize(
    ("task", "metric", "better"),
    [
        ("regression", "rmse", 1.0),
        ("multi-label", "f1", 0.9),
        ("anomaly-score", "auc", 0.95),
    ],
)
@pytest.mark.parametrize("taught", [True, False])
def test_the_kit_s_loop_learns_each_task_with_and_without_a_teacher(
    tmp_path: Path, task: str, metric: str, better: float, taught: bool
) -> None:
    made = recipe(task, teacher=(lambda: Two(2 if task == "multi-label" else 1)) if taught else None)
    teacher, student, settled, _ = trained(made, tmp_path)
    exam = settled.sets.exam
    value, (low, high) = settled.metric.measure(student.answers(exam.inputs), exam.y)
    assert settled.metric.name == metric and low <= value <= high and (teacher is not None) == taught
    assert value <= better if metric == "rmse" else value >= better
    assert (tmp_path / "student.safetensors").is_file() and list(settled.sets.train.inputs) == ["speed", "load"]


def test_a_recipe_s_own_loss_sees_what_forward_gives_in_training(tmp_path: Path) -> None:
    class Auto(Two):
        def forward(self, load: torch.Tensor, speed: torch.Tensor) -> Any:
            both = torch.cat([load, speed], dim=1)
            error = ((both - self.layers(both)) ** 2).mean(dim=1)
            return {"score": error, "again": self.layers(both)} if self.training else {"score": error}

    def loss(answer: dict[str, torch.Tensor], batch: Any) -> torch.Tensor:
        return ((answer["again"] - torch.cat([batch.inputs["load"], batch.inputs["speed"]], 1)) ** 2).mean()

    made = recipe("anomaly-score", student=lambda: Auto(4), loss=loss)
    _, student, settled, _ = trained(made, tmp_path)
    assert settled.outputs == ("score",)
    inputs = settled.sets.exam.inputs
    usual = student.answers(inputs)["score"]
    strange = student.answers({name: 10 * array for name, array in inputs.items()})["score"]
    assert strange.mean() > 3 * usual.mean()


def closed(given: Fitting) -> nn.Module:
    """Least squares, as a torch module."""
    x = np.concatenate([given.train.inputs["load"], given.train.inputs["speed"], np.ones((len(given.train), 1))], 1)
    found = torch.from_numpy(np.linalg.lstsq(x, given.train.y, rcond=None)[0].astype(np.float32))

    class Line(nn.Module):
        def forward(self, load: torch.Tensor, speed: torch.Tensor) -> torch.Tensor:
            return torch.cat([load, speed], dim=1) @ found[:4, None] + found[4]

    return Line()


def estimator(given: Fitting) -> Any:
    from sklearn.linear_model import LinearRegression

    return LinearRegression().fit(given.train.inputs["x"], given.train.y)


def flat(part: Examples) -> Examples:
    return Examples(np.concatenate(list(part.inputs.values()), axis=1), part.y)


@pytest.mark.parametrize("fit", [closed, estimator])
def test_a_recipe_may_fit_by_itself(tmp_path: Path, fit: Any) -> None:
    data = sets("regression") if fit is closed else sets("regression").each(flat)
    made = Recipe(data=lambda: data, fit=fit, task=TASKS["regression"], targets=("onnx-fp32",))
    found = run_training(RunRequest(LoadedRecipe("r", "0" * 64, made), tmp_path))
    assert found["student"] < 1e-3
    assert (tmp_path / ("student.pt2" if fit is closed else "student.onnx")).is_file()
    assert not (tmp_path / "teacher.onnx").exists()


def test_an_estimator_of_classes_answers_one_table_of_probabilities(tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression

    def fit(given: Fitting) -> Any:
        return LogisticRegression().fit(given.train.inputs["x"], given.train.y)

    data = sets("anomaly-score").each(flat)
    made = Recipe(data=lambda: data, fit=fit, labels=("fine", "odd"), targets=("onnx-fp32",))
    settled = settle_contract(made, data, None, tmp_path)
    assert len(settled.outputs) == 1 and settled.task.name == "classification"
    assert run_training(RunRequest(LoadedRecipe("r", "0" * 64, made), tmp_path))["student"] > 0.9


def test_labels_of_samples_join_those_of_the_recipe(tmp_path: Path) -> None:
    settled = settle_contract(recipe("regression"), sets("regression"), None, tmp_path)
    x = rows(6, 9)
    snapshot = make_dataset(x, (1.5, None, -2.0, 3, None, 0.0), np.arange(6).astype(str))
    found = samples_of(snapshot, settled.sets.train, settled.task)
    assert found.labelled.tolist() == [True, False, True, True, False, True]
    assert found.y[found.labelled].tolist() == [1.5, -2.0, 3.0, 0.0] and found.y.dtype == np.float32
    joined = settled.sets.train.join(found)
    assert len(joined.with_labels()) == 204 and len(joined) == 206
    wrong = make_dataset(x, ("heavy", None, None, None, None, None), np.arange(6).astype(str))
    with pytest.raises(InvalidError, match="sample 0 of the snapshot"):
        samples_of(wrong, settled.sets.train, settled.task)


def test_boxes_are_filled_up_to_the_most_of_either_side() -> None:
    own = np.full((3, 2, 5), -1, np.float32)
    labels = [(np.ones((3, 4)), np.array([0, 1, 1])), (np.zeros((0, 4)), np.zeros(0, np.int64))]
    y = labels_like(labels, np.array([0, 2]), 3, own)
    assert y.shape == (3, 3, 5) and y[0, :, 4].tolist() == [0, 1, 1] and (y[1:] == -1).all()
    joined = Examples(np.zeros((3, 1)), own).join(Examples(np.zeros((3, 1)), y))
    assert joined.y.shape == (6, 3, 5)


def interface(spec: TaskSpec) -> Interface:
    inputs = tuple(Tensor(name=name, datatype="FP32", shape=(-1, 2)) for name in ("load", "speed"))
    return Interface(inputs=inputs, outputs=(Tensor(name="output", datatype="FP32", shape=(-1, 1)),), task=spec)


def test_the_model_s_task_outranks_the_recipe_s() -> None:
    fixed = TaskSpec(name="regression", tolerance=2.0)
    contract = Contract("scales", "model 'scales' has an interface", interface(fixed))
    silent = msgspec.structs.replace(fixed)
    assert task_of(Recipe(data=lambda: sets("regression"), student=Two), contract) == silent
    with pytest.raises(InterfaceError, match=r"its task is regression \(tolerance 2.0\); the recipe's is"):
        task_of(recipe("regression"), contract)


WRONG = [
    (dict(task="regression"), "needs a tolerance"),
    (dict(task="telepathy"), "there is no task 'telepathy'"),
    (dict(loss="entropy"), "no loss 'entropy'"),
    (dict(task=""), "a classification's labels are integers"),
    (dict(task="embedding"), "no loss of its own"),
    (dict(task="multi-label"), "none of the task multi-label: they are 0 or 1"),
    (dict(student=None, fit=lambda given: 7), "fit returned int"),
    (dict(metric="map"), "the metric map is for a multi-label or detection"),
]


@pytest.mark.parametrize(("change", "words"), WRONG, ids=[words for _, words in WRONG])
def test_what_a_recipe_lacks_is_said_in_words(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    given = {"task": TASKS["regression"], "student": Two, **change}
    with pytest.raises(InvalidError, match=words):
        trained(Recipe(data=lambda: sets("regression"), hyper=QUICK, **given), tmp_path)


@pytest.mark.parametrize(("kept", "expected"), [(None, "?"), ("BOOL", "?"), ("UINT8", "u1"), ("FP32", "f4")])
def test_truth_values_stay_unless_applications_of_the_model_send_numbers(
    tmp_path: Path, kept: str | None, expected: str
) -> None:
    def switched(part: Examples) -> Examples:
        return Examples({**part.inputs, "load": part.inputs["load"] > 0}, part.y)

    class Switches(Two):
        def forward(self, load: torch.Tensor, speed: torch.Tensor) -> torch.Tensor:
            return super().forward(load.to(torch.float32), speed)

    made = Recipe(data=lambda: sets("regression"), student=Switches, task=TASKS["regression"], hyper=QUICK)
    contract = None
    if kept is not None:
        fixed = Interface(
            inputs=(
                Tensor(name="load", datatype=kept, shape=(-1, 2)),
                Tensor(name="speed", datatype="FP32", shape=(-1, 2)),
            ),
            outputs=(Tensor(name="output", datatype="FP32", shape=(-1, 1)),),
            task=TaskSpec(name="regression", tolerance=1),
        )
        contract = Contract("drill", "the model", fixed)
    settled = settle_contract(made, sets("regression").each(switched), contract, tmp_path)
    assert settled.sets.train.inputs["load"].dtype == np.dtype(expected)
    assert settled.sets.train.inputs["load"].sum() == (sets("regression").train.inputs["load"] > 0).sum()


def test_a_handful_has_rows_of_each_class_and_enough_of_all() -> None:
    y = np.zeros(5000, np.int64)
    y[[4000, 4001, 4999]] = [1, 1, 2]
    few = handful(Examples(np.arange(5000.0)[:, None], y))
    assert 64 <= len(few) <= 80 and set(few.y.tolist()) == {0, 1, 2}
    assert len(handful(Examples(np.zeros((9, 1)), np.zeros(9, np.float32)))) == 9


def test_a_recipe_has_a_student_or_its_own_fit() -> None:
    for given in ({}, {"student": Two, "fit": closed}):
        with pytest.raises(InvalidError, match="either a student"):
            Recipe(data=lambda: sets("regression"), **given)


def test_a_retrain_may_start_from_the_weights_of_the_release_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.numpy import load_file

    _, student, settled, _ = trained(recipe("regression"), tmp_path / "first")
    start = {"student": load_file(tmp_path / "first" / "student.safetensors")}
    still = recipe("regression", warm=True)
    still = Recipe(**{**vars(still), "hyper": Hyper(student_epochs=0)})
    _, again, _, _ = trained(still, tmp_path / "second", start=start)
    x = settled.sets.exam.inputs
    assert np.array_equal(student.answers(x)["output"], again.answers(x)["output"])
    _, cold, _, _ = trained(still, tmp_path / "third", start={"student": {"other": np.zeros(1, np.float32)}})
    assert not np.array_equal(student.answers(x)["output"], cold.answers(x)["output"])
    capsys.readouterr()
    file = onnx_of_made(student, settled.sets.train)
    _, again, _, _ = trained(still, tmp_path / "fourth", start={"student": weights_in(file)})
    assert np.array_equal(student.answers(x)["output"], again.answers(x)["output"])
    assert "student: warm start" in capsys.readouterr().err
    wider = Recipe(**{**vars(still), "student": lambda: Two(1, hidden=8)})
    cases: list[tuple[Any, str]] = [
        ({}, "no file that holds them"),
        (weights_in(file), "has shape [16, 4] in the"),
    ]
    for start, words in cases:
        trained(wider, tmp_path / "fifth", start={"student": start})
        said = capsys.readouterr().err
        assert "student: it starts anew: " in said and words in said


def test_a_retrain_may_start_from_a_litert_file_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All that is known of a release that was published by hand, as the tutorial does it."""
    _, student, settled, _ = trained(recipe("regression"), tmp_path / "first")
    assert student.module is not None
    released = litert.convert(student.module, tuple(torch.zeros(1, 2) for _ in settled.sets.train.inputs))
    still = recipe("regression")
    still = Recipe(**{**vars(still), "hyper": Hyper(student_epochs=0)})
    capsys.readouterr()
    _, again, _, _ = trained(still, tmp_path / "second", start={"student": {}}, released=released)
    assert "student: warm start" in capsys.readouterr().err
    x = settled.sets.exam.inputs
    assert np.array_equal(student.answers(x)["output"], again.answers(x)["output"])


@pytest.mark.parametrize("order", [("litert-int8", "litert-fp32"), ("litert-int8",)])
def test_a_fit_is_handed_the_most_precise_file_that_devices_have(tmp_path: Path, order: tuple[str, ...]) -> None:
    data, _ = small_release()
    manifest = decode_manifest(data)
    (edge, *_) = manifest.placed("edge")
    named = [
        structs.replace(edge, name=name, precision=name.partition("-")[2], blob=Blob(sha256=f"{place:064x}", size=1))
        for place, name in enumerate(order)
    ]
    handed = Handed(tmp_path)
    assert handed.student == b""
    (tmp_path / CURRENT).write_bytes(encode_manifest(structs.replace(manifest, variants=tuple(named))))
    (tmp_path / CURRENT_FILES).mkdir()
    for variant in named:
        (tmp_path / CURRENT_FILES / variant.blob.sha256).write_bytes(variant.name.encode())
    assert handed.student == order[-1].encode()


def test_a_warm_start_has_epochs_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.numpy import load_file

    several = recipe("regression")
    several = Recipe(**{**vars(several), "hyper": Hyper(student_epochs=3, warm_epochs=2)})
    trained(several, tmp_path / "first")
    assert "student: epoch 3 of 3" in capsys.readouterr().err
    start = {"student": load_file(tmp_path / "first" / "student.safetensors")}
    trained(several, tmp_path / "second", start=start)
    assert "student: epoch 2 of 2" in capsys.readouterr().err


def test_the_gate_asks_the_task_who_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, good, settled, _ = trained(recipe("regression"), tmp_path)
    bad = Made(settled.outputs, module=placed_bad())
    exam = settled.sets.exam
    assert gate_model("model", None, good, exam, settled)["gate_new"] > 0.7
    monkeypatch.setattr("cloud_hub.training.work.ask", lambda release, inputs: good.answers(inputs))
    monkeypatch.setattr("cloud_hub.training.work._called", lambda gate, number, manifest: dict(gate.inputs))
    release: Any = type("Released", (), {"number": 3, "manifest": None})()
    same = gate_model("model", release, good, exam, settled)
    assert same["gate_new"] == same["gate_old"] and same["gate_release"] == 3
    with pytest.raises(GateRefusedError, match="release 3 gets"):
        gate_model("model", release, bad, exam, settled)


def placed_bad() -> nn.Module:
    class Nine(nn.Module):
        def forward(self, speed: torch.Tensor, load: torch.Tensor) -> torch.Tensor:
            return torch.full((len(load), 1), 9.0)

    return Nine()
