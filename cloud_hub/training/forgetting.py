"""Does a retrained release still know what the one before knew? Both answer as devices would, old rows and new ones.

Old are the rows of the recipe's validation set, new the held-out labels of the snapshot; of classes, each is judged by
itself, too. Trained on were none of them. Refused is what is worse by more than chance in any of these groups, by the
same exact test as a gate's (`gate.compare`), its level divided by the number of groups (Bonferroni).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cloud_hub.training.examples import Examples
from cloud_hub.training.gate import REFUSE_BELOW, Comparison
from cloud_hub.training.handed import Released
from fleet.protocol.manifest import Manifest, Variant
from model_compiler.inputs.dataset import Array
from model_compiler.inputs.release_folder import read_blob, read_release

Groups = dict[str, Examples]
LEAST_ROWS = 4  # of a class: fewer can refuse nothing
Compare = Callable[[Mapping[str, Array], Mapping[str, Array], Array], Comparison]
Ask = Callable[[Released, Examples], Mapping[str, Array]]


def groups_of(old: Examples, new: Examples, classes: tuple[str, ...]) -> Groups:
    """Labelled rows by group: `old`, `new`, and each class of both.

    Args:
        old, new: held-out rows.
        classes: the class names of a classification; empty for other tasks.
    """
    parts = {"old": old.with_labels(), "new": new.with_labels()}
    found = {name: part for name, part in parts.items() if len(part)}
    for name, part in list(found.items()) if classes else ():
        for label in np.unique(part.y):
            rows = np.flatnonzero(part.y == label)
            if len(rows) >= LEAST_ROWS:
                found[f"{name}, class {classes[int(label)]}"] = part.take(rows)
    return found


def compared(before: Released, after: Released, groups: Groups, ask: Ask, compare: Compare) -> dict[str, Comparison]:
    """Both releases on every group."""
    return {name: compare(ask(before, rows), ask(after, rows), rows.with_labels().y) for name, rows in groups.items()}


def forgotten(found: Mapping[str, Comparison]) -> dict[str, Comparison]:
    """The groups that are worse by more than chance."""
    level = REFUSE_BELOW / max(len(found), 1)
    return {name: one for name, one in found.items() if one.chance < level}


def in_words(found: Mapping[str, Comparison]) -> str:
    """The groups with their figures."""
    return "; ".join(f"{name}: {one.old:.3f} before, {one.new:.3f} now ({one.labels})" for name, one in found.items())


def edge_of(current: Released, name: str) -> Released | None:
    """A release with the variant that devices run in place of the cloud's: that of `name`, else its first.

    None where the file is not at hand.
    """
    edge = current.manifest.placed("edge")
    variant = next((v for v in edge if v.name == name), edge[0] if edge else None)
    model = None if variant is None else current.former.file_of(variant.name)
    return None if variant is None or model is None else replace(current, variant=variant, model=model)


def made_at(folder: Path, number: int) -> Released:
    """A release directory's first edge variant, as devices would run it."""
    manifest: Manifest = read_release(folder)
    variant: Variant = manifest.placed("edge")[0]
    front = read_blob(folder, manifest.in_front.blob) if manifest.in_front is not None else b""
    return Released(number, manifest, variant, read_blob(folder, variant.blob), front)


def figures(found: Mapping[str, Comparison]) -> dict[str, dict[str, Any]]:
    """For the job's result: old and new rows, not each class."""
    return {
        name: {"labels": found[name].labels, "before": found[name].old, "after": found[name].new}
        for name in ("old", "new")
        if name in found
    }
