"""The child that runs variants: `python -m model_compiler.running JOB.json`; see `model_compiler.runners`."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from fleet import runtimes
from fleet.protocol.manifest import Runtime, Tensor
from fleet.protocol.tensors import DTYPES, datatype_of
from fleet.runtimes.models import ModelFile
from fleet.runtimes.tensors import FileTensor
from model_compiler.exchange import load_inputs, save_arrays
from model_compiler.runners import Latency, Profile, RunJob

ROUNDS, WARM_UP, LEAST_ROUNDS = 200, 10, 20  # interleaved rounds of a latency measurement
BUDGET_S = 20.0  # slow models get fewer rounds

Array = npt.NDArray[Any]
NAMES: dict[Runtime, str] = {"litert": "ai-edge-litert", "onnx": "onnxruntime"}


def batched(tensors: Sequence[FileTensor]) -> bool:
    """Whether the first axis of every tensor counts samples: it is one, or variable."""
    return all(tensor.shape and tensor.shape[0] in (1, -1) for tensor in tensors)


class Loaded:
    """A model file as the release will have it, and the data set that it is asked.

    The inputs are called as in the data, with its datatypes and shapes, as in the manifest. The outputs are the
    file's: real values in single precision, and likewise what a quantized file's integers stand for, unless `raw`.

    Raises ValueError where the data is not what the file takes.
    """

    def __init__(self, file: ModelFile, names: Sequence[str], arrays: Sequence[Array], *, raw: bool) -> None:
        self.batched = batched([*file.inputs, *file.outputs])
        self._arrays = dict(zip(names, arrays, strict=True))
        own = {tensor.plain_name: tensor for tensor in file.inputs}
        if len(names) != len(file.inputs):
            raise ValueError(f"the model takes {len(own)} inputs, the data has {len(names)}: {', '.join(names)}")
        for place, (name, array) in enumerate(self._arrays.items()):
            self._check(own.get(name, file.inputs[place]), name, array)
        inputs = [
            Tensor(name=name, datatype=datatype_of(array), shape=self._shape(array.shape[1:]))
            for name, array in self._arrays.items()
        ]
        self._outputs = tuple(_output(tensor, raw=raw) for tensor in file.outputs)
        # A file that names none of its inputs as the data does was converted from a source that did, in its order.
        strict = bool(own.keys() & set(names)) or file.keeps_names
        self._model = file.model(inputs, self._outputs, strict=strict)

    def _shape(self, sample: tuple[int, ...]) -> tuple[int, ...]:
        return (-1, *sample) if self.batched else sample

    def _check(self, tensor: FileTensor, name: str, array: Array) -> None:
        wanted, given = tensor.shape, array.shape[1:]
        if wanted is None:
            return
        wanted = wanted[1:] if self.batched else wanted
        if len(wanted) != len(given) or any(w not in (-1, g) for w, g in zip(wanted, given, strict=False)):
            raise ValueError(f"input {name!r} has shape {list(given)} per sample, the model takes {list(wanted)}")

    def __len__(self) -> int:
        return len(next(iter(self._arrays.values())))

    def answer(self, row: int) -> list[Array]:
        """The outputs for one sample, in the file's order, each (1, …)."""
        if not self.batched:
            found = self._model.run({name: array[row, ...] for name, array in self._arrays.items()})
            return [found[spec.name][None] for spec in self._outputs]
        found = self._model.run({name: array[row : row + 1] for name, array in self._arrays.items()})
        for name, value in found.items():
            if len(value) != 1:
                raise ValueError(f"output {name!r} has {len(value)} rows for one sample")
        return [found[spec.name] for spec in self._outputs]

    def answers(self, places: Sequence[int]) -> list[Array]:
        """These outputs for every sample, each (n, …)."""
        rows = [self.answer(row) for row in range(len(self))]
        return [np.concatenate([answer[place] for answer in rows]) for place in places]


def _output(tensor: FileTensor, *, raw: bool) -> Tensor:
    if tensor.datatype not in DTYPES:
        raise ValueError(f"output {tensor.name!r} is no tensor of numbers or text; export the model without it")
    real = tensor.dtype.kind == "f" or (tensor.dtype.kind in "iu" and tensor.scale != 0.0 and not raw)
    # What is no number is looked for where it is known whether the model means it.
    datatype = "FP32" if real else tensor.datatype
    return Tensor(name=tensor.name, datatype=datatype, shape=tensor.shape or (), finite=False)


def _measure(models: dict[str, Loaded]) -> dict[str, Latency]:
    times: dict[str, list[float]] = {name: [] for name in models}
    began = time.perf_counter()
    for round_ in range(ROUNDS + WARM_UP):
        if round_ >= WARM_UP + LEAST_ROUNDS and time.perf_counter() - began > BUDGET_S:
            break
        for name, model in models.items():
            start = time.perf_counter()
            model.answer(round_ % len(model))
            if round_ >= WARM_UP:  # the first rounds warm caches
                times[name].append((time.perf_counter() - start) * 1e6)
    return {n: Latency(p50=float(np.percentile(t, 50)), p95=float(np.percentile(t, 95))) for n, t in times.items()}


def _resident(field: str) -> int:
    """Bytes by /proc/self/status (`VmRSS` now, `VmHWM` at most); 0 where there is none."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text("ascii").splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    return 0


def _open(runtime: Runtime, model: bytes) -> ModelFile:
    return runtimes.named(NAMES[runtime]).open(model)


def _outputs(job: RunJob, names: Sequence[str], arrays: Sequence[Array]) -> None:
    ((runtime, path),) = job.models.values()
    model = Path(path).read_bytes()
    runtimes.named(NAMES[runtime])  # imported now, so that its own memory is not the model's
    with contextlib.suppress(OSError):  # without it the peak counts what the imports needed, too
        Path("/proc/self/clear_refs").write_text("5", "ascii")
    before, start = _resident("VmRSS"), time.perf_counter()
    file = _open(runtime, model)
    load_ms = (time.perf_counter() - start) * 1e3
    loaded = Loaded(file, names, arrays, raw=job.raw)
    loaded.answer(0)
    peak = max(0, _resident("VmHWM") - before)
    found = loaded.answers(range(len(file.outputs)))
    save_arrays(Path(job.result), {f"output_{place}": array for place, array in enumerate(found)})
    profile = Profile(
        inputs=file.inputs, outputs=file.outputs, batched=loaded.batched, load_ms=load_ms, peak_memory_bytes=peak
    )
    Path(job.result).with_suffix(".json").write_bytes(msgspec.json.encode(profile))


def main(job_file: Path) -> None:
    """Do one job; whatever goes wrong ends the process with its reason as the last line of stderr."""
    job = msgspec.json.decode(job_file.read_bytes(), type=RunJob)
    names, arrays = load_inputs(Path(job.inputs))
    if job.mode == "outputs":
        _outputs(job, names, arrays)
        return
    loaded = {
        name: Loaded(_open(runtime, Path(path).read_bytes()), names, arrays, raw=job.raw)
        for name, (runtime, path) in job.models.items()
    }
    if job.mode == "firsts":
        save_arrays(Path(job.result), {name: model.answers([0])[0] for name, model in loaded.items()})
        return
    Path(job.result).write_bytes(msgspec.json.encode(_measure(loaded)))


if __name__ == "__main__":
    # Runtimes raise what they like, often over many lines; the parent shows one.
    try:
        main(Path(sys.argv[1]))
    except Exception as problem:
        raise SystemExit(" ".join(str(problem).split())[:400] or type(problem).__name__) from problem
