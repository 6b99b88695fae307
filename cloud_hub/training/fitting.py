"""Fits one network: seeded, checkpointed after every few epochs, resumable to the same bits on a CPU.

Distillation: the student learns the teacher's softened answers (Hinton, Vinyals and Dean, 2015,
"Distilling the Knowledge in a Neural Network") beside the labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from cloud_hub.errors import InvalidError
from cloud_hub.training.recipe import Examples
from model_compiler.data import Array

CHECKPOINT_EPOCHS = 10
BATCH = 512  # rows of an answer without training


@dataclass(frozen=True)
class FitSettings:
    """One fit. `tick(fraction)` is called after every epoch and may raise to stop it."""

    epochs: int
    batch: int
    rate: float
    weight_decay: float
    seed: int
    checkpoint: Path | None = None
    temperature: float = 2.0
    soft_share: float = 0.0
    augment: Callable[[Any, torch.Generator], Any] | None = None
    tick: Callable[[float], None] = lambda fraction: None


def device() -> torch.device:
    """The GPU when there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fit(network: nn.Module, data: Examples, settings: FitSettings, teacher: nn.Module | None = None) -> nn.Module:
    """Train `network` (n, …) → (n, classes) and return it on the CPU in evaluation mode.

    It takes the inputs of `data` by place (`checking.placed` makes it so); of several outputs the first is trained.
    Rows with the label -1 teach through `teacher` only. Mixed precision and torch.compile are used on CUDA; the CPU
    computes in float32.
    """
    where = device()
    network.to(where).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.rate, weight_decay=settings.weight_decay)
    start = _resume(network, optimizer, settings.checkpoint)
    run = torch.compile(network) if where.type == "cuda" else network
    if teacher is not None:
        teacher.to(where).eval()
    x = {name: torch.from_numpy(array).to(where) for name, array in data.inputs.items()}
    y = torch.from_numpy(data.y).to(where)
    for epoch in range(start, settings.epochs):
        rate = settings.rate * 0.5 * (1 + np.cos(np.pi * epoch / settings.epochs))
        for group in optimizer.param_groups:
            group["lr"] = rate
        _epoch(run, optimizer, x, y, settings, epoch, teacher)
        _check_weights(network, epoch + 1)  # before they become a checkpoint
        if settings.checkpoint is not None and (epoch + 1) % CHECKPOINT_EPOCHS == 0:
            _save(network, optimizer, settings.checkpoint, epoch + 1)
        settings.tick((epoch + 1) / settings.epochs)
    return network.to("cpu").eval()


def _check_weights(network: nn.Module, epoch: int) -> None:
    """Raise InvalidError unless all weights are numbers: rounded to integers, NaN would pass for a model."""
    for name, weights in network.named_parameters():
        if not bool(torch.isfinite(weights).all()):
            raise InvalidError(
                f"training has made {name} NaN or infinite in epoch {epoch}",
                subject=name,
                hint="look for NaN and huge values in the recipe's data and in the samples, or lower the learning rate",
            )


def logits(network: nn.Module, x: Array | Mapping[str, Array]) -> npt.NDArray[np.float32]:
    """The network's answers (n, classes) to `x`, one input (n, …) or several in the order that it takes them."""
    tensors = [torch.from_numpy(a).split(BATCH) for a in (x.values() if isinstance(x, Mapping) else [x])]
    network = network.cpu().eval()
    with torch.no_grad():
        parts = [_first(network(*part)) for part in zip(*tensors, strict=True)]
    found: npt.NDArray[np.float32] = torch.cat(parts).numpy()
    return found


def _first(answer: Tensor | tuple[Tensor, ...]) -> Tensor:
    return answer if isinstance(answer, Tensor) else answer[0]


def accuracy(network: nn.Module, data: Examples) -> float:
    """Share of right answers, 0 to 1, over the labelled rows (0 when there are none)."""
    labelled = data.take(np.flatnonzero(data.y >= 0))
    if not len(labelled):
        return 0.0
    return float((logits(network, labelled.x).argmax(axis=1) == labelled.y).mean())


def _epoch(
    network: Callable[..., Any],
    optimizer: torch.optim.Optimizer,
    x: dict[str, Tensor],
    y: Tensor,
    settings: FitSettings,
    epoch: int,
    teacher: nn.Module | None,
) -> None:
    # Every epoch has its own seed, so that a resumed run draws what an unbroken one would.
    torch.manual_seed(settings.seed * 100_003 + epoch)
    generator = torch.Generator().manual_seed(settings.seed * 100_003 + epoch)
    for rows in torch.randperm(len(y), generator=generator).split(settings.batch):
        inputs, labels = {name: tensor[rows] for name, tensor in x.items()}, y[rows]
        if settings.augment is not None:
            inputs = _augmented(settings.augment, inputs, generator)
        values = tuple(inputs.values())
        with _precision(y.device):
            soft = None if teacher is None else _answers(teacher, values)
            loss = _loss(_first(network(*values)), labels, settings, soft)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _augmented(
    augment: Callable[[Any, torch.Generator], Any], inputs: dict[str, Tensor], generator: torch.Generator
) -> dict[str, Tensor]:
    if len(inputs) > 1:
        changed = augment(inputs, generator)
        return {name: changed[name] for name in inputs}
    return {name: augment(value, generator) for name, value in inputs.items()}


def _answers(teacher: nn.Module, values: tuple[Tensor, ...]) -> Tensor:
    with torch.no_grad():
        return _first(teacher(*values))


def _loss(answers: Tensor, labels: Tensor, settings: FitSettings, soft: Tensor | None) -> Tensor:
    known = labels >= 0
    hard = functional.cross_entropy(answers[known], labels[known]) if bool(known.any()) else answers.sum() * 0.0
    if soft is None:
        return hard
    heat = settings.temperature
    distance = functional.kl_div(
        functional.log_softmax(answers / heat, 1), functional.log_softmax(soft / heat, 1),
        log_target=True, reduction="batchmean",
    )  # fmt: skip
    return settings.soft_share * heat * heat * distance + (1 - settings.soft_share) * hard


def _precision(where: torch.device) -> AbstractContextManager[object]:
    return torch.autocast("cuda", torch.bfloat16) if where.type == "cuda" else nullcontext()


def _save(network: nn.Module, optimizer: torch.optim.Optimizer, path: Path, epoch: int) -> None:
    tensors = {f"model.{name}": value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": value.detach().cpu().contiguous() for key, value in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".tmp")
    save_file(tensors, fresh, metadata={"epoch": str(epoch)})
    fresh.replace(path)


def _resume(network: nn.Module, optimizer: torch.optim.Optimizer, path: Path | None) -> int:
    """Load a checkpoint if there is one; returns the epoch to go on with."""
    if path is None or not path.is_file():
        return 0
    model: dict[str, Tensor] = {}
    moments: dict[int, dict[str, Tensor]] = {}
    with safe_open(path, framework="pt") as file:
        epoch = int(file.metadata()["epoch"])
        for name in file.keys():  # noqa: SIM118 (it is not a mapping)
            kind, _, rest = name.partition(".")
            if kind == "model":
                model[rest] = file.get_tensor(name)
            else:
                index, _, key = rest.partition(".")
                moments.setdefault(int(index), {})[key] = file.get_tensor(name)
    network.load_state_dict(model)
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return epoch
