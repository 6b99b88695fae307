"""The weights that a retrain may change, so that the patch is small: those that matter most.

A network that begins as the released one needs few of its weights changed: 2 % of an int8 MobileNet's reached what a
fine-tune of all of them reached on shifted inputs. A weight's worth is the first-order effect of one step of its
quantization grid: the gradient of the loss over all rows, old and new, times the step. Where the released network has
converged, the gradients of old rows cancel, and those of new ones are left (compare Sung et al., "Training Neural
Networks with Fixed Sparse Masks", NeurIPS 2021, which rank by Fisher information). Where bytes are few, a fine-tune of
all weights goes ahead, and the worth is the effect of the way that each of them went, in place of one step (compare
Ansell et al., "Composable Sparse Fine-Tuning for Cross-Lingual Transfer", ACL 2022, which rank by the way alone).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a worker that waits for jobs reads this, and torch is a second and 200 MB
    from torch import Tensor, nn

GRID = 127  # steps of an int8 grid on each side of zero
OVERHEAD, CHANGE_BITS = 150, 5.0  # of a patch: its header and coder's tables, bytes; each change, bits
LEAST_SHARE = 5e-4  # of all weights: below, hardly any is left


def worth_of(network: nn.Module, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The worth of every weight, by parameter, (…).

    Args:
        network: as it is now; a channel's largest weight says how wide a step of its grid is.
        gradients: of the loss, by parameter (`fitting.gradients`).

    The parameters of normalisation layers are left out: converters fold them into whole channels, so that each would
    change all of these.
    """
    from torch import nn

    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]
    left_out = {id(weights) for module in norms for weights in module.parameters()}
    found = {}
    for name, weights in network.named_parameters():
        if name in gradients and id(weights) not in left_out:
            found[name] = gradients[name].abs() * _step(weights.detach())
    return found


def worth_moved(network: nn.Module, gradients: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same by the way that a fine-tune of all weights went.

    Args:
        network: as that left it.
        gradients: of the loss before it.
        before: its parameters before it.
    """
    steps = {name: weights.detach() - before[name] for name, weights in network.named_parameters()}
    return {name: gradients[name].abs() * steps[name].abs() for name in worth_of(network, gradients)}


def free_of(worth: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Choose the weights that may change, bool (…) by parameter: the share (0, 1] of all that are worth most."""
    import torch

    every = torch.cat([values.reshape(-1) for values in worth.values()])
    count = max(1, min(len(every), round(share * len(every))))
    chosen = torch.zeros(len(every), dtype=torch.bool)
    chosen[torch.topk(every, count).indices] = True
    parts = chosen.split([values.numel() for values in worth.values()])
    return {name: part.reshape(worth[name].shape) for name, part in zip(worth, parts, strict=True)}


def share_for(patch: int, weights: int) -> float:
    """About which share of `weights` int8 weights may change for a patch of so many bytes, in [`LEAST_SHARE`, 1].

    Their places cost the entropy of the share, each change a few bits; only a patch that is made tells.
    """
    low, high = LEAST_SHARE, 1.0
    if bytes_for(high, weights) <= patch:
        return high
    for _ in range(40):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if bytes_for(middle, weights) <= patch else (low, middle)
    return low


def bytes_for(share: float, weights: int) -> float:
    """See `share_for`."""
    places = 0.0 if share >= 1 else -share * math.log2(share) - (1 - share) * math.log2(1 - share)
    return OVERHEAD + weights * (places + CHANGE_BITS * share) / 8


def _step(weights: Tensor) -> Tensor:
    """The step of an int8 grid: per channel for a matrix or kernel; for all of a bias, which has a finer one."""
    if weights.ndim < 2:
        return weights.abs().max().clamp(min=1e-12) / GRID
    highest = weights.reshape(len(weights), -1).abs().amax(1).clamp(min=1e-12) / GRID
    return highest.reshape(-1, *[1] * (weights.ndim - 1))
