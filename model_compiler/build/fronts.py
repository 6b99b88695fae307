"""A front: read from its file, tried on data, and run over data sets, always in a child process."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from fleet.protocol.tensor_spec import Tensor
from fleet.protocol.tensors import datatype_of
from model_compiler.errors import DataError, SourceError, TargetError
from model_compiler.inputs import naming, ports, sources
from model_compiler.inputs.dataset import Dataset
from model_compiler.inputs.preprocessing import FrontFile, Preparation
from model_compiler.running import runner

if TYPE_CHECKING:
    import torch

WHO = "the front"
_FILE = re.compile(r"(?P<file>.*?\.(?:onnx|tflite))(?::(?P<names>.*))?", re.DOTALL)  # names may hold ":" and "/"


def read(text: str) -> FrontFile:
    """A front from an `.onnx` or `.tflite` file, `FILE[:INPUTS[=OUTPUTS]]`.

    LiteRT's converters number inputs and outputs: the names behind the colon, in the file's order and with commas
    between them, say what they are in the release. Without them they are the file's own.

    Raises SourceError for anything else, a damaged file, or another number of inputs.
    """
    found = _FILE.fullmatch(text)
    file, names = (Path(found["file"]), found["names"] or "") if found is not None else (Path(text), "")
    inputs, outputs = (tuple(filter(None, part.split(","))) for part in (*names.split("=", 1), "")[:2])
    if file.suffix == ".onnx":
        front = FrontFile(runtime="onnx", data=sources.load_onnx(file), inputs=inputs, names=outputs)
    else:
        front = FrontFile(runtime="litert", data=_litert(file), inputs=inputs, names=outputs)
    own = tuple(tensor.plain_name for tensor in ports.read(front.runtime, front.data).inputs)
    if inputs and len(inputs) != len(own):
        raise SourceError(f"{file}: the front takes {', '.join(own)}; these names were given: {names}", subject=text)
    return msgspec.structs.replace(front, inputs=inputs or own)


def written(front: FrontFile, file: str) -> str:
    """Write the text by which `read` takes a front that lies in `file`."""
    return f"{file}:{','.join(front.inputs)}={','.join(tensor.name for tensor in front.outputs)}"


def _litert(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}", subject=str(path)) from error
    if path.suffix != ".tflite" or data[4:8] != b"TFL3":
        raise SourceError(f"{path}: a front is an .onnx or a .tflite file", subject=str(path))
    return data


def of_module(module: torch.nn.Module, data: Dataset) -> FrontFile:
    """A front of a torch module, as ONNX: it takes the inputs that its `forward` names, or all of them.

    Raises DataError, SourceError, TargetError where it does not run on `data`, or cannot be exported.
    """
    from model_compiler.build import onnx
    from model_compiler.build.adapting import adapt

    known = naming.parameters(module)
    taken = {name: array for name, array in data.inputs.items() if name in known} or dict(data.inputs)
    adapted = adapt(module.eval(), Dataset(taken), classes=False)
    inputs, outputs = tuple(adapted.data.inputs), tuple(adapted.outputs)
    examples = tuple(map(sources.example_of, adapted.data.inputs.values()))
    # A front may call what it makes as what it takes, which then takes its place; a graph may not.
    same = [name for name in outputs if name in inputs]
    if same and len(inputs) > 1:  # these are told apart by name wherever the file runs
        raise SourceError(
            f"{WHO} takes {', '.join(inputs)} and calls what it makes {same[0]}, too",
            subject=WHO,
            hint="give what it makes names of its own",
        )
    own = tuple(f"{name}_made" if name in inputs else name for name in outputs)
    made = onnx.export(adapted.module, examples, inputs=inputs, outputs=own)
    return FrontFile(runtime="onnx", data=made, inputs=inputs, names=outputs)


def called(front: FrontFile, raw: tuple[str, ...]) -> FrontFile:
    """The front with the raw inputs that it takes: of its own names, or the only one whatever its file calls it.

    Raises DataError where there is no such input.
    """
    if len(raw) == len(front.inputs) == 1:
        return msgspec.structs.replace(front, inputs=raw)
    missing = [name for name in front.inputs if name not in raw]
    if missing:
        raise DataError(
            f"the front takes {', '.join(front.inputs)}; the data has {', '.join(raw)}",
            subject=WHO,
            hint="say which they are: --front FILE:INPUT,… in the file's order",
        )
    return front


def tried(front: FrontFile, data: Dataset) -> FrontFile:
    """The front with what it makes, seen on the first row of raw data.

    Raises DataError where it does not run on it, or does not count rows first.
    """
    made = _run(front, data.take(slice(1)))
    if not made.profile.batched or set(made.profile.sliced) != set(front.inputs):
        raise DataError("the front does not count rows first in all inputs and outputs", subject=WHO)
    own = tuple(tensor.plain_name for tensor in made.profile.outputs)
    if front.names and len(front.names) != len(own):
        raise DataError(f"the front makes {', '.join(own)}; names were given for {len(front.names)}", subject=WHO)
    outputs = []
    for name, tensor, array in zip(front.names or own, made.profile.outputs, made.outputs, strict=True):
        known = tensor.shape if tensor.shape is not None and len(tensor.shape) == array.ndim else array.shape
        row = tuple(-1 if own == -1 else size for own, size in zip(known[1:], array.shape[1:], strict=True))
        outputs.append(Tensor(name=name, datatype=datatype_of(array), shape=(-1, *row)))
    return msgspec.structs.replace(front, outputs=tuple(outputs))


def ready(preparation: Preparation, data: Dataset) -> Dataset:
    """Apply front and steps to a data set, in which its raw inputs have names.

    Raises DataError where they cannot work on it.
    """
    pipeline, front = preparation.pipeline(data.inputs), preparation.front
    if pipeline is None:
        return data
    if front is not None:
        made = _run(front, data)
        outputs = zip(front.outputs, made.outputs, strict=True)
        others = {name: array for name, array in data.inputs.items() if name not in front.inputs}
        data = Dataset(others | {tensor.name: array for tensor, array in outputs}, data.y)
    return preparation.stepped(data, pipeline)


def _run(front: FrontFile, data: Dataset) -> runner.Run:
    taken = Dataset({name: data.inputs[name] for name in front.inputs})
    try:
        return runner.run(WHO, front.runtime, front.data, taken)
    except TargetError as error:
        raise DataError(str(error), subject=WHO, hint=error.hint) from error
