"""The drift section of a release: the model name's fixed encoder, the training-fit reference, the margin; and what the
inputs were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fleet.protocol import drift_encoder, figures, sketch
from fleet.protocol.finite import is_finite
from fleet.protocol.manifest import SketchRef
from fleet.protocol.tensor_spec import Tensor
from model_compiler.errors import DataError
from model_compiler.inputs.release_folder import blob_of

LEAST_ROWS = 8
PROFILE_ROWS = 10_000


def possible(calibration: npt.NDArray[Any], validation: npt.NDArray[Any], *, gaps: bool = False) -> bool:
    """Tell whether there is enough to compare: some rows of numbers with an axis of their own, or of text, in both
    sets, not all the same. With `gaps` numbers may be NaN and infinite, and the others count."""
    if min(len(calibration), len(validation)) < LEAST_ROWS:
        return False
    text = calibration.dtype.kind in "OSU"  # a recipe may hold texts as any of these
    if not text and calibration.ndim < 2:
        return False
    if not text and not (is_finite(calibration) and is_finite(validation)):
        return gaps and _differ(calibration) and bool(np.isfinite(validation).any())
    return bool((calibration != calibration[:1]).any())


def _differ(rows: npt.NDArray[Any]) -> bool:
    """Tell whether finite values of one place differ."""
    finite = np.isfinite(rows)
    return bool((np.where(finite, rows, -np.inf).max(axis=0) > np.where(finite, rows, np.inf).min(axis=0)).any())


def build(
    calibration: npt.NDArray[Any],
    validation: npt.NDArray[Any],
    *,
    tensor: str,
    encoder: drift_encoder.Encoder | None,
    seed: int,
    gaps: bool = False,
) -> tuple[SketchRef, list[bytes]]:
    """Make the drift section of a manifest, and its two blobs.

    Args:
        calibration: (n, …) rows that the reference, and a new encoder, are fitted to.
        validation: (m, …) rows whose windows set the margin: the distance that inputs of the same origin reach.
        tensor: the input's name.
        encoder: the model's fixed one; None fits a new one.
        seed: of the encoder and the windows.
        gaps: the input may hold NaN and infinity, which a new encoder reads as the mean.

    Raises:
        DataError: too few rows, or all are the same.
    """
    gaps = encoder.schema == drift_encoder.GAPS if encoder is not None else gaps
    if not possible(calibration, validation, gaps=gaps):
        raise DataError(f"drift needs at least {LEAST_ROWS} calibration and validation inputs that differ")
    known = calibration if calibration.dtype.kind == "O" else np.asarray(calibration, dtype=np.float32)
    fitted = encoder or drift_encoder.fit_encoder(known, tensor=tensor, seed=seed, gaps=gaps)
    reference = sketch.sketch(fitted, calibration)
    margin = sketch.fit_margin(fitted, reference, validation, seed=seed)
    blobs = [drift_encoder.encode_encoder(fitted), sketch.encode_sketch(reference)]
    ref = SketchRef(
        sketch_id=drift_encoder.sketch_id(fitted), encoder=blob_of(blobs[0]), reference=blob_of(blobs[1]), margin=margin
    )
    return ref, blobs


def profile(
    background: Mapping[str, npt.NDArray[Any]], inputs: Sequence[Tensor], names: Mapping[str, Sequence[str]]
) -> bytes:
    """Write what the release was trained on, by input: a `figures.TrainingProfile` of at most `PROFILE_ROWS` rows.

    Args:
        background: (n, …) by the release's names.
        inputs: the manifest's.
        names: what the numbers of an input are called, by its name, or by "" those of the only one.

    Raises:
        DataError: names of an input that there is not, or not as many as it has numbers.
    """
    summaries, called = [], _called(names, inputs)
    for told in figures.planned_figures(inputs):
        rows = background[told.tensor]
        picked = np.linspace(0, len(rows) - 1, min(len(rows), PROFILE_ROWS)).astype(np.int64)
        summaries.append(figures.summarize_input(told, [np.asarray(rows[place]) for place in picked], every=True))
    return figures.encode_profile(figures.TrainingProfile(inputs=tuple(summaries), names=called))


def _called(names: Mapping[str, Sequence[str]], inputs: Sequence[Tensor]) -> dict[str, tuple[str, ...]]:
    told = {one.tensor: one for one in figures.planned_figures(inputs)}
    called = {}
    for name, given in names.items():
        only = inputs[0].name if len(inputs) == 1 else name
        one = told.get(name or only)
        if one is None or one.kind != "values":
            known = ", ".join(one.tensor for one in told.values() if one.kind == "values") or "none"
            raise DataError(f"features are named of input {name!r}; those told by their numbers are: {known}")
        if len(given) != len(one.names):
            raise DataError(f"input {one.tensor!r} has {len(one.names)} numbers, {len(given)} are named")
        called[one.tensor] = tuple(given)
    return called
