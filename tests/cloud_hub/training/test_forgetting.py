"""The accuracy that a retrain may not lose, on old rows, on new ones, and in each class."""

from __future__ import annotations

import numpy as np
import pytest

from cloud_hub.training import forgetting
from cloud_hub.training.examples import Examples
from cloud_hub.training.gate import compare
from cloud_hub.training.handed import Released
from fleet.protocol.manifest import Manifest
from tests.golden.examples import MANIFEST

VARIANT = MANIFEST.variants[0]
NAMES = ("cat", "dog", "owl")


def rows(count: int, seed: int = 0) -> Examples:
    """Rows whose input is what is right."""
    y = np.random.default_rng(seed).integers(0, 3, count)
    return Examples({"x": y.astype(np.float32)[:, None]}, y)


def release(number: int, manifest: Manifest = MANIFEST) -> Released:
    return Released(number, manifest, VARIANT, b"", b"", {VARIANT.blob.sha256: b"edge"})


def judged(old: Examples, new: Examples, wrong: dict[int, float], classes: tuple[str, ...] = NAMES):
    """Release 2 is wrong on a share of the rows of a class; release 1 is wrong on one row in twenty."""

    def ask(which: Released, part: Examples) -> dict[str, np.ndarray]:
        draw = np.random.default_rng(len(part)).random(len(part))
        share = np.array([wrong.get(int(y), 0.05) if which.number == 2 else 0.05 for y in part.y])
        return {"y": np.where(draw < share, (part.y + 1) % 3, part.y)}

    groups = forgetting.groups_of(old, new, classes)
    found = forgetting.compared(release(1), release(2), groups, ask, lambda a, b, y: compare(a["y"] == y, b["y"] == y))
    return found, forgetting.forgotten(found)


def test_what_is_as_good_is_kept() -> None:
    found, lost = judged(rows(200), rows(100, 1), {})
    assert not lost and set(found) >= {"old", "new", "old, class cat", "new, class owl"}
    assert forgetting.figures(found)["old"] == {"labels": 200, "before": found["old"].old, "after": found["old"].new}


def test_a_class_that_is_forgotten_is_named_though_the_others_are_as_before() -> None:
    _, lost = judged(rows(200), rows(100, 1), {2: 0.5})
    assert "old, class owl" in lost and "old, class cat" not in lost
    assert "old, class owl: 0." in forgetting.in_words(lost)


def test_old_rows_count_though_the_new_ones_gain() -> None:
    old, new = rows(300), Examples({"x": np.zeros((3, 1), np.float32)}, np.array([0, 1, 2]))
    _, lost = judged(old, new, {0: 0.4, 1: 0.4, 2: 0.4}, classes=())
    assert set(lost) == {"old"}


@pytest.mark.parametrize("classes", [NAMES, ()])
def test_equal_models_are_refused_seldom(classes) -> None:
    """By the level of all groups together."""
    refused = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        groups = forgetting.groups_of(rows(100, seed), rows(60, seed + 1000), classes)
        found = {name: compare(*(random.random((2, len(part))) > 0.1)) for name, part in groups.items()}
        refused += bool(forgetting.forgotten(found))
    assert refused <= 20


def test_rows_without_a_label_and_classes_of_a_few_rows_are_no_group() -> None:
    y = np.array([0, 0, 0, 0, 1, -1])
    few = Examples({"x": y.astype(np.float32)[:, None]}, y)
    assert set(forgetting.groups_of(few, few.take(slice(0)), NAMES)) == {"old", "old, class cat"}


def test_devices_run_the_variant_of_that_name_else_the_first() -> None:
    assert forgetting.edge_of(release(1), "litert-int8").model == b"edge"
    assert forgetting.edge_of(release(1), "onnx-int8").variant == VARIANT
    assert forgetting.edge_of(Released(1, MANIFEST, VARIANT, b"cloud"), "litert-int8") is None
