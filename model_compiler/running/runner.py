"""Running a variant to measure it, always in a child process: a runtime's crash is a refusal, not ours.

`run` answers a whole data set; `latencies` times several variants in turns. The child is
`runner_process`, which alone loads runtimes.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from fleet.protocol.finite import is_finite
from fleet.protocol.manifest import Runtime
from fleet.runtimes.tensors import FileTensor
from model_compiler.errors import NotFiniteError, TargetError
from model_compiler.inputs.dataset import Dataset
from model_compiler.inputs.preprocessing import NO_STEPS, Preparation
from model_compiler.running.exchange import load_arrays, save_inputs

TIMEOUT_S = 600.0
CHILD = (sys.executable, "-m", "model_compiler.running.runner_process")
LATENCY_ROWS = 64

Array = npt.NDArray[Any]
Models = dict[str, tuple[Runtime, bytes]]


class Wanted(Struct, frozen=True, kw_only=True):
    """The wanted answers of a file: `outputs` by the file's names, empty for all; `raw` keeps a quantized file's
    integers, `precise` half and double precision, which else become single.

    `filled`: answers that differ in size from sample to sample are filled up with zeros, and those without a batch axis
    get one; else they are refused.

    `real` says of inputs, by their names in the data or in what the steps make of it, whose integers stand for real
    values that this file takes: (scale, zero point)."""

    outputs: tuple[str, ...] = ()
    raw: bool = False
    precise: bool = False
    filled: bool = False
    real: dict[str, tuple[float, int]] = {}


ALL = Wanted()
Full = dict[str, tuple[Runtime, bytes, Wanted]]


class RunJob(Struct, frozen=True, kw_only=True):
    """The work of the child: `models` maps a variant's name to (runtime, file, what of its answers).

    `inputs` are what applications send, and go through the `preparation`'s steps.
    """

    mode: Literal["outputs", "firsts", "latency"]
    models: dict[str, tuple[Runtime, str, Wanted]]
    inputs: str
    result: str
    preparation: Preparation = Preparation()


class VariantProfile(Struct, frozen=True, kw_only=True):
    """The answers and figures that the child saw of one variant.

    `inputs` are the file's tensors in the data's order, `outputs` those that were wanted. `batched`: the first axis of
    every output, and of the inputs `sliced`, counts samples; any other input is whole, one sample's. In a model that is
    not batched a sample of an input in `sliced` keeps a first axis of one. `places` say by the data's names which of
    the file's inputs each is, `output_places` which of its outputs. `added`: its
    outputs have no batch axis of their own. `load_ms` is the time until the model could run;
    `peak_memory_bytes` what loading and running it added to the process at most.
    """

    inputs: tuple[FileTensor, ...]
    outputs: tuple[FileTensor, ...]
    batched: bool
    sliced: tuple[str, ...]
    places: dict[str, int]
    output_places: tuple[int, ...]
    added: bool = False
    load_ms: float
    peak_memory_bytes: int


class RunLatency(Struct, frozen=True, kw_only=True):
    """Microseconds at batch 1, one thread."""

    p50: float
    p95: float


@dataclass(frozen=True)
class Run:
    """`outputs[k]` has shape (n, …) for the file's k-th output. Of one that was filled up, `sizes[k]` (n, axes - 1) has
    what each sample's answer was before; of others it is empty."""

    outputs: tuple[Array, ...]
    profile: VariantProfile
    sizes: tuple[Array, ...] = ()


def run(
    name: str,
    runtime: Runtime,
    model: bytes,
    data: Dataset,
    *,
    wanted: Wanted = ALL,
    finite: bool = True,
    preparation: Preparation = NO_STEPS,
) -> Run:
    """The wanted outputs for every sample; real values are float32 where nothing else is wanted.

    Args:
        name: the variant's, for messages.
        runtime: what runs it.
        model: the file's bytes.
        data: inputs by name, each (n, …).
        wanted: what of the answers is wanted.
        finite: whether NaN and infinity are refused; else the answers are taken as they are.
        preparation: the front and steps between the data and the file.

    Raises:
        TargetError: the runtime refuses the file or dies of it, the data does not fit, or an answer is not finite.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "outputs.npz"
        _spawn(Path(folder), "outputs", {name: (runtime, model, wanted)}, data, result, preparation)
        profile = msgspec.json.decode(result.with_suffix(".json").read_bytes(), type=VariantProfile)
        arrays = load_arrays(result)
    outputs = tuple(arrays[f"output_{place}"] for place in range(len(profile.outputs)))
    if finite:
        for tensor, values in zip(profile.outputs, outputs, strict=True):
            check_finite(name, tensor.name, values)
    return Run(outputs, profile, tuple(arrays[f"sizes_{place}"] for place in range(len(outputs))))


def check_finite(name: str, output: str, values: Array) -> None:
    """Raise NotFiniteError when an output (n, …) of the variant `name` holds NaN or infinity."""
    if values.dtype.kind != "f" or is_finite(values):
        return
    broken = int((~np.isfinite(values.reshape(len(values), -1))).any(axis=1).sum())
    raise NotFiniteError(
        f"{name}: {broken} of {len(values)} outputs hold NaN or infinity in {output!r}",
        subject=name,
        hint=f"a model that means them: --non-finite {output}",
    )


def run_many(runtime: Runtime, models: dict[str, bytes], data: Dataset) -> dict[str, Array]:
    """Run several files in one child, and return the first output of each, (n, …); a file that fails is left out."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            result = Path(folder) / "firsts.npz"
            _spawn(
                Path(folder), "firsts", {name: (runtime, model, ALL) for name, model in models.items()}, data, result
            )
            return load_arrays(result)
    except TargetError:
        if len(models) == 1:
            return {}
    # One of them ended the child: each alone then.
    return {name: found for one in models.items() for name, found in run_many(runtime, dict([one]), data).items()}


def latencies(
    models: Models,
    data: Dataset,
    wanted: Mapping[str, Wanted] | None = None,
    preparation: Preparation = NO_STEPS,
) -> dict[str, RunLatency]:
    """Measure p50 and p95 of each variant, in turns in one process, so that noise hits all alike.

    Args:
        models: runtime and file by variant.
        data: the rows that are asked; only the first ones are.
        wanted: by variant, the outputs that are asked for; None for all.
        preparation: the steps before the models.
    """
    full = {name: (runtime, model, (wanted or {}).get(name, ALL)) for name, (runtime, model) in models.items()}
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "latency.json"
        _spawn(Path(folder), "latency", full, data.take(slice(LATENCY_ROWS)), result, preparation)
        return msgspec.json.decode(result.read_bytes(), type=dict[str, RunLatency])


def _spawn(
    folder: Path,
    mode: Literal["outputs", "firsts", "latency"],
    models: Full,
    data: Dataset,
    result: Path,
    preparation: Preparation = NO_STEPS,
) -> None:
    files: dict[str, tuple[Runtime, str, Wanted]] = {}
    for number, (name, (runtime, model, wanted)) in enumerate(models.items()):
        file = folder / f"{number}.model"
        file.write_bytes(model)
        files[name] = (runtime, str(file), wanted)
    inputs = folder / "inputs"
    inputs.mkdir()
    save_inputs(inputs, data.inputs)
    job = folder / "job.json"
    asked = RunJob(mode=mode, models=files, inputs=str(inputs), result=str(result), preparation=preparation)
    job.write_bytes(msgspec.json.encode(asked))
    who = ", ".join(models)
    try:
        done = subprocess.run([*CHILD, str(job)], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise TargetError(f"{who}: no answer within {TIMEOUT_S:.0f} s", subject=who) from error
    if done.returncode < 0:
        raise TargetError(f"{who}: the runtime crashed with signal {-done.returncode}", subject=who)
    if done.returncode:
        raise TargetError(f"{who}: {(done.stderr.strip().splitlines() or ['no words'])[-1][:300]}", subject=who)
