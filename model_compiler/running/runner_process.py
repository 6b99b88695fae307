"""The child that runs variants: `python -m model_compiler.running.runner_process JOB.json`; see `runner`."""

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
from fleet.runtimes.models import ModelFile, stacked
from fleet.runtimes.tensors import FileTensor, real_of
from model_compiler.inputs import ports
from model_compiler.inputs.preprocessing import NO_STEPS, Preparation
from model_compiler.running.exchange import load_inputs, save_arrays
from model_compiler.running.runner import RunJob, RunLatency, VariantProfile, Wanted

ROUNDS, WARM_UP, LEAST_ROUNDS = 200, 10, 20  # interleaved rounds of a latency measurement
BUDGET_S = 20.0  # slow models get fewer rounds
BOXES = 2  # axes of the boxes of one image

Array = npt.NDArray[Any]
NAMES: dict[Runtime, str] = {"litert": "ai-edge-litert", "onnx": "onnxruntime"}


class Loaded:
    """A model file as the release will have it, and the data set that it is asked.

    The inputs are called as in the data, with its datatypes, as in the manifest; the outputs are the file's. An array
    with as many axes as the file's tensor holds a sample in each row, and the file gets rows of it; one with an axis
    more holds a whole tensor in each. `batched`: rows go in, and rows come out. See `runner.VariantProfile`.

    With a `preparation` the data is what applications send, and the file is asked through it, row by row.

    Raises ValueError, and DataError, where the data is not what the file or the steps take.
    """

    def __init__(
        self,
        file: ModelFile,
        names: Sequence[str],
        arrays: Sequence[Array],
        wanted: Wanted,
        preparation: Preparation = NO_STEPS,
    ) -> None:
        self._arrays, self._meant = dict(zip(names, arrays, strict=True)), wanted.real
        self._before = preparation.opened(self._arrays)
        ready = self._real(self._arrays if self._before is None else self._before.run(self._row(0)))
        names, arrays = tuple(ready), tuple(ready.values())
        if len(names) != len(file.inputs):
            raise ValueError(
                f"the model takes {len(file.inputs)} inputs, the data has {len(names)}: {', '.join(names)}"
            )
        self.inputs = tuple(ports.takers(names, file.inputs).values())
        self.outputs = _chosen(file.outputs, wanted.outputs)
        self.places = {name: file.inputs.index(tensor) for name, tensor in zip(names, self.inputs, strict=True)}
        self.output_places = tuple(file.outputs.index(tensor) for tensor in self.outputs)
        pairs = list(zip(names, self.inputs, arrays, strict=True))
        self.sliced = tuple(name for name, tensor, array in pairs if _is_sliced(name, tensor, array))
        self.added = wanted.filled and _is_without_rows(self.outputs)
        self.batched = bool(self.sliced) and (self.added or all(map(_counts_rows, self.outputs)))
        inputs = [
            Tensor(name=name, datatype=datatype_of(array), shape=self._shape(name, tensor, array))
            for name, tensor, array in pairs
        ]
        self._filled = wanted.filled
        rows = () if not self.added else (-1,) if self.batched else (1,)
        self._outputs = tuple(_output(tensor, wanted, rows) for tensor in self.outputs)
        # A file that names none of its inputs as the data does was converted from a source that did, in its order.
        strict = bool(ports.own_names(names, file.inputs).keys() & set(names)) or file.keeps_names
        self._model = file.model(inputs, self._outputs, strict=strict)
        if self._before is not None:
            if not self.batched or set(self.sliced) != set(names):
                raise ValueError("preprocessing steps need a model whose inputs and outputs all count rows first")
            self.sliced = tuple(self._arrays)

    def _shape(self, name: str, tensor: FileTensor, array: Array) -> tuple[int, ...]:
        sample = array.shape[1:] if name not in self.sliced else (1, *array.shape[1:])
        shape = sample if tensor.shape is None else tensor.shape
        return (-1, *shape[1:]) if self.batched and name in self.sliced else shape

    def __len__(self) -> int:
        return len(next(iter(self._arrays.values())))

    def answer(self, row: int) -> list[Array]:
        """Return the outputs for one sample, in the file's order, each (1, …).

        Raises:
            ValueError: an output has another number of rows.
        """
        found = self._model.run(self._asked(row))
        if not self.batched:
            return [found[spec.name][None] for spec in self._outputs]
        for name, value in found.items():
            if value.ndim == 0 or len(value) != 1:
                rows = "no" if value.ndim == 0 else str(len(value))
                raise ValueError(f"output {name!r} has {rows} rows for one sample")
        return [found[spec.name] for spec in self._outputs]

    def _asked(self, row: int) -> dict[str, Array]:
        if self._before is not None:
            return self._real(self._before.run(self._row(row)))
        sliced = self.sliced
        return self._real({n: a[row : row + 1] if n in sliced else a[row, ...] for n, a in self._arrays.items()})

    def _real(self, ready: dict[str, Array]) -> dict[str, Array]:
        return ready | {name: real_of(ready[name], *meant) for name, meant in self._meant.items()}

    def _row(self, row: int) -> dict[str, Array]:
        return {name: array[row : row + 1] for name, array in self._arrays.items()}

    def answers(self, places: Sequence[int]) -> list[tuple[Array, Array]]:
        """These outputs for every sample, each (n, …), with the sizes that they had; see `_joined`."""
        rows = [self.answer(row) for row in range(len(self))]
        return [
            _joined(self.outputs[place].plain_name, [answer[place] for answer in rows], filled=self._filled)
            for place in places
        ]


def _joined(output: str, rows: Sequence[Array], *, filled: bool) -> tuple[Array, Array]:
    """The answers to all samples, each (1, …), as one array, and where they had to be filled up their sizes (n, axes).

    Raises ValueError where they differ in size, and are not to be filled up.
    """
    sizes = sorted({row.shape[1:] for row in rows})
    if len(sizes) == 1:
        return np.concatenate(rows), np.empty((0, 0), np.int64)
    if not filled:
        least, most = (list(size) for size in (sizes[0], sizes[-1]))
        raise ValueError(
            f"output {output!r} has another size for each sample ({least} to {most}), which only a detection's boxes "
            "may have (import it with --task detection:…): let the model fill up to the largest"
        )
    return stacked(rows), np.array([row.shape[1:] for row in rows], np.int64)


def _is_without_rows(outputs: Sequence[FileTensor]) -> bool:
    """Tell whether a detector's outputs are of one image: boxes (k, 4), and as many as it finds."""
    shapes = [tensor.shape for tensor in outputs]
    known = [shape for shape in shapes if shape is not None]
    return len(known) == len(shapes) and any(-1 in shape for shape in known) and max(map(len, known)) == BOXES


def _counts_rows(tensor: FileTensor) -> bool:
    """Return whether the first axis of a tensor can count samples: it is one, or variable, or nobody knows."""
    return tensor.shape is None or (bool(tensor.shape) and tensor.shape[0] in (1, -1))


def _is_sliced(name: str, tensor: FileTensor, array: Array) -> bool:
    """Return whether the file takes rows of an array (n, …); false where it takes one of its elements as a whole."""
    shape, given = tensor.shape, array.shape[1:]
    if shape is None or (_counts_rows(tensor) and _fits(given, shape[1:])):
        return True
    if _fits(given, shape):
        return False
    wanted = shape[1:] if _counts_rows(tensor) else shape
    raise ValueError(f"input {name!r} has shape {list(given)} per sample, the model takes {list(wanted)}")


def _fits(given: Sequence[int], wanted: Sequence[int]) -> bool:
    return len(given) == len(wanted) and all(w in (-1, g) for w, g in zip(wanted, given, strict=True))


def _chosen(found: Sequence[FileTensor], names: Sequence[str]) -> tuple[FileTensor, ...]:
    """The outputs of these names, in that order; all where none are named, or the file has others."""
    by_name = {tensor.plain_name: tensor for tensor in found} | {tensor.name: tensor for tensor in found}
    return tuple(by_name[name] for name in names if name in by_name) or tuple(found)


def _output(tensor: FileTensor, wanted: Wanted, rows: tuple[int, ...]) -> Tensor:
    if tensor.datatype not in DTYPES:
        raise ValueError(f"output {tensor.name!r} is no tensor of numbers or text; export the model without it")
    real = tensor.dtype.kind == "f" and not wanted.precise
    real = real or (tensor.dtype.kind in "iu" and tensor.scale != 0.0 and not wanted.raw)
    # NaN and infinity are looked for later, where it is known whether the model means them.
    datatype = "FP32" if real else tensor.datatype
    return Tensor(name=tensor.name, datatype=datatype, shape=(*rows, *(tensor.shape or ())), finite=False)


def _measure(models: dict[str, Loaded]) -> dict[str, RunLatency]:
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
    return {n: RunLatency(p50=float(np.percentile(t, 50)), p95=float(np.percentile(t, 95))) for n, t in times.items()}


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
    ((runtime, path, wanted),) = job.models.values()
    model = Path(path).read_bytes()
    runtimes.named(NAMES[runtime])  # imported now, so that its own memory is not the model's
    with contextlib.suppress(OSError):  # without it the peak counts what the imports needed, too
        Path("/proc/self/clear_refs").write_text("5", "ascii")
    before, start = _resident("VmRSS"), time.perf_counter()
    file = _open(runtime, model)
    load_ms = (time.perf_counter() - start) * 1e3
    loaded = Loaded(file, names, arrays, wanted, job.preparation)
    loaded.answer(0)
    peak = max(0, _resident("VmHWM") - before)
    found = loaded.answers(range(len(loaded.outputs)))
    answers = {f"output_{place}": array for place, (array, _) in enumerate(found)}
    save_arrays(Path(job.result), answers | {f"sizes_{place}": sizes for place, (_, sizes) in enumerate(found)})
    profile = VariantProfile(
        inputs=loaded.inputs,
        outputs=loaded.outputs,
        batched=loaded.batched,
        sliced=loaded.sliced,
        places=loaded.places,
        output_places=loaded.output_places,
        added=loaded.added,
        load_ms=load_ms,
        peak_memory_bytes=peak,
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
        name: Loaded(_open(runtime, Path(path).read_bytes()), names, arrays, wanted, job.preparation)
        for name, (runtime, path, wanted) in job.models.items()
    }
    if job.mode == "firsts":
        save_arrays(Path(job.result), {name: model.answers([0])[0][0] for name, model in loaded.items()})
        return
    Path(job.result).write_bytes(msgspec.json.encode(_measure(loaded)))


if __name__ == "__main__":
    # Runtimes raise what they like, often over many lines; the parent shows one.
    try:
        main(Path(sys.argv[1]))
    except Exception as problem:
        raise SystemExit(" ".join(str(problem).split())[:400] or type(problem).__name__) from problem
