"""The preprocessing of a release: its front, then its steps, applied to an application's tensors before its model file.

The manifest's inputs are *raw*: the tensors that the interface promises, that applications send, and that samples,
sketches and audits hold. A front (a model file, see `front`) and the steps, one after the other, make of them the
*ready* tensors, which the model file takes. An application that has done the steps itself sends ready tensors and names
by `digest` the steps that it has done, since a retrain may have fitted others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from math import prod
from typing import TypeVar

import msgspec
import numpy as np

from fleet.protocol.codec import encode_json
from fleet.protocol.errors import MalformedError
from fleet.protocol.finite import not_finite
from fleet.protocol.front import KIND as FRONT
from fleet.protocol.front import Front, between
from fleet.protocol.front import front_capability as front_capability
from fleet.protocol.steps import MAX_CONSTANTS, MAX_ROW_VALUES, AnyStep, Bound
from fleet.protocol.tensor_spec import Tensor
from fleet.protocol.tensors import AnyArray

MAX_STEPS = 64

T = TypeVar("T")
Arrays = dict[str, AnyArray]


class Ready(dict[str, AnyArray]):
    """Ready tensors by name, which an application made by the release's own steps: they are not done again."""


class Pipeline:
    """Steps bound to the tensors of an interface, behind a front where there is one; `between` are those in between.

    Raises MalformedError where a step finds no tensor of its name or cannot work on it, or there is more than a release
    may hold: `MAX_STEPS`, `MAX_CONSTANTS`, `MAX_ROW_VALUES`. Nothing of the data's size is allocated.
    """

    def __init__(self, steps: Sequence[AnyStep], raw: Sequence[Tensor], *, front: Front | None = None) -> None:
        check_bounds(steps)
        self.steps = tuple(steps)
        self.raw, self.front = tuple(raw), front
        self.between = between(front, raw)
        known = {tensor.name: tensor for tensor in self.between}
        self._bound: list[Bound] = []
        for step in steps:
            self._bound.append(_bound(step, known))
        self.ready = tuple(known.values())
        self.digest = digest(steps, front)

    def run(self, inputs: Mapping[str, AnyArray]) -> Arrays:
        """The ready tensors of those between front and steps; without a front these are the raw ones.

        Raises:
            MalformedError: a value that the steps cannot work on: not in a vocabulary, too short a series, too much
                for one request, or NaN or infinity that is left at the end.
            ValueError: inputs that disagree about the rows.
        """
        found = {tensor.name: inputs[tensor.name] for tensor in self.between}
        with np.errstate(over="ignore", invalid="ignore"):  # what is no number is refused below, with its place
            for step, bound in zip(self.steps, self._bound, strict=True):
                _put(found, step, bound.gives.name, bound.apply([found[name] for name in step.takes]))
        broken = not_finite("prepared input", found, self.ready)
        if broken:
            raise MalformedError(broken, subject="inputs", hint="the values are too large for the release's steps")
        return found


def check_bounds(steps: Sequence[AnyStep]) -> None:
    """Raise MalformedError for more steps or constants than a release may hold."""
    if len(steps) > MAX_STEPS:
        raise MalformedError(f"{len(steps)} steps, at most {MAX_STEPS} are allowed", subject="preprocess")
    constants = sum(step.constants for step in steps)
    if constants > MAX_CONSTANTS:
        raise MalformedError(
            f"the steps hold {constants} numbers and words, at most {MAX_CONSTANTS} are allowed",
            subject="preprocess",
            hint="put them into the model, or into a model file in front of it",
        )


def kinds_of(steps: Sequence[AnyStep], front: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the kinds of steps as an interface names them: `normalise sensors`. Fitted constants are not in it.

    Args:
        steps: the steps in order.
        front: the names of the inputs that a front before them takes; empty without one.
    """
    first = (f"{FRONT} {', '.join(front)}",) if front else ()
    return (*first, *(f"{step.kind} {', '.join(step.takes)}" for step in steps))


def required_by(steps: Sequence[AnyStep], front: Front | None = None) -> tuple[str, ...]:
    """Return the capabilities that a release with these steps, and this front, requires of an agent."""
    first = (front_capability(front.runtime),) if front is not None else ()
    return (*first, *sorted({capability(step.kind) for step in steps}))


def capability(kind: str) -> str:
    """The capability of an agent that knows a kind of step; agents of 0.1 know none."""
    return f"step:{kind}"


def digest(steps: Sequence[AnyStep], front: Front | None = None) -> str:
    """By what ready tensors name what made them: 16 hex digits, others for other constants or another front."""
    as_read = msgspec.json.decode(encode_json(tuple(steps)), type=tuple[AnyStep, ...])  # 1 is 1.0 there
    file = front.blob.sha256.encode() if front is not None else b""
    return hashlib.sha256(file + encode_json(as_read)).hexdigest()[:16]


def _bound(step: AnyStep, known: dict[str, Tensor]) -> Bound:
    missing = [name for name in step.takes if name not in known]
    if missing or not step.takes or len(set(step.takes)) != len(step.takes):
        what = f"there is no {missing[0]!r}" if missing else "it must take different tensors, at least one"
        raise MalformedError(
            f"step {step.kind}: {what}", subject="preprocess", hint=f"there are {', '.join(known) or 'none'}"
        )
    bound = step.bind([known[name] for name in step.takes])
    if prod(size for size in bound.gives.row if size != -1) > MAX_ROW_VALUES:
        raise MalformedError(
            f"step {step.kind} of {', '.join(step.takes)}: a row of {list(bound.gives.row)} values, "
            f"at most {MAX_ROW_VALUES} are allowed",
            subject="preprocess",
        )
    name = bound.gives.name
    if name in known and name not in step.takes:
        raise MalformedError(f"step {step.kind}: there is {name!r} already", subject="preprocess")
    _put(known, step, name, bound.gives)
    return bound


def _put(known: dict[str, T], step: AnyStep, name: str, made: T) -> None:
    """Put a step's result into the place of the tensor that it took; under a new name it comes last."""
    for taken in step.takes:
        if taken != name:
            del known[taken]
    known[name] = made
