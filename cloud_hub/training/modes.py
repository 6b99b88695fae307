"""The modes of a network's modules, which a fit sets: what `self.training` says in each."""

from __future__ import annotations

from torch import nn


def train(network: nn.Module, *, normalising: bool) -> None:
    """Training mode; without `normalising` the statistics of normalisation stay, as where most weights are held: their
    layers were folded with them."""
    network.train()
    for module in network.modules() if not normalising else ():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.eval()


def answer_as_in_training(network: nn.Module) -> None:
    """Training mode for the modules that a recipe wrote: a loss may need what `forward` gives in training alone.

    Torch's own, and what is made of its dropout and normalisation, are in the other one: they draw nothing and keep
    their statistics.
    """
    network.eval()
    for module in network.modules():
        own = not type(module).__module__.startswith("torch.")
        module.training = own and not isinstance(module, nn.modules.batchnorm._NormBase | nn.modules.dropout._DropoutNd)
