"""One training run: teacher, then student, then the files that the compiler takes from there."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from cloud_hub.errors import InvalidError
from cloud_hub.training.checking import Settled, settle_contract
from cloud_hub.training.dealing import Parts, deal_run
from cloud_hub.training.models import Made
from cloud_hub.training.recipe import Examples, Sets, swap_labels
from cloud_hub.training.run_request import RunRequest
from cloud_hub.training.teacher_student import train_student, train_teacher
from fleet.protocol.manifest import Lineage
from model_compiler.build import fronts
from model_compiler.inputs.dataset import Array, make_dataset, save_dataset
from model_compiler.inputs.preprocessing import Preparation

if TYPE_CHECKING:
    from torch import nn

# Of a run, beside its data; a checkpoint is of one that has not ended.
RUN_FILES = ("lineage.json", "metrics.json", "student.pt2", "student.onnx", "teacher.onnx")


def sets_of(request: RunRequest) -> Sets:
    """The recipe's own data, with two labels exchanged when the request says so."""
    sets = request.loaded.recipe.data()
    return sets if request.swap is None else swap_labels(sets, *request.swap)


def onnx_of(network: nn.Module, x: Array | Mapping[str, Array], outputs: Sequence[str] = ()) -> bytes:
    """The network as ONNX with a variable batch; `x` are its inputs by name, `outputs` the names of its outputs."""
    from model_compiler.build.onnx import export
    from model_compiler.inputs.sources import example_of

    if not isinstance(x, Mapping):
        return export(network, example_of(x), outputs=outputs)
    return export(network, tuple(map(example_of, x.values())), inputs=tuple(x), outputs=outputs)


def lineage_of(request: RunRequest) -> Lineage:
    """Return the lineage of the run."""
    from model_compiler.package.assembling import tool_versions

    loaded = request.loaded
    return Lineage(
        snapshot=request.snapshot.id if request.snapshot is not None else "",
        recipe=f"{loaded.name}@{loaded.sha256}",
        tools=tool_versions(),
        seed=request.seed,
        extra={"swapped_labels": list(request.swap)} if request.swap else {},
    )


def settle_run(request: RunRequest) -> Settled:
    """Check the recipe before anything is trained (`checking.settle_contract`), and print notes on its data."""
    from cloud_hub.training.parallel import process_share

    processes = process_share().count
    if request.loaded.recipe.fit is not None and processes > 1:
        raise InvalidError(
            f"the recipe: torchrun started {processes} processes, and its own fit knows nothing of the others",
            subject="recipe",
            hint="start it without torchrun: python -m cloud_hub train …; fit may use several GPUs itself",
        )
    settled = settle_contract(request.loaded.recipe, sets_of(request), request.contract, request.out)
    for finding in settled.findings:
        print(f"data: {finding}", file=sys.stderr)
    return settled


def onnx_of_made(made: Made, rows: Examples) -> bytes:
    """A model as ONNX with a variable batch, without its steps; `rows` are raw."""
    if made.onnx is not None:
        return made.onnx
    assert made.module is not None  # one of the two is given
    return onnx_of(made.module, made.steps.inputs(rows.take(slice(2)).inputs), made.outputs)


def run_training(request: RunRequest) -> dict[str, float]:
    """Train and write `out`: student.pt2 (or student.onnx), teacher.onnx where there is a teacher, calibration.npz,
    validation.npz, metrics.json, lineage.json and, where there are preprocessing steps, steps.json, and front.onnx or
    front.tflite for a front. Returns the metric of each on the exam; nothing where torchrun's first process writes."""
    settled = settle_run(request)
    parts = deal_run(request, settled)
    request.out.mkdir(parents=True, exist_ok=True)
    teacher = train_teacher(request, parts, settled)
    student = train_student(request, parts, settled, teacher)
    if not _writes():
        return {}
    request.progress("writing", 0.0)
    if teacher is not None:
        (request.out / "teacher.onnx").write_bytes(onnx_of_made(teacher, parts.train))
    _write_student(request.out, student, parts)
    _write_before(request.out, parts.steps.preparation)
    _write_data(request.out, settled, parts)
    exam = parts.exam.with_labels()
    made = {"teacher": teacher, "student": student} if teacher is not None else {"student": student}
    found = {
        name: settled.metric.measure(model.answers(exam.inputs), exam.y)[0] if len(exam) else 0.0
        for name, model in made.items()
        if model is not None
    }
    (request.out / "metrics.json").write_text(json.dumps(found, indent=2) + "\n")
    (request.out / "lineage.json").write_bytes(msgspec.json.encode(lineage_of(request)))
    return found


def write_data(request: RunRequest) -> dict[str, int]:
    """Write only the rows that a run calibrates on (calibration.npz) and gives its verdict by (validation.npz), which
    are the same for the same recipe, snapshot and seed; returns how many each has, nothing where torchrun's first
    process writes.

    Raises:
        InvalidError: `out` has the files of a run, which may be of other rows.
    """
    there = [name for name in RUN_FILES if (request.out / name).exists()]
    if there:
        raise InvalidError(
            f"{request.out} has the {there[0]} of a run already",
            subject=str(request.out),
            hint="its rows are in calibration.npz and validation.npz there; give another --out",
        )
    settled = settle_run(request)
    parts = deal_run(request, settled)
    if not _writes():
        return {}
    request.out.mkdir(parents=True, exist_ok=True)
    return _write_data(request.out, settled, parts)


def _write_data(out: Path, settled: Settled, parts: Parts) -> dict[str, int]:
    held = {"calibration": parts.calibration, "validation": parts.validation.with_labels()}
    for name, part in held.items():
        data = make_dataset(part.inputs, part.y, name, non_finite=settled.loose, precise=True)
        save_dataset(out / f"{name}.npz", data)
    return {name: len(part) for name, part in held.items()}


def _writes() -> bool:
    """Tell whether this process writes the run's files: the first under torchrun."""
    from cloud_hub.training.parallel import process_share

    return process_share().first


def _write_before(out: Path, preparation: Preparation) -> None:
    """Write the files for `model-compiler compile --preprocess` and, as `front.txt` says it, `--front`."""
    if preparation.steps:
        (out / "steps.json").write_bytes(msgspec.json.encode(preparation.steps))
    if preparation.front is not None:
        ending = "onnx" if preparation.front.runtime == "onnx" else "tflite"
        (out / f"front.{ending}").write_bytes(preparation.front.data)
        (out / "front.txt").write_text(fronts.written(preparation.front, f"front.{ending}"))


def _write_student(out: Path, student: Made, parts: Parts) -> None:
    import torch

    from model_compiler.build.adapting import export_program

    if student.module is None:
        assert student.onnx is not None  # one of the two is given
        (out / "student.onnx").write_bytes(student.onnx)
        return
    rows = student.steps.inputs(parts.train.take(slice(2)).inputs)
    loose = tuple(rows)  # only their shapes and datatypes count
    two = make_dataset(rows, None, "training", non_finite=loose, precise=True)
    torch.export.save(export_program(student.module, two, student.outputs), out / "student.pt2")
