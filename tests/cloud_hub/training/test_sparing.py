"""The weights that may change; the others do not, to the bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cloud_hub.training.examples import Examples
from cloud_hub.training.fitting import FitSettings, fit_network, gradients
from cloud_hub.training.sparing import LEAST_SHARE, bytes_for, free_of, share_for, worth_moved, worth_of

torch.set_num_threads(1)
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(96, 6)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64)
SETTINGS = FitSettings(3, 32, 1e-2, 1e-2, 0)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_only_free_weights_change_and_batch_statistics_stay() -> None:
    """Weight decay, momentum and the statistics of normalisation would move others, too."""
    made = network()
    before = state(made)
    free = free_of(worth_of(made, gradients(made, Examples(X, Y), SETTINGS)), 0.2)
    fit_network(made, Examples(X, Y), FitSettings(3, 32, 0.5, 1e-2, 0, free=free))
    after = state(made)
    for name, value in after.items():
        may = free.get(name, torch.zeros(value.shape, dtype=torch.bool))
        assert torch.equal(value[~may], before[name][~may]), name
    for layer in (0, 3):  # as far as the grid of its channel goes
        reach = [weights[f"{layer}.weight"].abs().amax(1) for weights in (before, after)]
        assert bool((reach[1] <= reach[0]).all())
    moved = sum(int((after[name] != before[name]).sum()) for name in free)
    assert 0 < moved <= sum(int(mask.sum()) for mask in free.values())


def test_a_killed_fit_goes_on_to_the_same_weights(tmp_path) -> None:
    free = free_of(worth_of(network(), gradients(network(), Examples(X, Y), SETTINGS)), 0.3)
    whole = fit_network(network(), Examples(X, Y), FitSettings(12, 32, 1e-2, 1e-2, 0, free=free))

    def stop(share: float) -> None:
        if share > 0.9:
            raise InterruptedError

    path = tmp_path / "c.safetensors"
    with pytest.raises(InterruptedError):
        fit_network(
            network(), Examples(X, Y), FitSettings(12, 32, 1e-2, 1e-2, 0, checkpoint=path, free=free, tick=stop)
        )
    again = fit_network(network(), Examples(X, Y), FitSettings(12, 32, 1e-2, 1e-2, 0, checkpoint=path, free=free))
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in again.state_dict().items())


def test_gradients_change_nothing_and_are_of_all_rows() -> None:
    made = network()
    before = state(made)
    found = gradients(made, Examples(X, Y), SETTINGS)
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())
    in_one = gradients(made, Examples(X, Y), FitSettings(1, len(X), 1e-2, 0.0, 0))
    assert all(torch.allclose(found[name], value, atol=1e-6) for name, value in in_one.items())


class Still(nn.BatchNorm1d):
    """A normalisation of a recipe's own."""


class Telling(nn.Module):
    """Answers more in training, as a detector does."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), Still(8), nn.Dropout(0.5), nn.Linear(8, 2))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        scores = self.layers(x)
        return {"scores": scores, "extra": scores} if self.training else {"scores": scores}


def test_a_gradient_is_of_what_forward_answers_in_training() -> None:
    torch.manual_seed(0)
    made, settings = Telling(), replace(SETTINGS, loss=lambda answer, batch: answer["extra"].square().mean())
    before = state(made)
    found = gradients(made, Examples(X, Y), settings)
    assert bool(found["layers.0.weight"].any()), "the loss was of the weights"
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())
    again = gradients(made, Examples(X, Y), settings)
    assert all(torch.equal(value, again[name]) for name, value in found.items()), "nothing was drawn"
    assert not any(module.training for module in made.modules())


class Drawing(nn.Module):
    """Draws and counts by itself in training, as modules of other libraries do."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 2))
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("runs", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = nn.functional.batch_norm(self.layers[0](x), self.mean, torch.ones(8), training=self.training)
        self.runs = self.runs + 1
        scores: torch.Tensor = self.layers[1](nn.functional.dropout(hidden, 0.5, self.training))
        return scores


def test_a_gradient_changes_nothing_where_modules_draw_and_count_by_themselves() -> None:
    torch.manual_seed(0)
    made = Drawing()
    before, drawn = state(made), torch.get_rng_state()
    found = gradients(made, Examples(X, Y), SETTINGS)
    assert torch.equal(torch.get_rng_state(), drawn), "what is drawn elsewhere does not depend on it"
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())
    torch.manual_seed(1)
    again = gradients(made, Examples(X, Y), SETTINGS)
    assert all(torch.equal(value, again[name]) for name, value in found.items())


def test_a_loss_that_fails_leaves_the_network_as_it_was() -> None:
    def fails(answer: torch.Tensor, batch: object) -> torch.Tensor:
        raise ValueError("no such loss")

    made = Drawing()
    before = state(made)
    with pytest.raises(ValueError, match="no such loss"):
        gradients(made, Examples(X, Y), replace(SETTINGS, loss=fails))
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())
    assert not any(module.training for module in made.modules())


def test_a_weight_is_worth_its_gradient_times_the_step_of_its_channel() -> None:
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.27, 0.1], [12.7, 0.1]]))
    worth = worth_of(layer, {"weight": torch.tensor([[1.0, -2.0], [1.0, 0.0]])})
    assert torch.allclose(worth["weight"], torch.tensor([[0.01, 0.02], [0.1, 0.0]]))
    assert set(worth_of(network(), dict(network().named_parameters()))) == {"0.weight", "0.bias", "3.weight", "3.bias"}


def test_after_a_fine_tune_of_all_a_weight_is_worth_its_gradient_times_its_way() -> None:
    made = network()
    found = gradients(made, Examples(X, Y), SETTINGS)
    before = {name: weights.detach().clone() for name, weights in made.named_parameters()}
    worth = worth_moved(fit_network(made, Examples(X, Y), SETTINGS), found, before)
    assert set(worth) == {"0.weight", "0.bias", "3.weight", "3.bias"}, "not those of the normalisation"
    way = (dict(made.named_parameters())["3.weight"] - before["3.weight"]).abs()
    assert torch.allclose(worth["3.weight"], found["3.weight"].abs() * way) and bool((way > 0).any())


@given(share=st.floats(1e-6, 1.0))
def test_the_share_is_of_all_weights_together(share: float) -> None:
    worth = {"a": torch.arange(40.0).reshape(4, 10), "b": torch.arange(60.0)}
    free = free_of(worth, share)
    count = sum(int(mask.sum()) for mask in free.values())
    assert count == max(1, round(share * 100)) and {n: m.shape for n, m in free.items()} == {
        n: w.shape for n, w in worth.items()
    }
    least = min(float(worth[name][mask].min()) for name, mask in free.items() if mask.any())
    assert all(float(worth[name][~mask].max()) <= least for name, mask in free.items() if (~mask).any())


@given(patch=st.integers(1, 10**7), weights=st.integers(1, 10**7))
def test_the_share_for_a_patch_keeps_to_it(patch: int, weights: int) -> None:
    share = share_for(patch, weights)
    assert LEAST_SHARE <= share <= 1.0
    assert share == LEAST_SHARE or bytes_for(share, weights) <= patch
    assert share_for(2 * patch, weights) >= share
