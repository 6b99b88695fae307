"""Recipes, resumable training, dealing of snapshots, and the teacher's gate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cloud_hub.errors import ForbiddenError, InvalidError, NotFoundError
from cloud_hub.training.dealing import deal
from cloud_hub.training.fitting import FitSettings, accuracy, fit_network, load_weights, logits
from cloud_hub.training.recipe import Examples, Sets, load_recipe, swap_labels

torch.set_num_threads(1)


def examples(n: int, seed: int) -> Examples:
    """Two classes that a line divides."""
    x = np.random.default_rng(seed).normal(size=(n, 4)).astype(np.float32)
    return Examples(x, (x[:, 0] > 0).astype(np.int64))


def sets() -> Sets:
    return Sets(examples(60, 1), examples(20, 2), examples(20, 3), examples(50, 4))


def settings(epochs: int, tick=lambda share: None, **more) -> FitSettings:
    return FitSettings(epochs, 16, 1e-2, 0.0, 7, tick=tick, **more)


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Linear(4, 2)


def test_training_learns_and_a_student_learns_from_the_teacher_alone() -> None:
    teacher = fit_network(network(), examples(200, 1), settings(20))
    assert accuracy(teacher, examples(200, 2)) > 0.9
    unlabelled = Examples(examples(200, 3).x, np.full(200, -1, np.int64))
    student = fit_network(network(), unlabelled, settings(20, soft_share=1.0), teacher)
    assert accuracy(student, examples(200, 2)) > 0.9


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_became_nan_end_the_training_and_leave_no_checkpoint(tmp_path: Path, value: float) -> None:
    teacher, kept = fit_network(network(), examples(60, 1), settings(5)), tmp_path / "t.safetensors"
    data = examples(60, 1)
    data.x[7] = value
    for wrong, guide in ((data, None), (Examples(data.x, np.full(60, -1, np.int64)), teacher)):
        with pytest.raises(InvalidError, match=r"training has made weight NaN or infinite in epoch 1") as refused:
            fit_network(network(), wrong, settings(20, checkpoint=kept), guide)
        assert "in the samples" in refused.value.hint and not kept.exists()


def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    whole = fit_network(network(), examples(60, 1), settings(20))

    def stop(share: float) -> None:
        if share >= 0.6:
            raise KeyboardInterrupt

    kept = tmp_path / "t.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fit_network(network(), examples(60, 1), settings(20, tick=stop, checkpoint=kept))
    assert kept.is_file()
    resumed = fit_network(network(), examples(60, 1), settings(20, checkpoint=kept))
    x = examples(10, 5).x
    assert np.array_equal(logits(whole, x), logits(resumed, x))


def test_a_snapshot_is_dealt_into_disjoint_parts() -> None:
    own = sets()
    fresh = examples(40, 9)
    label = fresh.y.copy()
    label[30:] = -1
    x = np.concatenate([fresh.x, own.exam.x[:1], fresh.x[:1]])  # an exam input, and a repeated one
    samples = Examples(x, np.concatenate([label, own.exam.y[:1], label[:1]]))
    parts = deal(own, samples, seed=0, repeats=2)
    assert (len(parts.gate), len(parts.calibration), len(parts.unlabelled)) == (7, 23, 10)
    assert len(parts.train) == 60 + 2 * 20
    trained = {row.tobytes() for row in parts.train.x}
    for held in (parts.gate, parts.calibration, parts.validation, parts.exam):
        assert trained.isdisjoint({row.tobytes() for row in held.x})


def test_swapped_labels_leave_the_exam_alone() -> None:
    own = sets()
    swapped = swap_labels(own, 0, 1)
    assert np.array_equal(swapped.train.y, 1 - own.train.y)
    assert np.array_equal(swapped.exam.y, own.exam.y)


def test_recipes_are_registered_code(tmp_path: Path) -> None:
    with pytest.raises(ForbiddenError):
        load_recipe("../r.py", folder=tmp_path)
    with pytest.raises(NotFoundError):
        load_recipe("no.such.recipe")
    (tmp_path / "empty.py").write_text("x = 1\n")
    with pytest.raises(InvalidError, match="RECIPE"):
        load_recipe("empty.py", folder=tmp_path)
    loaded = load_recipe("examples.digits.recipe")
    assert len(loaded.sha256) == 64 and len(loaded.recipe.labels) == 10


def test_warm_weights_are_those_of_the_same_layer() -> None:
    net = network()
    own = {name: np.full(value.shape, 1.0, np.float32) for name, value in net.state_dict().items()}
    other = {name: 2 * array for name, array in own.items()}
    for head, start in (
        ("its own names", {**{f"head.{name}": array for name, array in other.items()}, **own}),
        (
            "one wrapper",
            {f"head.{next(iter(own))}": next(iter(other.values())), **{f"net.{name}": a for name, a in own.items()}},
        ),
    ):
        assert load_weights(net, start) == "", head
        assert all(bool((value == 1).all()) for value in net.state_dict().values()), head
    both = {f"{head}.{name}": array for head in ("a", "b") for name, array in own.items()}
    mixed = {f"{'a' if index else 'b'}.{name}": array for index, (name, array) in enumerate(own.items())}
    assert "the release before has no" in load_weights(net, both) and load_weights(net, mixed)
