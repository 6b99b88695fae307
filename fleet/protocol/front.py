"""A model file in front of a release's model files: what is heavier than a declared step, such as a spectrogram.

    raw tensors, as applications send them → front → steps → ready tensors, which the model files take

It is signed with the release and runs on the same runtimes. It is asked row by row, whatever the request's batch: so a
row has the same bits in a batch, alone, and where the hub joins requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Literal

from msgspec import Struct

from fleet.protocol.blob import Blob
from fleet.protocol.errors import MalformedError
from fleet.protocol.steps import MAX_ROW_VALUES
from fleet.protocol.tensor_spec import Tensor
from fleet.protocol.tensors import dtype_of

KIND = "front"


class Front(Struct, frozen=True, kw_only=True):
    """The front of a release: a file for `runtime` that takes these of the release's inputs and makes `outputs`."""

    runtime: Literal["litert", "onnx"]
    blob: Blob
    inputs: tuple[str, ...]
    outputs: tuple[Tensor, ...]


def front_capability(runtime: str) -> str:
    """Return the capability that a release with such a front requires: the agent knows fronts, and has the runtime."""
    return f"{KIND}:{runtime}"


def between(front: Front | None, raw: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The tensors between front and steps: the raw ones that the front does not take, and then what it makes.

    Raises MalformedError where the front takes what is not there, makes a name twice, or does not count rows first.
    """
    if front is None:
        return tuple(raw)
    known = {tensor.name: tensor for tensor in raw}
    missing = [name for name in front.inputs if name not in known]
    if missing or not front.inputs or not front.outputs or len(set(front.inputs)) != len(front.inputs):
        what = (
            f"there is no {missing[0]!r}" if missing else "it must take and make different tensors, at least one each"
        )
        raise _bad(what, hint=f"there are {', '.join(known) or 'none'}")
    taken = [known.pop(name) for name in front.inputs]
    made = {tensor.name: tensor for tensor in front.outputs}
    if len(made) != len(front.outputs) or set(made) & set(known):
        raise _bad(f"there is a {next(iter(set(made) & set(known)), front.outputs[0].name)!r} already")
    for tensor in (*taken, *front.outputs):
        if not tensor.batched:
            raise _bad(f"{tensor.name!r} has shape {list(tensor.shape)}", hint="it must count rows first: -1")
    for tensor in front.outputs:
        if dtype_of(tensor.datatype).kind == "O" or prod(size for size in tensor.row if size != -1) > MAX_ROW_VALUES:
            raise _bad(f"it makes {tensor.name!r} {tensor.datatype} {list(tensor.shape)}", hint="numbers, not too many")
    return (*known.values(), *front.outputs)


def _bad(what: str, *, hint: str = "") -> MalformedError:
    return MalformedError(f"the front: {what}", subject=KIND, hint=hint)
