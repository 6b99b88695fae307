"""The modes of a network's modules, which a fit sets: what `self.training` says in each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


def train(network: nn.Module, *, normalising: bool) -> None:
    """Training mode; without `normalising` the statistics of normalisation stay, as where most weights are held: their
    layers were folded with them."""
    network.train()
    for module in network.modules() if not normalising else ():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.eval()


@contextmanager
def answering_as_in_training(network: nn.Module, seed: int) -> Iterator[None]:
    """Within it the modules that a recipe wrote are in training mode: a loss may need what `forward` gives there alone.

    Torch's own, and what is made of its dropout and normalisation, are in the other one: they draw nothing and keep
    their statistics. Whatever else draws, as a recipe's or another library's modules may, does so by `seed` and takes
    nothing from other draws. At the end, also after an error, all buffers are as they were, and the network is on the
    CPU in evaluation mode.
    """
    kept = [
        (module, name, buffer, buffer.detach().clone())
        for module in network.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    devices = {tensor.device for tensor in network.state_dict().values() if tensor.device.type == "cuda"}
    try:
        with torch.random.fork_rng(sorted(devices, key=str)):
            torch.manual_seed(seed)
            _set_modes(network)
            yield
    finally:
        with torch.no_grad():
            for module, name, buffer, values in kept:
                setattr(module, name, buffer.copy_(values))  # it may have been changed, or another put in its place
        network.to("cpu").eval()


def _set_modes(network: nn.Module) -> None:
    network.eval()
    for module in network.modules():
        own = not type(module).__module__.startswith("torch.")
        module.training = own and not isinstance(module, nn.modules.batchnorm._NormBase | nn.modules.dropout._DropoutNd)
