"""Running a variant to measure it, always in a child process: a runtime's crash is a refusal, not ours.

`python -m model_compiler.runners JOB.json` is the child. It reads a `RunJob` and writes either the
outputs of one variant (`.npy`, float32 (n, classes)) or interleaved latencies (JSON).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from fleet.protocol.manifest import Runtime
from model_compiler.errors import TargetError

TIMEOUT_S = 600.0
ROUNDS = 200  # interleaved rounds of a latency measurement

Outputs = npt.NDArray[np.float32]


class RunJob(Struct, frozen=True, kw_only=True):
    """What the child does: `models` maps a variant's name to (runtime, file)."""

    mode: Literal["outputs", "latency"]
    models: dict[str, tuple[Runtime, str]]
    x: str
    result: str


class Latency(Struct, frozen=True, kw_only=True):
    """Microseconds at batch 1, one thread."""

    p50: float
    p95: float


class Runner(Protocol):
    """A loaded model: a batch of inputs in, the first output out."""

    def run(self, x: npt.NDArray[Any]) -> Outputs:
        """`x` of shape (1, …) to (1, classes), float32."""
        ...


def outputs(name: str, runtime: Runtime, model: bytes, x: npt.NDArray[Any]) -> Outputs:
    """The first output for every row of `x` (n, …), as float32 (n, classes).

    Raises:
        TargetError: the runtime refuses the file or dies of it, or what it answers is not finite (n, classes).
    """
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "outputs.npy"
        _spawn(Path(folder), "outputs", {name: (runtime, model)}, x, result)
        found: Outputs = np.load(result, allow_pickle=False)
    if found.ndim != 2:
        raise TargetError(f"{name}: the output has shape {found.shape}; (n, classes) is needed", subject=name)
    if not np.isfinite(found).all():
        rows = int((~np.isfinite(found)).any(axis=1).sum())
        raise TargetError(f"{name}: {rows} of {len(found)} outputs hold NaN or infinity", subject=name)
    return found


def latencies(models: dict[str, tuple[Runtime, bytes]], x: npt.NDArray[Any]) -> dict[str, Latency]:
    """p50 and p95 of each variant, measured in turns in one process, so that noise hits all alike."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "latency.json"
        _spawn(Path(folder), "latency", models, x[:64], result)
        return msgspec.json.decode(result.read_bytes(), type=dict[str, Latency])


def _spawn(
    folder: Path, mode: Literal["outputs", "latency"], models: dict[str, tuple[Runtime, bytes]], x: Any, result: Path
) -> None:
    files: dict[str, tuple[Runtime, str]] = {}
    for number, (name, (runtime, model)) in enumerate(models.items()):
        file = folder / f"{number}.model"
        file.write_bytes(model)
        files[name] = (runtime, str(file))
    np.save(folder / "x.npy", x, allow_pickle=False)
    job = folder / "job.json"
    job.write_bytes(msgspec.json.encode(RunJob(mode=mode, models=files, x=str(folder / "x.npy"), result=str(result))))
    who = ", ".join(models)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "model_compiler.runners", str(job)],
            capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise TargetError(f"{who}: no answer within {TIMEOUT_S:.0f} s", subject=who) from error
    if done.returncode < 0:
        raise TargetError(f"{who}: the runtime crashed with signal {-done.returncode}", subject=who)
    if done.returncode:
        raise TargetError(f"{who}: {(done.stderr.strip().splitlines() or ['no words'])[-1][:300]}", subject=who)


# ---- the child -----------------------------------------------------------------------------------


class LiteRtRunner:
    """ai-edge-litert; quantizes inputs and dequantizes outputs where the file's own are integers."""

    def __init__(self, model: bytes, sample: npt.NDArray[Any]) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(model_content=model, num_threads=1)
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]
        self._output = self._interpreter.get_output_details()[0]
        self._raw = sample.dtype == self._input["dtype"]

    def run(self, x: npt.NDArray[Any]) -> Outputs:
        """See `Runner`."""
        if not self._raw:
            x = _quantize(x, self._input)
        self._interpreter.set_tensor(self._input["index"], x)
        self._interpreter.invoke()
        return _dequantize(self._interpreter.get_tensor(self._output["index"]), self._output)


class OnnxRunner:
    """onnxruntime, one thread, from bytes only."""

    def __init__(self, model: bytes, sample: npt.NDArray[Any]) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._name = self._session.get_inputs()[0].name

    def run(self, x: npt.NDArray[Any]) -> Outputs:
        """See `Runner`."""
        return np.asarray(self._session.run(None, {self._name: x})[0], dtype=np.float32)


def _quantize(x: npt.NDArray[Any], detail: dict[str, Any]) -> npt.NDArray[Any]:
    scale, zero = detail["quantization"]
    info = np.iinfo(detail["dtype"])
    quantized: npt.NDArray[Any] = np.clip(np.round(x / scale) + zero, info.min, info.max).astype(detail["dtype"])
    return quantized


def _dequantize(y: npt.NDArray[Any], detail: dict[str, Any]) -> Outputs:
    scale, zero = detail["quantization"]
    if not np.issubdtype(y.dtype, np.integer) or not scale:
        return np.asarray(y, dtype=np.float32)
    return np.asarray((y.astype(np.float32) - zero) * scale, dtype=np.float32)


def _measure(runners: dict[str, Runner], x: npt.NDArray[Any]) -> dict[str, Latency]:
    times: dict[str, list[float]] = {name: [] for name in runners}
    for round_ in range(ROUNDS + 10):
        row = x[round_ % len(x)][None]
        for name, runner in runners.items():
            start = time.perf_counter()
            runner.run(row)
            if round_ >= 10:  # the first rounds warm caches
                times[name].append((time.perf_counter() - start) * 1e6)
    return {n: Latency(p50=float(np.percentile(t, 50)), p95=float(np.percentile(t, 95))) for n, t in times.items()}


def _child(job_file: Path) -> None:
    job = msgspec.json.decode(job_file.read_bytes(), type=RunJob)
    x = np.load(job.x, allow_pickle=False)
    kinds: dict[Runtime, type[LiteRtRunner] | type[OnnxRunner]] = {"litert": LiteRtRunner, "onnx": OnnxRunner}
    runners: dict[str, Runner] = {n: kinds[r](Path(f).read_bytes(), x) for n, (r, f) in job.models.items()}
    if job.mode == "latency":
        Path(job.result).write_bytes(msgspec.json.encode(_measure(runners, x)))
        return
    (runner,) = runners.values()
    np.save(job.result, np.concatenate([runner.run(row[None]) for row in x]), allow_pickle=False)


if __name__ == "__main__":
    _child(Path(sys.argv[1]))
