"""A retrain's work, as an executor runs it: from a folder with the hub's data to a release directory in it.

Users' code, the recipe, runs here and nowhere else; nothing here knows the hub. Run again in the same folder, it goes
on from its checkpoints, and does nothing where it was done.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cloud_hub.errors import InvalidError
from cloud_hub.execution.port import Progress
from cloud_hub.samples.dataset import Dataset
from cloud_hub.training import forgetting
from cloud_hub.training.checking import Settled
from cloud_hub.training.compiling import Trained, compile_run
from cloud_hub.training.dealing import Parts, deal_run
from cloud_hub.training.examples import Examples
from cloud_hub.training.gate import Comparison, Rows, compare, compare_sets
from cloud_hub.training.handed import RELEASE, Handed, Released
from cloud_hub.training.models import Made
from cloud_hub.training.recipe import load_recipe, with_hyper
from cloud_hub.training.run import settle_run
from cloud_hub.training.run_request import RunRequest
from cloud_hub.training.spending import Budget, budget_of, fetched, over, patch_size, train_within, weights_of
from cloud_hub.training.teacher_student import train_student, train_teacher
from fleet import runtimes
from fleet.protocol.manifest import Manifest, Ports
from model_compiler.evaluate.rightness import agreements
from model_compiler.inputs.dataset import Array

ENTRY = "cloud_hub.training.work:retrain"
DONE = "done.json"
LEAST_LABELS = 4  # of which the gate gets one
BATCH = 256  # rows that a released model is asked at once


class GateRefusedError(InvalidError):
    """The new model is worse than the current one on human labels, by more than chance."""


def retrain(folder: Path, arguments: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Check, train, gate, distil and compile; the release is then in its folder `release`.

    Args:
        folder: as `handing.hand_in` wrote it.
        arguments: `recipe` and `recipes` (`load_recipe`), `hyper` (`with_hyper`), `seed`, `model`, and the numbers of
            the releases `fixed` (it fixes the interface) and `current` (devices come from it), each None without one.

    Returns:
        What the gate found: `gate_new`, `gate_labels` and, where there was a release before, `gate_old`, `gate_release`
        and `gate_shown` (it may audit); and in `data` what is worth knowing of the recipe's data.

    Raises:
        GateRefusedError: the new teacher is worse by more than chance.
        InvalidError, ConflictError: the recipe, the data or the model's interface do not fit.
    """
    done = folder / DONE
    if done.is_file():
        found: dict[str, Any] = json.loads(done.read_text())
        return found
    progress("checking the recipe against the model's interface", 0.0)
    handed = Handed(folder)
    request = RunRequest(
        loaded=with_hyper(
            load_recipe(arguments["recipe"], folder=Path(arguments["recipes"])), arguments.get("hyper") or {}
        ),
        out=folder,
        seed=arguments["seed"],
        contract=handed.contract(arguments["model"], arguments["fixed"]),
        snapshot=handed.snapshot,
        start=handed.start,
        released=handed.student,
        progress=lambda step, share: progress(step, 0.05 + 0.2 * share + (0.25 if "student" in step else 0.0)),
    )
    settled = settle_run(request)
    parts = deal_run(request, settled)
    if not len(parts.gate):
        raise _no_gate(request.snapshot)
    current = handed.current(arguments["current"])
    teacher = train_teacher(request, parts, settled)
    gated: dict[str, Any] = {}
    if teacher is not None:
        progress("gating the teacher", 0.25)
        gated = gate_model("teacher", current, teacher, parts.gate, settled)
    student = _Student(request, parts, settled, teacher, current, arguments.get("max_bytes"), progress)
    gated |= student.released(gate=teacher is None)
    if current is not None:
        gated |= check_kept(current, folder / RELEASE, settled, parts)
    if settled.findings:
        gated["data"] = list(settled.findings)
    fresh = done.with_suffix(".tmp")
    fresh.write_text(json.dumps(gated))
    fresh.replace(done)
    return gated


def _no_gate(snapshot: Dataset | None) -> InvalidError:
    """Return the error that no label judges the new model, with a hint at the samples to label."""
    count = snapshot.labelled if snapshot is not None else 0
    if count < LEAST_LABELS:
        why, hint = f"the snapshot has {count} of them", f"label at least {LEAST_LABELS} samples of the snapshot"
    else:
        why = f"of {count} in the snapshot, nearly all are of inputs that the recipe's own sets hold, or repeats"
        hint = "label samples of other inputs than those of the recipe's calibration, validation and exam sets"
    return InvalidError(f"no human label is left for the gate: {why}", subject="snapshot", hint=hint)


@dataclass(frozen=True)
class _Student:
    """The student's parts, up to the release directory; `max_bytes` limits the bytes that devices fetch for it."""

    request: RunRequest
    parts: Parts
    settled: Settled
    teacher: Made | None
    current: Released | None
    max_bytes: int | None
    progress: Progress

    def released(self, *, gate: bool) -> dict[str, Any]:
        """Train it, gate it where it has no teacher, and compile; what the gate found, and what devices fetch.

        Raises:
            GateRefusedError: it is worse by more than chance.
            InvalidError: the byte budget cannot be kept.
        """
        budget = None if self.max_bytes is None else budget_of(self.request, self.current, self.max_bytes)
        room = budget.limit - budget.beside if budget is not None else 0
        found: dict[str, Any] = {}
        for again in (True, False):
            student = self._trained(budget, room)
            if gate:
                self.progress("gating the student", 0.5)
                found = gate_model("model", self.current, student, self.parts.gate, self.settled)
            compile_run(
                self.request,
                Trained(student, self.teacher, self.parts, self.settled),
                current=self.current,
                on_grid=budget is not None,
                progress=lambda step: self.progress(step, 0.6),
            )
            if self.current is None:
                return found
            update, whole = fetched(self.current.former, self.request.out)
            found |= {"update_bytes": update, "whole_bytes": whole}
            if budget is None or update[budget.variant.name] <= budget.limit:
                return found
            room -= update[budget.variant.name] - budget.limit  # the rest was larger than it looked before
            if not again:
                raise over(budget, update[budget.variant.name])
        return found

    def _trained(self, budget: Budget | None, room: int) -> Made:
        if budget is None:
            return train_student(self.request, self.parts, self.settled, self.teacher)
        return train_within(
            budget,
            room,
            weights_of(self.request),
            lambda share: train_student(self.request, self.parts, self.settled, self.teacher, share),
            lambda made: patch_size(budget, self.parts, made),
            lambda less, more: worse(less, more, self.parts.calibration.with_labels(), self.settled),
        )


def worse(less: Made, more: Made, rows: Examples, settled: Settled) -> bool:
    """Tell whether the second model is worse by more than chance, on rows with labels; not where nobody can say."""
    if not len(rows):
        return False
    return _compared(settled, less.answers(rows.inputs), more.answers(rows.inputs), rows.y).refused


def gate_model(what: str, current: Released | None, made: Made, gate: Examples, settled: Settled) -> dict[str, Any]:
    """Compare a new model with the current release's best on held-out human labels (`gate.compare`).

    Args:
        what: the new model in words.
        gate: rows with human labels that training never saw.

    Raises:
        GateRefusedError: the new one is worse by more than chance.
    """
    new = made.answers(gate.inputs)
    if current is None:
        rated = _rated(settled, new, gate.y)
        value = settled.metric.measure(new, gate.y)[0] if rated is None else float(rated.mean())
        return {"gate_new": value, "gate_labels": len(gate)}
    old = ask(current, _called(gate, current.number, current.manifest))
    found = _compared(settled, old, new, gate.y)
    if found.refused:
        counted = f": {found.lost} lost, {found.won} won" if found.lost or found.won else ""
        raise GateRefusedError(
            f"the new {what} gets {found.new:.3f} of {len(gate)} held-out labels right, release {current.number} gets "
            f"{found.old:.3f}{counted}, which chance does with probability {found.chance:.3f} only",
            subject=what,
            hint="label more samples, or change the recipe",
        )
    return {
        "gate_new": found.new,
        "gate_old": found.old,
        "gate_labels": len(gate),
        "gate_release": current.number,
        "gate_shown": found.shown,
    }


def _rated(settled: Settled, outputs: Mapping[str, Array], y: Array) -> Array | None:
    """Return how right each row is in [0, 1], (n,); None where the task judges whole sets only."""
    return agreements(settled.task, settled.task.answers(outputs), y)


def _compared(settled: Settled, old: Mapping[str, Array], new: Mapping[str, Array], y: Array) -> Comparison:
    """Old and new row by row, else by the metric over all rows."""
    theirs, ours = _rated(settled, old, y), _rated(settled, new, y)
    if theirs is not None and ours is not None:
        return compare(theirs, ours)
    metric = settled.metric
    sign = 1.0 if metric.higher_is_better else -1.0

    def scored(outputs: Mapping[str, Array]) -> Callable[[Rows], float]:
        whole = outputs if metric.reading is None else metric.reading(outputs, y)
        return lambda rows: sign * metric.score({name: array[rows] for name, array in whole.items()}, y[rows])

    return compare_sets(scored(old), scored(new), len(y))


def check_kept(current: Released, folder: Path, settled: Settled, parts: Parts) -> dict[str, Any]:
    """Compare what devices would run with what they run, on old and on new rows (`forgetting`).

    Args:
        folder: the new release's directory.

    Raises:
        GateRefusedError: it is worse in a group by more than chance.
    """
    after = forgetting.made_at(folder, current.number + 1)
    before = forgetting.edge_of(current, after.variant.name)
    if before is None:
        return {}
    classes = settled.labels if settled.spec is None else ()
    found = forgetting.compared(
        before,
        after,
        forgetting.groups_of(settled.sets.validation, parts.gate, classes),
        lambda release, rows: ask(release, _called(rows, release.number, release.manifest)),
        lambda old, new, y: _compared(settled, old, new, y),
    )
    lost = forgetting.forgotten(found)
    if lost:
        raise GateRefusedError(
            f"the new model has forgotten what release {current.number} knew: {forgetting.in_words(lost)}",
            subject="student",
            hint="let the recipe's data hold more of the old, lower sample_repeats, or raise the byte budget",
        )
    return {"kept": forgetting.figures(found)}


def ask(release: Released, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Return a release's answers to inputs (n, …), by its own file and runtime, each output (n, …).

    Raises:
        InvalidError: it cannot be loaded, or cannot take them.
    """
    manifest, variant = release.manifest, release.variant
    try:
        model = runtimes.load_release(
            runtimes.best(variant.runtime, variant.runtimes),
            release.model,
            manifest,
            strict=variant.placement == "cloud",
            ports=variant.ports if isinstance(variant.ports, Ports) else None,
            front=release.front,
        )
        count = len(next(iter(inputs.values())))
        if all(tensor.shape[:1] == (-1,) for tensor in manifest.inputs):
            rows = [slice(start, start + BATCH) for start in range(0, count, BATCH)]
            found = [model.run({name: array[part] for name, array in inputs.items()}) for part in rows]
            return {name: np.concatenate([answer[name] for answer in found]) for name in found[0]}
        single = [model.run({name: array[row] for name, array in inputs.items()}) for row in range(count)]
        return {name: np.stack([answer[name] for answer in single]) for name in single[0]}
    except (runtimes.ModelLoadError, runtimes.InputError, ValueError, RuntimeError) as error:
        raise InvalidError(
            f"release {release.number}, which the new model is compared with, does not answer: {error}",
            subject="gate",
            hint="make a release with the model's interface the channel's auditor",
        ) from error


def _called(gate: Examples, number: int, manifest: Manifest) -> dict[str, Array]:
    """The inputs as release `number` calls them: on a hub of 0.1 an auditor may have another name for a lone one.

    Raises InvalidError when it takes other inputs.
    """
    theirs, arrays = [tensor.name for tensor in manifest.inputs], dict(gate.inputs)
    if len(theirs) == len(arrays) == 1:
        arrays = dict(zip(theirs, arrays.values(), strict=True))
    if set(theirs) != set(arrays):
        raise InvalidError(
            f"release {number}, which the new teacher is compared with, takes {', '.join(theirs)}; "
            f"the model's inputs are {', '.join(arrays)}",
            subject="teacher",
            hint="make a release with the model's interface the channel's auditor",
        )
    return arrays
