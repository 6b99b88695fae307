"""Under a byte budget less is changed until the patch fits; one that cannot be kept is refused in words."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from cloud_hub.errors import InvalidError
from cloud_hub.training.handed import Released
from cloud_hub.training.models import Made
from cloud_hub.training.recipe import Fitting, LoadedRecipe
from cloud_hub.training.run_request import RunRequest
from cloud_hub.training.spending import Budget, budget_of, train_within, weights_of
from examples.digits.recipe import RECIPE
from fleet.protocol.selftest import Vector, encode_vectors, to_array
from model_compiler.inputs.former_release import Former
from model_compiler.inputs.release_folder import blob_of
from tests.golden.examples import MANIFEST

VARIANT = MANIFEST.variants[0]
FORMER = Former(MANIFEST, {VARIANT.blob.sha256: b"model"})
CURRENT = Released(3, MANIFEST, VARIANT, b"", b"", FORMER.files)
BUDGET = Budget(8000, FORMER, VARIANT)


@dataclass
class Trainer:
    """A student's patch has `fixed` bytes, and `each` for every share of a thousandth."""

    fixed: int
    each: float
    shares: list[float] = field(default_factory=list)

    def train(self, share: float) -> Made:
        self.shares.append(share)
        return Made(outputs=(f"{share}",))

    def size(self, made: Made) -> int | None:
        return self.fixed + int(self.each * 1000 * float(made.outputs[0]))


def request(tmp_path: Path, **changes: object) -> RunRequest:
    recipe = replace(RECIPE, **changes)
    start = {"student": {"w": np.zeros((30, 100), np.float32)}}
    return RunRequest(loaded=LoadedRecipe("digits", "0" * 64, recipe), out=tmp_path, start=start)


def test_what_fits_at_once_is_trained_once() -> None:
    trainer = Trainer(200, 130)
    made = train_within(BUDGET, 3000, 100_000, trainer.train, trainer.size)
    assert len(trainer.shares) == 1 and trainer.size(made) <= 3000


@pytest.mark.parametrize("each", [3, 10, 50])
def test_more_is_changed_where_much_of_the_budget_is_left(each: int) -> None:
    trainer = Trainer(100, each)
    made = train_within(BUDGET, 3000, 100_000, trainer.train, trainer.size)
    assert 0.85 * 3000 <= trainer.size(made) <= 3000
    assert trainer.shares == sorted(trainer.shares) and 2 <= len(trainer.shares) <= 6


def test_all_weights_may_change_where_they_fit() -> None:
    trainer = Trainer(100, 0.1)
    made = train_within(BUDGET, 3000, 100_000, trainer.train, trainer.size)
    assert float(made.outputs[0]) == 1.0 and trainer.shares.count(1.0) == 1


def test_what_does_not_fit_after_more_is_followed_by_what_lies_between() -> None:
    shares: list[float] = []

    def train(share: float) -> Made:
        shares.append(share)
        return Made(outputs=(f"{share}",))

    def size(made: Made) -> int:
        share = float(made.outputs[0])
        return 500 if share < 0.03 else 2000 if share < 0.06 else 9000

    made = train_within(BUDGET, 3000, 100_000, train, size)
    assert size(made) == 2000 and len(shares) <= 6


def test_more_weights_are_left_alone_where_they_make_it_worse() -> None:
    trainer = Trainer(100, 10)
    made = train_within(BUDGET, 3000, 100_000, trainer.train, trainer.size, lambda less, more: True)
    assert float(made.outputs[0]) == min(trainer.shares)


@pytest.mark.parametrize("each", [200, 1000])
def test_less_is_changed_until_it_fits(each: int) -> None:
    trainer = Trainer(100, each)
    made = train_within(BUDGET, 3000, 100_000, trainer.train, trainer.size)
    assert trainer.size(made) <= 3000
    assert trainer.shares == sorted(trainer.shares, reverse=True) and 1 <= len(trainer.shares) <= 6


@pytest.mark.parametrize("room", [-500, 0, 80, 400])
def test_what_is_not_possible_is_refused_with_the_least_that_is(room: int) -> None:
    trainer = Trainer(500, 10)
    with pytest.raises(InvalidError, match="at most 8000 bytes is not possible: the least is about") as caught:
        train_within(BUDGET, room, 100_000, trainer.train, trainer.size)
    assert caught.value.hint.startswith("--max-bytes ") and int(caught.value.hint.split()[1].rstrip(",")) > 500


def test_a_network_of_another_graph_is_refused() -> None:
    with pytest.raises(InvalidError, match="another graph"):
        train_within(BUDGET, 3000, 1000, Trainer(1, 1).train, lambda made: None)


def test_manifest_and_self_test_are_part_of_the_budget(tmp_path: Path) -> None:
    budget = budget_of(request(tmp_path), CURRENT, 8000)
    assert budget.variant == VARIANT and 200 < budget.beside < 3000
    large = msgspec.structs.replace(MANIFEST, labels=tuple(f"class-{n}" for n in range(100)))
    assert budget_of(request(tmp_path), replace(CURRENT, manifest=large), 8000).beside > budget.beside + 250
    assert weights_of(request(tmp_path)) == 3000


def test_inputs_that_a_self_test_asks_again_are_no_part_of_the_budget() -> None:
    def beside(side: int) -> int:
        asked = to_array("x", np.zeros((1, side, side), np.float32))
        answers = {"litert-int8": (to_array("y", np.zeros((1, 500), np.float32)),)}
        data = encode_vectors([Vector(inputs=(asked,), outputs=answers)])
        section = msgspec.structs.replace(MANIFEST.selftest, blob=blob_of(data))
        manifest = msgspec.structs.replace(MANIFEST, selftest=section)
        return Budget(8000, Former(manifest, {blob_of(data).sha256: data}), VARIANT).beside

    assert abs(beside(100) - beside(2)) < 10 and beside(2) > 0.55 * 2000


def fits(given: Fitting) -> bytes:
    return b""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"student": None, "fit": fits, "teacher": None}, "fits its student by itself"),
        ({"warm": False}, "warm=False"),
        ({"targets": ("onnx-int8",)}, "no LiteRT variant that the recipe builds"),
    ],
)
def test_a_budget_that_means_nothing_here_is_refused_before_anything_is_trained(tmp_path, changes, words) -> None:
    with pytest.raises(InvalidError, match=words):
        budget_of(request(tmp_path, **changes), CURRENT, 8000)


def test_without_a_release_or_its_weights_there_is_nothing_to_start_from(tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match="no release before"):
        budget_of(request(tmp_path), None, 8000)
    with pytest.raises(InvalidError, match="release 3: its weights are not to be had"):
        budget_of(replace(request(tmp_path), start={"student": {}}), CURRENT, 8000)
