"""Quantization-aware fine-tuning: a float module learns to give the same answers when it is rounded to 8 bits.

The forward pass is watched function by function, so that it makes no difference whether an operator is a
module, a function or a node of an exported program. What an int8 runtime would hold in 8 bits is rounded on
the way: the weights of convolutions and linear layers (symmetric, per output channel) and every tensor that
an arithmetic operator reads (affine, per tensor, over the range that the inputs show). What runtimes fuse is
not rounded in between: a convolution's output before its batch norm or its ReLU. Gradients pass rounding
unchanged (the straight-through estimator; Jacob et al., "Quantization and Training of Neural Networks for
Efficient Integer-Arithmetic-Only Inference", 2018). The teacher is the float module itself.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch.overrides import TorchFunctionMode

from model_compiler.errors import DataError, TargetError

Array = npt.NDArray[Any]
Tensors = tuple[torch.Tensor, ...]

BATCH: Final = 32
UNLABELLED: Final = -1
LEAST_RMS: Final = 1e-3  # a tensor of zeros (a fresh bias) must be able to move, too
SLOWER: Final = (1.0, 0.1, 0.01)  # shares of the rate, tried in turn until one helps
WEIGHTED: Final = frozenset({"conv1d", "conv2d", "conv3d", "linear"})
ARITHMETIC: Final = frozenset(
    {
        *("add", "iadd", "radd", "sub", "isub", "rsub", "mul", "imul", "rmul", "div", "truediv", "rtruediv"),
        *("matmul", "rmatmul", "bmm", "mm", "addmm", "cat", "concat", "stack", "mean", "sum", "interpolate"),
        *("softmax", "log_softmax", "sigmoid", "tanh", "gelu", "silu", "hardswish", "hardsigmoid", "elu", "leaky_relu"),
        *("avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "layer_norm"),
        *("conv_transpose1d", "conv_transpose2d", "scaled_dot_product_attention"),
    }
)


def finetune(
    module: torch.nn.Module,
    x: Mapping[str, Array] | Array,
    y: Array | None = None,
    *,
    epochs: int = 30,
    lr: float = 0.01,
    seed: int = 0,
    progress: Callable[[str], None] = lambda step: None,
) -> torch.nn.Module:
    """A copy of `module`, fine-tuned; it is an ordinary float module that converts and quantizes as usual.

    Of all epochs the one is kept whose rounded answers are nearest to the float module's, which may be the
    one before the first: by that measure the result is never worse than what came in. A rate at which no
    epoch helps is divided by ten, twice at most. In float the result may answer worse than `module` does,
    which therefore stays what float variants are made of. Dropout and the statistics of batch norms are
    left as they are in inference.

    Args:
        x: the inputs, each (n, …), in the order that the module takes them.
        y: integer classes (n,) of the first output, (n, classes), which then count beside the float module's
            answers; negative where there is no label.
        lr: the most that a step changes a parameter, as a share of the root mean square of its tensor; falls
            to nothing along a cosine.

    Raises:
        DataError: `x` is empty, its parts or `y` differ in length, or a class lies beyond the outputs.
        TargetError: the loss is not finite any more.
    """
    inputs = _tensors(x)
    labels = None if y is None else torch.from_numpy(np.ascontiguousarray(y, dtype=np.int64))
    _check(inputs, labels)
    student = copy.deepcopy(module).eval()
    lesson = _Lesson(inputs, _answers(student, inputs), labels, Rounding())
    _check_classes(labels, lesson.goal[0])
    order = torch.Generator().manual_seed(seed)
    first = best = lesson.rounded_error(student)
    kept = copy.deepcopy(student.state_dict())
    for share in SLOWER if epochs else ():
        for epoch, error in _epochs(student, lesson, epochs, lr * share, order):
            progress(f"quantization-aware fine-tuning, epoch {epoch} of {epochs}: error {error:.4g} from {first:.4g}")
            if error < best:
                best, kept = error, copy.deepcopy(student.state_dict())
        student.load_state_dict(kept)
        if best < first:
            break
    return student.requires_grad_(False)


class Rounding(TorchFunctionMode):  # torch does not type it
    """While it is entered, whatever an int8 runtime would hold in 8 bits is rounded as it would be.

    With `watching` set nothing is rounded; the ranges are learned instead, by the place of each call in the
    forward pass, which must therefore be the same for all inputs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.watching = False
        self._ranges: dict[tuple[int, int], tuple[float, float]] = {}
        self._call = 0

    def __enter__(self) -> Rounding:
        """Begin a forward pass."""
        self._call = 0
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def forget(self) -> None:
        """Ranges are learned anew: the weights have moved."""
        self._ranges.clear()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Round what `func` reads, and call it."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "").partition(".")[0].strip("_")
        if name in WEIGHTED and len(args) > 1:
            self._call += 1
            args = (self._activation(args[0], 0), self._weight(args[1]), *args[2:])
        elif name in ARITHMETIC:
            self._call += 1
            args = tuple(self._any(arg, place) for place, arg in enumerate(args))
        return func(*args, **kwargs)

    def output(self, found: Tensors) -> Tensors:
        """Round the model's outputs."""
        self._call += 1
        return tuple(self._activation(tensor, place) for place, tensor in enumerate(found))

    def _any(self, arg: Any, place: int) -> Any:
        if isinstance(arg, (tuple, list)) and any(isinstance(item, torch.Tensor) for item in arg):
            return [self._activation(item, 100 * (place + 1) + index) for index, item in enumerate(arg)]
        return self._activation(arg, place)

    def _activation(self, value: Any, place: int) -> Any:
        plain = isinstance(value, torch.Tensor) and not isinstance(value, torch.nn.Parameter)
        if not plain or not value.dtype.is_floating_point or not value.numel():
            return value
        key = (self._call, place)
        if self.watching:
            low, high = self._ranges.get(key, (0.0, 0.0))
            self._ranges[key] = min(low, float(value.min())), max(high, float(value.max()))
            return value
        low, high = self._ranges.get(key, (0.0, 0.0))
        scale = (high - low) / 255
        if not 0 < scale < math.inf:
            return value
        zero = min(127, max(-128, round(-128 - low / scale)))
        return torch.fake_quantize_per_tensor_affine(value, scale, zero, -128, 127)

    def _weight(self, weight: torch.Tensor) -> torch.Tensor:
        if self.watching:
            return weight
        largest = weight.detach().abs().flatten(1).amax(dim=1)
        scale = torch.where(largest > 0, largest / 127, torch.ones_like(largest)).float()
        zero = torch.zeros(len(scale), dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -127, 127)


@dataclass(frozen=True)
class _Lesson:
    """All inputs, the float module's answers to them, the classes if there are any."""

    inputs: Tensors
    goal: Tensors
    labels: torch.Tensor | None
    rounding: Rounding

    def loss(self, found: Tensors, rows: slice | torch.Tensor = slice(None)) -> torch.Tensor:
        """Squared error against the float module's outputs, relative to their variance; cross-entropy beside it."""
        total = torch.zeros(())
        for mine, theirs in zip(found, self.goal, strict=True):
            total = total + ((mine - theirs[rows]) ** 2).mean() / theirs.var(correction=0).clamp_min(1e-12)
        classes = None if self.labels is None else self.labels[rows]
        if classes is not None and bool((classes >= 0).any()):
            total = total + torch.nn.functional.cross_entropy(
                found[0], classes.clamp_min(UNLABELLED), ignore_index=UNLABELLED
            )
        return total

    def rounded_error(self, module: torch.nn.Module) -> float:
        """Learn the ranges over all inputs, then the loss over all of them with everything rounded."""
        self.rounding.forget()
        with torch.no_grad():
            self.rounding.watching = True
            for batch in _batches(self.inputs):
                self._rounded(module, batch)
            self.rounding.watching = False
            error = float(self.loss(_joined(self._rounded(module, batch) for batch in _batches(self.inputs))))
        if math.isnan(error):
            raise TargetError("quantization-aware fine-tuning diverged", hint="lower the learning rate")
        return error

    def step(self, module: torch.nn.Module, rows: torch.Tensor) -> torch.Tensor:
        """The loss of one batch, with everything rounded."""
        return self.loss(self._rounded(module, tuple(tensor[rows] for tensor in self.inputs)), rows)

    def _rounded(self, module: torch.nn.Module, batch: Tensors) -> Tensors:
        with self.rounding:
            found = _call(module, batch)
        return self.rounding.output(found)


def _epochs(
    student: torch.nn.Module, lesson: _Lesson, epochs: int, lr: float, order: torch.Generator
) -> Iterator[tuple[int, float]]:
    """Train `student`, and after each epoch say its number and the rounded error."""
    parameters = [p.requires_grad_(True) for p in student.parameters() if p.dtype.is_floating_point]
    optimizer = torch.optim.Adam([{"params": [p], "lr": lr * _rms(p)} for p in parameters])
    count = len(lesson.inputs[0])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * math.ceil(count / BATCH))
    for epoch in range(1, epochs + 1):
        for rows in torch.randperm(count, generator=order).split(BATCH):
            optimizer.zero_grad()
            lesson.step(student, rows).backward()
            optimizer.step()
            schedule.step()
        yield epoch, lesson.rounded_error(student)


def _call(module: torch.nn.Module, inputs: Tensors) -> Tensors:
    found = module(*inputs)
    return tuple(found) if isinstance(found, (tuple, list)) else (found,)


def _answers(module: torch.nn.Module, inputs: Tensors) -> Tensors:
    """Run the module on all inputs, batch by batch."""
    with torch.no_grad():
        return _joined(_call(module, batch) for batch in _batches(inputs))


def _joined(parts: Iterable[Tensors]) -> Tensors:
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))


def _batches(inputs: Tensors) -> Iterator[Tensors]:
    return zip(*(tensor.split(BATCH) for tensor in inputs), strict=True)


def _tensors(x: Mapping[str, Array] | Array) -> Tensors:
    arrays = list(x.values()) if isinstance(x, Mapping) else [x]
    return tuple(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays)


def _check(inputs: Tensors, labels: torch.Tensor | None) -> None:
    counts = {len(tensor) for tensor in inputs} | ({len(labels)} if labels is not None else set())
    if len(counts) != 1 or not min(counts):
        raise DataError(f"fine-tuning needs equal numbers of inputs and labels, more than none; there are {counts}")


def _check_classes(labels: torch.Tensor | None, scores: torch.Tensor) -> None:
    if labels is None:
        return
    if scores.ndim != 2:
        raise DataError(f"classes need outputs of shape (n, classes), they are {tuple(scores.shape)}")
    if int(labels.max()) >= scores.shape[1]:
        raise DataError(f"labels reach {int(labels.max())}; the module has classes 0 to {scores.shape[1] - 1}")


def _rms(parameter: torch.Tensor) -> float:
    return max(LEAST_RMS, float(parameter.detach().double().square().mean().sqrt()))
