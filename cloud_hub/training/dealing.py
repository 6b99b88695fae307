"""Deals a run's data out: rows to train on, and parts of a snapshot for calibration, validation and gate."""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec
import numpy as np

from cloud_hub.training import alike
from cloud_hub.training.checking import Settled, samples_of
from cloud_hub.training.data_checks import keys_of
from cloud_hub.training.recipe import Examples, Sets
from cloud_hub.training.run_request import RunRequest
from cloud_hub.training.steps import NO_FITTED_STEPS, FittedSteps, fitted, with_vocabularies

GATE_SHARE, CALIBRATION_SHARE = 0.25, 0.1  # of a snapshot's human labels, kept out of training


@dataclass(frozen=True)
class Parts:
    """A run's sets after a snapshot was dealt out, as applications send them. `gate` are human labels that training
    never saw; `steps` are fitted to `train`."""

    train: Examples
    unlabelled: Examples
    calibration: Examples
    validation: Examples
    gate: Examples
    exam: Examples
    steps: FittedSteps = NO_FITTED_STEPS


def deal(sets: Sets, samples: Examples | None, *, seed: int, repeats: int) -> Parts:
    """Join the recipe's sets with a snapshot's samples (`checking.samples_of`).

    A quarter of the human labels is kept for the gate (and joins the validation set), a tenth for
    calibration; the rest is trained on `repeats` times. Samples that are nearly the same (`alike`) stay together.
    Samples without a label teach the student through the teacher alone.
    """
    none = sets.train.take(np.zeros(0, np.int64))
    if samples is None:
        return Parts(sets.train, none, sets.calibration, sets.validation, none, sets.exam)
    every = _unique(samples, of=sets)
    labelled = every.with_labels()
    order = np.random.default_rng(seed).permutation(len(labelled))
    kept, tuned = int(GATE_SHARE * len(order)), int(CALIBRATION_SHARE * len(order))
    gate, calibration, rest = map(labelled.take, alike.split(alike.groups(labelled), order, (kept, tuned)))
    train = sets.train
    for _ in range(repeats):
        train = train.join(rest)
    return Parts(
        train=train,
        unlabelled=every.take(np.flatnonzero(~every.labelled)),
        calibration=sets.calibration.join(calibration),
        validation=sets.validation.join(gate),
        gate=gate,
        exam=sets.exam,
    )


def _unique(samples: Examples, *, of: Sets) -> Examples:
    """Each input once, labelled ones first, without those that a held-out set holds already."""
    seen = {key for part in (of.calibration, of.validation, of.exam) for key in keys_of(part)}
    keys = keys_of(samples)
    rows: list[int] = []
    for row in np.argsort(~samples.labelled, kind="stable"):
        key = keys[row]
        if key not in seen:
            seen.add(key)
            rows.append(int(row))
    return samples.take(np.asarray(rows, np.int64))


def deal_run(request: RunRequest, settled: Settled) -> Parts:
    """Deal out the settled sets and the request's snapshot, and fit the recipe's steps to what is trained on, but
    vocabularies to the recipe's own rows.

    Raises InvalidError when the snapshot is of other inputs or labels than the recipe's data.
    """
    repeats = request.loaded.recipe.hyper.sample_repeats
    samples = samples_of(request.snapshot, settled.sets.train, settled.task) if request.snapshot is not None else None
    parts = deal(settled.sets, samples, seed=request.seed, repeats=repeats)
    if not settled.preparation:
        return parts
    declared = with_vocabularies(settled.preparation, settled.sets.train.inputs)
    steps = fitted(declared, parts.train.inputs)
    return replace(parts, steps=FittedSteps(msgspec.structs.replace(declared, steps=steps), settled.ready))
