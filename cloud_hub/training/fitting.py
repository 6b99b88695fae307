"""Fits one network: seeded, checkpointed after every few epochs, resumable to the same bits on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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

from cloud_hub.errors import InvalidError
from cloud_hub.training import modes
from cloud_hub.training.examples import Examples
from cloud_hub.training.losses import Batch, Loss, Weights, first, loss_of
from cloud_hub.training.parallel import Share, device, process_share
from model_compiler.inputs.dataset import Array

CHECKPOINT_EPOCHS = 10
COUNTER = "num_batches_tracked"  # of batch normalisation: no weight, and in no ONNX file
BATCH = 512  # rows of an answer without training


@dataclass(frozen=True)
class FitSettings:
    """One fit.

    `tick(fraction)` is called after every epoch and may raise to stop it; `hear` hears of each epoch's number and mean
    loss. `loss` is by default that of a classification. `precision` is `fp32`, `bf16` (mixed), or `auto`: mixed on a
    GPU. `compiled`: whether torch.compile is used; None: on a GPU. `free` says by parameter which weights may change,
    bool (…); all others stay as they are, to the bit, and so do batch statistics. None: all may.
    """

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
    loss: Loss | None = None
    hear: Callable[[int, float], None] = lambda epoch, loss: None
    precision: str = "auto"
    compiled: bool | None = None
    free: Mapping[str, Tensor] | None = None


def fit_network(
    network: nn.Module, data: Examples, settings: FitSettings, teacher: nn.Module | None = None
) -> nn.Module:
    """Train `network` and return it on the CPU in evaluation mode.

    It takes the inputs of `data` by place (`checking.placed` makes it so), and answers as `settings.loss` takes it.
    Rows without a label teach through `teacher` only, whose first output is learned from. Under torchrun all processes
    train it together (`parallel`), and the first keeps the checkpoints.
    """
    where, mine = device(), process_share()
    network.to(where)
    modes.train(network, normalising=settings.free is None)
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.rate, weight_decay=settings.weight_decay)
    held = _held(network, settings.free)
    mine.wait()
    start = _resume(network, optimizer, settings.checkpoint)
    mine.agree(network)
    compiled = where.type == "cuda" if settings.compiled is None else settings.compiled
    run = torch.compile(network) if compiled else network
    if teacher is not None:
        teacher.to(where).eval()
    x = {name: torch.from_numpy(array).to(where) for name, array in data.inputs.items()}
    y, known = (tensor.to(where) for tensor in labels_of(data))
    loss = settings.loss or loss_of(None, "", Weights(settings.temperature, settings.soft_share))
    for epoch in range(start, settings.epochs):
        rate = settings.rate * 0.5 * (1 + np.cos(np.pi * epoch / settings.epochs))
        for group in optimizer.param_groups:
            group["lr"] = rate
        heard = _epoch(_Step(run, network, optimizer, loss, settings, teacher, mine, held), Batch(x, y, known), epoch)
        settings.hear(epoch + 1, heard)
        _check_weights(network, epoch + 1)  # before they become a checkpoint
        if (
            settings.checkpoint is not None
            and mine.first
            and ((epoch + 1) % CHECKPOINT_EPOCHS == 0 or epoch + 1 == settings.epochs)
        ):
            _save(network, optimizer, settings.checkpoint, epoch + 1)
        settings.tick((epoch + 1) / settings.epochs)
    mine.agree(network)  # batch statistics were of a share each
    return network.to("cpu").eval()


def gradients(
    network: nn.Module, data: Examples, settings: FitSettings, teacher: nn.Module | None = None
) -> dict[str, Tensor]:
    """The gradient of the loss over all rows at the weights as they are, by parameter.

    Takes what `fit_network` takes, and answers in `forward` as there: a recipe's loss may need what it gives in
    training alone. Weights and buffers stay as they are; the network is on the CPU in evaluation mode afterwards.
    """
    where, mine = device(), process_share()
    network.to(where)
    if teacher is not None:
        teacher.to(where).eval()
    x = {name: torch.from_numpy(array).to(where) for name, array in data.inputs.items()}
    y, known = (tensor.to(where) for tensor in labels_of(data))
    loss = settings.loss or loss_of(None, "", Weights(settings.temperature, settings.soft_share))
    optimizer = torch.optim.SGD(network.parameters())  # it only empties gradients
    step = _Step(network, network, optimizer, loss, settings, teacher, mine)
    generator = torch.Generator().manual_seed(settings.seed)
    found = {name: torch.zeros_like(weights) for name, weights in network.named_parameters()}
    with modes.answering_as_in_training(network, settings.seed):
        for rows in torch.randperm(len(y), generator=generator).split(settings.batch):
            optimizer.zero_grad()
            _passed(step, Batch(x, y, known), rows, generator)
            for name, weights in network.named_parameters():
                if weights.grad is not None:
                    found[name] += weights.grad * (len(rows) / len(y))
    return {name: total.cpu() for name, total in found.items()}


def _held(network: nn.Module, free: Mapping[str, Tensor] | None) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Each parameter with which of its weights may change, the values that the others keep, and how far one may go:
    to the largest of its channel at the start, where the channel's quantization grid ends."""
    if free is None:
        return []
    none = torch.zeros((), dtype=torch.bool)
    return [
        (weights, free.get(name, none).to(weights.device), weights.detach().clone(), _reach(weights.detach()))
        for name, weights in network.named_parameters()
    ]


def _reach(weights: Tensor) -> Tensor:
    """The largest of each channel, broadcast; a bias has no end."""
    if weights.ndim < 2:
        return torch.full((), torch.inf, device=weights.device)
    return weights.reshape(len(weights), -1).abs().amax(1).reshape(-1, *[1] * (weights.ndim - 1))


def _hold(held: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]]) -> None:
    """Undo what the optimizer did to weights that are held, whose decay and momentum know no gradient, and what goes
    beyond the grid."""
    with torch.no_grad():
        for weights, free, values, reach in held:
            weights.copy_(torch.where(free, weights.clamp(-reach, reach), values))


def _check_weights(network: nn.Module, epoch: int) -> None:
    """Raise InvalidError unless all weights are numbers: rounded to integers, NaN would pass for a model."""
    for name, weights in network.named_parameters():
        if not bool(torch.isfinite(weights).all()):
            raise InvalidError(
                f"training has made {name} NaN or infinite in epoch {epoch}",
                subject=name,
                hint="look for NaN and huge values in the recipe's data and in the samples, or lower the learning rate",
            )


def labels_of(data: Examples) -> tuple[Tensor, Tensor]:
    """Labels (n, …) as the loop takes them, and which are known, bool (n,); text becomes integers, alike for alike."""
    y = data.y
    if y.dtype.kind in "USO":
        y = np.unique(y, return_inverse=True)[1].reshape(y.shape)
    kind = np.int64 if y.dtype.kind in "iub" else np.float32
    return torch.from_numpy(np.ascontiguousarray(y, kind)), torch.from_numpy(data.labelled)


def answers_of(network: nn.Module, x: Array | Mapping[str, Array]) -> tuple[npt.NDArray[Any], ...]:
    """All answers (n, …) to `x`, one input (n, …) or several in the order that the network takes them."""
    tensors = [torch.from_numpy(a).split(BATCH) for a in (x.values() if isinstance(x, Mapping) else [x])]
    network = network.cpu().eval()
    with torch.no_grad():
        parts = [_tuple(network(*part)) for part in zip(*tensors, strict=True)]
    return tuple(torch.cat(found).numpy() for found in zip(*parts, strict=True))


def logits(network: nn.Module, x: Array | Mapping[str, Array]) -> npt.NDArray[np.float32]:
    """The network's first answers (n, …), see `answers_of`."""
    found: npt.NDArray[np.float32] = answers_of(network, x)[0]
    return found


def _tuple(answer: Any) -> tuple[Tensor, ...]:
    return (answer,) if isinstance(answer, Tensor) else tuple(answer)


def accuracy(network: nn.Module, data: Examples) -> float:
    """Share of right classes, 0 to 1, over the labelled rows (0 when there are none)."""
    labelled = data.with_labels()
    if not len(labelled):
        return 0.0
    return float((logits(network, labelled.x).argmax(axis=1) == labelled.y).mean())


def save_weights(network: nn.Module, path: Path) -> None:
    """Write a network's weights by name (safetensors)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}, path)


def load_weights(network: nn.Module, start: Mapping[str, Array]) -> str:
    """Begin with these weights, or stay as it is; returns why it stayed, in words, empty where it did not.

    Args:
        network: as the recipe makes it.
        start: the weights by name. Those of an ONNX file have no counters (`num_batches_tracked`), have tensors
            besides, and the names of a network inside a wrapper; what a converter has folded away is missing.
    """
    if not start:
        return "no file that holds them as they are in the network is in the release before, and no job has kept them"
    own, found = network.state_dict(), {}
    prefix = _prefix([name for name in own if not name.endswith(COUNTER)], start)
    for name, value in own.items():
        array = start.get(prefix + name)
        if array is None and name.endswith(COUNTER):
            found[name] = value
        elif array is None:
            return f"the release before has no {name!r}: it is of another network, or a converter has folded it away"
        elif array.shape != tuple(value.shape):
            return f"{name!r} has shape {list(array.shape)} in the release before, {list(value.shape)} in the recipe's"
        else:
            found[name] = torch.from_numpy(np.array(array)).to(value.dtype)
    network.load_state_dict(found)
    return ""


def _prefix(names: Sequence[str], start: Mapping[str, Array]) -> str:
    """Return the prefix of all of a network's names in `start`: empty where it has the names themselves, else the
    one wrapper under which it has all of them; empty, too, where there is none or more than one."""
    if not names or all(name in start for name in names):
        return ""
    last = f".{names[0]}"
    wrappers = [key.removesuffix(names[0]) for key in start if key.endswith(last)]
    whole = [wrapper for wrapper in wrappers if all(wrapper + name in start for name in names)]
    return whole[0] if len(whole) == 1 else ""


@dataclass(frozen=True)
class _Step:
    """The settings of an epoch besides its data."""

    run: Callable[..., Any]
    network: nn.Module
    optimizer: torch.optim.Optimizer
    loss: Loss
    settings: FitSettings
    teacher: nn.Module | None
    mine: Share
    held: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]] = ()


def _epoch(step: _Step, whole: Batch, epoch: int) -> float:
    """One pass over the data; its mean loss."""
    # Every epoch has its own seed, so that a resumed run draws what an unbroken one would.
    seed, y = step.settings.seed * 100_003 + epoch, whole.y
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros((), device=y.device)
    for rows in torch.randperm(len(y), generator=generator).split(step.settings.batch):
        step.optimizer.zero_grad()
        total += len(rows) * _passed(step, whole, rows, generator)
        step.optimizer.step()
        _hold(step.held)
    return float(total) / max(len(y), 1)


def _passed(step: _Step, whole: Batch, rows: Tensor, generator: torch.Generator) -> Tensor:
    """The gradients of a batch, in all processes alike; its mean loss."""
    inputs = {name: tensor[rows] for name, tensor in whole.inputs.items()}
    if step.settings.augment is not None:
        inputs = _augmented(step.settings.augment, inputs, generator)  # the whole batch: all draw alike
    inputs = {name: step.mine.of(tensor) for name, tensor in inputs.items()}
    return _stepped(step, inputs, whole, step.mine.of(rows), len(rows))


def _stepped(step: _Step, inputs: dict[str, Tensor], whole: Batch, rows: Tensor, count: int) -> Tensor:
    """Gradients of a batch of `count` rows, of which `rows` and `inputs` are this process's; the batch's loss."""
    loss = torch.zeros((), device=whole.y.device)
    if len(rows):
        values = tuple(inputs.values())
        with _precision(whole.y.device, step.settings.precision):
            soft = None if step.teacher is None else _answers(step.teacher, values)
            loss = step.loss(step.run(*values), Batch(inputs, whole.y[rows], whole.known[rows], soft))
        loss = loss * (len(rows) / count)
        loss.backward()
    return step.mine.add(step.network, loss)


def _augmented(
    augment: Callable[[Any, torch.Generator], Any], inputs: dict[str, Tensor], generator: torch.Generator
) -> dict[str, Tensor]:
    if len(inputs) > 1:
        changed = augment(inputs, generator)
        return {name: changed[name] for name in inputs}
    return {name: augment(value, generator) for name, value in inputs.items()}


def _answers(teacher: nn.Module, values: tuple[Tensor, ...]) -> Tensor:
    with torch.no_grad():
        return first(teacher(*values))


def _precision(where: torch.device, asked: str) -> AbstractContextManager[object]:
    mixed = where.type == "cuda" if asked == "auto" else asked == "bf16"
    return torch.autocast(where.type, torch.bfloat16) if mixed else nullcontext()


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
