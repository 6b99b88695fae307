"""From a release's outputs to calibrated confidence and class per row; what is no answer has none."""

from __future__ import annotations

from typing import NamedTuple

from edge_agent.errors import InferenceError
from edge_agent.ports import Arrays, InstalledRelease
from fleet.protocol.confidence import confidence, probabilities
from fleet.protocol.finite import not_finite


class Scores(NamedTuple):
    """Per row of a batch: calibrated confidence and class index; empty for a model without classes."""

    confidence: tuple[float, ...] = ()
    classes: tuple[int, ...] = ()


def score(release: InstalledRelease, outputs: Arrays) -> Scores:
    """Scores from the first output.

    Raises:
        InferenceError: an output holds NaN or infinity where the manifest wants finite numbers.
        MalformedError: the first output is no (rows, classes) table.
    """
    manifest, variant = release.manifest, release.variant
    broken = not_finite("output", outputs, manifest.outputs)
    if broken:
        raise InferenceError(f"model {release.model} release {release.number}: {broken}", subject=release.model)
    if not manifest.labels:
        return Scores()
    temperature = variant.deferral.temperature if variant.deferral is not None else 1.0
    first = outputs[manifest.outputs[0].name]
    table = probabilities(first, temperature=temperature, apply_softmax=variant.apply_softmax)
    return Scores(tuple(confidence(table).tolist()), tuple(table.argmax(axis=1).tolist()))
