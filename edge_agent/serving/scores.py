"""From a release's outputs to calibrated confidence and class per row."""

from __future__ import annotations

from typing import NamedTuple

from edge_agent.ports import Arrays, InstalledRelease
from fleet.protocol.confidence import confidence, probabilities


class Scores(NamedTuple):
    """Per row of a batch: calibrated confidence and class index; empty for a model without classes."""

    confidence: tuple[float, ...] = ()
    classes: tuple[int, ...] = ()


def score(release: InstalledRelease, outputs: Arrays) -> Scores:
    """Scores from the first output; raises MalformedError when it is no (rows, classes) table."""
    manifest, variant = release.manifest, release.variant
    if not manifest.labels:
        return Scores()
    temperature = variant.deferral.temperature if variant.deferral is not None else 1.0
    first = outputs[manifest.outputs[0].name]
    table = probabilities(first, temperature=temperature, apply_softmax=variant.apply_softmax)
    return Scores(tuple(confidence(table).tolist()), tuple(table.argmax(axis=1).tolist()))
