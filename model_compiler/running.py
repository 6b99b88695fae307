"""The child that runs variants: `python -m model_compiler.running JOB.json`; see `model_compiler.runners`."""

from __future__ import annotations

import contextlib
import importlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from fleet.protocol.manifest import Runtime
from model_compiler.runners import Latency, Port, Profile, RunJob

ROUNDS, WARM_UP, LEAST_ROUNDS = 200, 10, 20  # interleaved rounds of a latency measurement
BUDGET_S = 20.0  # slow models get fewer rounds

Array = npt.NDArray[Any]
_ONNX_DTYPES = {"float": "float32", "double": "float64"}


class Runner(Protocol):
    """A loaded model."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    def run(self, values: Sequence[Array]) -> list[Array]:
        """One call, arrays in the order of `inputs` and with their shapes; answers in the order of `outputs`."""
        ...

    def feed(self, array: Array, place: int) -> Array:
        """A whole input (n, …) as the file wants it."""
        ...


class LiteRtRunner:
    """ai-edge-litert; quantizes inputs and dequantizes outputs where the file's own are integers."""

    def __init__(self, model: bytes, *, raw: bool) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(model_content=model, num_threads=1)
        self._interpreter.allocate_tensors()
        self._wanted = self._interpreter.get_input_details()
        self._given = self._interpreter.get_output_details()
        self._raw = raw
        self.inputs = tuple(_tensor(detail) for detail in self._wanted)
        self.outputs = tuple(_tensor(detail) for detail in self._given)

    def feed(self, array: Array, place: int) -> Array:
        """See `Runner`."""
        detail = self._wanted[place]
        scale, zero = detail["quantization"]
        if array.dtype == detail["dtype"] or not scale:
            return _cast(array, np.dtype(detail["dtype"]), self.inputs[place].name)
        limits = np.iinfo(detail["dtype"])
        quantized: Array = np.clip(np.round(array / scale) + zero, limits.min, limits.max).astype(detail["dtype"])
        return quantized

    def run(self, values: Sequence[Array]) -> list[Array]:
        """See `Runner`."""
        for detail, value in zip(self._wanted, values, strict=True):
            self._interpreter.set_tensor(detail["index"], value)
        self._interpreter.invoke()
        return [self._read(detail) for detail in self._given]

    def _read(self, detail: dict[str, Any]) -> Array:
        values: Array = self._interpreter.get_tensor(detail["index"])
        scale, zero = detail["quantization"]
        if self._raw or not np.issubdtype(values.dtype, np.integer) or not scale:
            return values if values.dtype.kind in "iub" else values.astype(np.float32)
        real: Array = ((values.astype(np.float32) - zero) * scale).astype(np.float32)
        return real


class OnnxRunner:
    """onnxruntime, one thread, from bytes only."""

    def __init__(self, model: bytes, *, raw: bool) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.inputs = tuple(_value(value) for value in self._session.get_inputs())
        self.outputs = tuple(_value(value) for value in self._session.get_outputs())

    def feed(self, array: Array, place: int) -> Array:
        """See `Runner`."""
        return _cast(array, np.dtype(self.inputs[place].dtype), self.inputs[place].name)

    def run(self, values: Sequence[Array]) -> list[Array]:
        """See `Runner`."""
        feed = {port.name: value for port, value in zip(self.inputs, values, strict=True)}
        found = [np.asarray(value) for value in self._session.run(None, feed)]
        return [value if value.dtype.kind in "iub" else value.astype(np.float32) for value in found]


def _tensor(detail: dict[str, Any]) -> Port:
    signature = detail.get("shape_signature", ())
    shape = signature if len(signature) else detail["shape"]
    return Port(
        name=str(detail["name"]), dtype=np.dtype(detail["dtype"]).name, shape=tuple(int(size) for size in shape)
    )


def _value(value: Any) -> Port:
    kind = str(value.type).removeprefix("tensor(").removesuffix(")")
    shape = tuple(size if isinstance(size, int) else -1 for size in value.shape)
    return Port(name=value.name, dtype=_ONNX_DTYPES.get(kind, kind), shape=shape)


def _cast(array: Array, dtype: Any, name: str) -> Array:
    if array.dtype == dtype:
        return array
    cast = array.astype(dtype)
    if dtype.kind in "iu" and not (cast == array).all():
        raise ValueError(f"input {name!r} takes {dtype}; the data's {array.dtype} values do not fit into it")
    return cast


def batched(ports: Sequence[Port]) -> bool:
    """Whether the first axis of every tensor counts samples: it is one, or variable."""
    return all(port.shape and port.shape[0] in (1, -1) for port in ports)


def paired(names: Sequence[str], ports: Sequence[Port]) -> list[int]:
    """For each port the place of the data's input that goes there: by name where all agree, else by order.

    Raises ValueError when the counts differ.
    """
    if len(names) != len(ports):
        raise ValueError(f"the model takes {len(ports)} inputs, the data has {len(names)}: {', '.join(names)}")
    theirs = [port.name.removeprefix("serving_default_").removesuffix(":0") for port in ports]
    return [names.index(name) for name in theirs] if set(theirs) == set(names) else list(range(len(names)))


class Loaded:
    """A runner and the data set as it wants it."""

    def __init__(self, runner: Runner, names: Sequence[str], arrays: Sequence[Array]) -> None:
        self.runner = runner
        self.batched = batched([*runner.inputs, *runner.outputs])
        order = paired(names, runner.inputs)
        for port, place in zip(runner.inputs, order, strict=True):
            self._check(port, names[place], arrays[place])
        self._arrays = [runner.feed(arrays[place], at) for at, place in enumerate(order)]

    def _check(self, port: Port, name: str, array: Array) -> None:
        wanted = port.shape[1:] if self.batched else port.shape
        given = array.shape[1:]
        if len(wanted) != len(given) or any(w not in (-1, g) for w, g in zip(wanted, given, strict=False)):
            raise ValueError(f"input {name!r} has shape {list(given)} per sample, the model takes {list(wanted)}")

    def __len__(self) -> int:
        return len(self._arrays[0])

    def answer(self, row: int) -> list[Array]:
        """The outputs for one sample, each without the axis that counts samples."""
        if self.batched:
            return [value[0] for value in self.runner.run([array[row : row + 1] for array in self._arrays])]
        return self.runner.run([np.ascontiguousarray(array[row]) for array in self._arrays])


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


def _import_runtime(runtime: Runtime) -> None:
    importlib.import_module("ai_edge_litert.interpreter" if runtime == "litert" else "onnxruntime")


def _outputs(job: RunJob, names: Sequence[str], arrays: Sequence[Array]) -> None:
    ((runtime, file),) = job.models.values()
    model = Path(file).read_bytes()
    _import_runtime(runtime)
    with contextlib.suppress(OSError):  # without it the peak counts what the imports needed, too
        Path("/proc/self/clear_refs").write_text("5", "ascii")
    before, start = _resident("VmRSS"), time.perf_counter()
    runner: Runner = KINDS[runtime](model, raw=job.raw)
    load_ms = (time.perf_counter() - start) * 1e3
    Loaded(runner, names, [array[:1] for array in arrays]).answer(0)  # the whole set would count as the model's memory
    peak = max(0, _resident("VmHWM") - before)
    loaded = Loaded(runner, names, arrays)
    answers = [loaded.answer(row) for row in range(len(loaded))]
    stacked = {f"output_{place}": np.stack([a[place] for a in answers]) for place in range(len(runner.outputs))}
    np.savez(job.result, **stacked)  # type: ignore[arg-type]
    profile = Profile(
        inputs=runner.inputs, outputs=runner.outputs, batched=loaded.batched, load_ms=load_ms, peak_memory_bytes=peak
    )
    Path(job.result).with_suffix(".json").write_bytes(msgspec.json.encode(profile))


def _firsts(job: RunJob, names: Sequence[str], arrays: Sequence[Array]) -> None:
    found = {}
    for name, (runtime, file) in job.models.items():
        loaded = Loaded(KINDS[runtime](Path(file).read_bytes(), raw=job.raw), names, arrays)
        found[name] = np.stack([loaded.answer(row)[0] for row in range(len(loaded))])
    np.savez(job.result, **found)  # type: ignore[arg-type]


def main(job_file: Path) -> None:
    """Do one job; whatever goes wrong ends the process with its reason as the last line of stderr."""
    job = msgspec.json.decode(job_file.read_bytes(), type=RunJob)
    files = sorted(Path(job.inputs).glob("*.npy"), key=lambda path: int(path.stem))
    names = [path.with_suffix(".name").read_text("utf-8") for path in files]
    arrays = [np.load(path, allow_pickle=False) for path in files]
    if job.mode == "outputs":
        _outputs(job, names, arrays)
        return
    if job.mode == "firsts":
        _firsts(job, names, arrays)
        return
    loaded = {
        name: Loaded(KINDS[runtime](Path(file).read_bytes(), raw=job.raw), names, arrays)
        for name, (runtime, file) in job.models.items()
    }
    Path(job.result).write_bytes(msgspec.json.encode(_measure(loaded)))


KINDS: dict[Runtime, Any] = {"litert": LiteRtRunner, "onnx": OnnxRunner}

if __name__ == "__main__":
    # Runtimes raise what they like, often over many lines; the parent shows one.
    try:
        main(Path(sys.argv[1]))
    except Exception as problem:
        raise SystemExit(" ".join(str(problem).split())[:400] or type(problem).__name__) from problem
