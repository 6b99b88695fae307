"""Several processes that train one network, as torchrun starts them: `torchrun --nproc-per-node 2 -m cloud_hub train`.

Each holds the whole data and the same weights, takes its share of every batch, and steps by the gradient of all shares
together: what comes out is what one process makes, but for the order in which numbers are added. The first process
writes files, the others write none. Dropout draws alike in all of them, and batch statistics are of a share.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn


@dataclass(frozen=True)
class Share:
    """This process's place among `count` processes; alone without torchrun."""

    number: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """True if this process writes files and speaks."""
        return self.number == 0

    def of(self, rows: Tensor) -> Tensor:
        """This process's share of a batch's rows (b, …); it may be empty.

        A batch that has not two rows for each is the first's alone: batch statistics of one row are none.
        """
        if len(rows) < 2 * self.count:
            return rows if self.first else rows[:0]
        return rows[self.number :: self.count]

    def add(self, network: nn.Module, loss: Tensor) -> Tensor:
        """Add up the gradients and the losses of all shares, each of which was weighted by its part of the batch.

        Returns:
            The loss of the whole batch.
        """
        if self.count == 1:
            return loss.detach()
        parameters = [p for p in network.parameters() if p.requires_grad]
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        flat = torch.cat([loss.detach().reshape(1), *(p.grad.reshape(-1) for p in parameters if p.grad is not None)])
        distributed.all_reduce(flat)
        parts = flat[1:].split([p.numel() for p in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.reshape(parameter.shape).clone()
        return flat[0]

    def agree(self, network: nn.Module) -> None:
        """Give all processes the first one's weights and buffers, whatever a recipe drew without a seed."""
        if self.count > 1:
            for tensor in (*network.parameters(), *network.buffers()):
                distributed.broadcast(tensor.detach(), 0)

    def wait(self) -> None:
        """Until all are here: what the first has written is there."""
        if self.count > 1:
            distributed.barrier()


def process_share() -> Share:
    """This process's share; joins the others at the first call."""
    if not distributed.is_available() or not distributed.is_torchelastic_launched():
        return Share()
    if not distributed.is_initialized():
        from torch.distributed.elastic.utils.api import get_env_variable_or_raise

        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        here = int(get_env_variable_or_raise("LOCAL_WORLD_SIZE"))  # torchrun's, as torch reads it
        distributed.init_process_group(backend(gpus, here))
    return Share(distributed.get_rank(), distributed.get_world_size())


def backend(gpus: int, processes: int) -> str:
    """Return the backend by which `processes` on one machine with `gpus` talk: NCCL wants a GPU for each."""
    return "nccl" if processes <= gpus else "gloo"


def device() -> torch.device:
    """This process's GPU where there is one."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    where = torch.device("cuda", distributed.get_node_local_rank(fallback_rank=0) % torch.cuda.device_count())
    torch.cuda.set_device(where)
    return where
