"""One training run: teacher, then student, then the files that the compiler takes from there."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from cloud_hub.samples.dataset import Dataset
from cloud_hub.training.recipe import Examples, LoadedRecipe, Sets, swap_labels
from fleet.protocol.manifest import Lineage

if TYPE_CHECKING:
    from torch import nn

Progress = Callable[[str, float], None]
GATE_SHARE, CALIBRATION_SHARE = 0.25, 0.1  # of a snapshot's human labels, kept out of training


@dataclass(frozen=True)
class RunRequest:
    """What to train. `progress(step, fraction)` may raise to stop the run."""

    loaded: LoadedRecipe
    out: Path
    seed: int = 0
    snapshot: Dataset | None = None
    swap: tuple[int, int] | None = None
    progress: Progress = lambda step, fraction: None


@dataclass(frozen=True)
class Parts:
    """A run's sets after a snapshot was dealt out. `gate` are human labels that training never saw."""

    train: Examples
    unlabelled: Examples
    calibration: Examples
    validation: Examples
    gate: Examples
    exam: Examples


def deal(sets: Sets, snapshot: Dataset | None, *, seed: int, repeats: int) -> Parts:
    """Join the recipe's sets with a snapshot's samples.

    A quarter of the human labels is kept for the gate (and joins the validation set), a tenth for
    calibration; the rest is trained on `repeats` times. Samples without a label teach the student
    through the teacher alone.
    """
    none = sets.train.take(np.zeros(0, np.int64))
    if snapshot is None:
        return Parts(sets.train, none, sets.calibration, sets.validation, none, sets.exam)
    every = _unique(Examples(snapshot.x, snapshot.label), of=sets)
    labelled = every.take(np.flatnonzero(every.y >= 0))
    order = np.random.default_rng(seed).permutation(len(labelled))
    kept, tuned = int(GATE_SHARE * len(order)), int(CALIBRATION_SHARE * len(order))
    gate, calibration = labelled.take(order[:kept]), labelled.take(order[kept : kept + tuned])
    train = sets.train
    for _ in range(repeats):
        train = train.join(labelled.take(order[kept + tuned :]))
    return Parts(
        train=train,
        unlabelled=every.take(np.flatnonzero(every.y < 0)),
        calibration=sets.calibration.join(calibration),
        validation=sets.validation.join(gate),
        gate=gate,
        exam=sets.exam,
    )


def _unique(samples: Examples, *, of: Sets) -> Examples:
    """Each input once, labelled ones first, without those that a held-out set holds already."""
    seen = {row.tobytes() for part in (of.calibration, of.validation, of.exam) for row in part.x}
    rows: list[int] = []
    for row in np.argsort(samples.y < 0, kind="stable"):
        key = samples.x[row].tobytes()
        if key not in seen:
            seen.add(key)
            rows.append(int(row))
    return samples.take(np.asarray(rows, np.int64))


def train_teacher(request: RunRequest, parts: Parts) -> nn.Module:
    """Train the recipe's teacher; goes on from its checkpoint in `out` when there is one."""
    import torch

    from cloud_hub.training.fitting import FitSettings, fit

    recipe, hyper = request.loaded.recipe, request.loaded.recipe.hyper
    torch.manual_seed(request.seed)
    settings = FitSettings(
        hyper.teacher_epochs, hyper.batch, hyper.teacher_rate, hyper.weight_decay, request.seed,
        checkpoint=request.out / "checkpoints" / "teacher.safetensors", augment=recipe.augment,
        tick=lambda share: request.progress("training the teacher", share),
    )  # fmt: skip
    return fit(recipe.teacher(), parts.train, settings)


def train_student(request: RunRequest, parts: Parts, teacher: nn.Module) -> nn.Module:
    """Distil the recipe's student from `teacher`."""
    import torch

    from cloud_hub.training.fitting import FitSettings, fit

    recipe, hyper = request.loaded.recipe, request.loaded.recipe.hyper
    torch.manual_seed(request.seed + 1)
    settings = FitSettings(
        hyper.student_epochs, hyper.batch, hyper.student_rate, hyper.weight_decay, request.seed + 1,
        checkpoint=request.out / "checkpoints" / "student.safetensors", augment=recipe.augment,
        temperature=hyper.distill_temperature, soft_share=hyper.soft_share,
        tick=lambda share: request.progress("distilling the student", share),
    )  # fmt: skip
    return fit(recipe.student(), parts.train.join(parts.unlabelled), settings, teacher)


def sets_of(request: RunRequest) -> Sets:
    """The recipe's own data, with two labels exchanged when the request says so."""
    sets = request.loaded.recipe.data()
    return sets if request.swap is None else swap_labels(sets, *request.swap)


def onnx_of(network: nn.Module, x: Any) -> bytes:
    """The network as ONNX with a variable batch."""
    from model_compiler.sources import example_of
    from model_compiler.variants.onnx import export

    return export(network, example_of(x))


def lineage_of(request: RunRequest) -> Lineage:
    """Where the run comes from."""
    from model_compiler.assembling import tool_versions

    loaded = request.loaded
    return Lineage(
        snapshot=request.snapshot.id if request.snapshot is not None else "",
        recipe=f"{loaded.name}@{loaded.sha256}",
        tools=tool_versions(),
        seed=request.seed,
        extra={"swapped_labels": list(request.swap)} if request.swap else {},
    )


def run(request: RunRequest) -> dict[str, float]:
    """Train both and write `out`: teacher.onnx, student.pt2, calibration.npz, validation.npz,
    metrics.json and lineage.json. Returns the metrics (accuracies on the exam, 0 to 1)."""
    import torch

    from cloud_hub.training.fitting import accuracy

    request.out.mkdir(parents=True, exist_ok=True)
    parts = deal(
        sets_of(request), request.snapshot, seed=request.seed, repeats=request.loaded.recipe.hyper.sample_repeats
    )
    teacher = train_teacher(request, parts)
    student = train_student(request, parts, teacher)
    request.progress("writing", 0.0)
    (request.out / "teacher.onnx").write_bytes(onnx_of(teacher, parts.train.x))
    two = torch.from_numpy(parts.train.x[:2])
    program = torch.export.export(student, (two,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, request.out / "student.pt2")
    for name, part in (("calibration", parts.calibration), ("validation", parts.validation)):
        np.savez(request.out / f"{name}.npz", x=part.x, y=part.y)
    metrics = {"teacher": accuracy(teacher, parts.exam), "student": accuracy(student, parts.exam)}
    (request.out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    (request.out / "lineage.json").write_bytes(msgspec.json.encode(lineage_of(request)))
    return metrics
