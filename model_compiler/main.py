"""The `model-compiler` command: compile, import, inspect, delta."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from fleet.console import flush, write_any_letter
from fleet.console.exits import SHORT, Exit, of_os_error
from fleet.console.typed import run_app, with_version
from fleet.protocol.errors import ProtocolError
from model_compiler import options as o
from model_compiler.errors import CompilerError
from model_compiler.option_values import defer_of, features_of, gate_of, lineage_of, metric_of, task_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fleet.protocol.steps import AnyStep
    from model_compiler.inputs.existing_model import Kept
    from model_compiler.inputs.request import CompileRequest
    from model_compiler.report.document import CompileReport

HELP = f"A trained model in; measured, gated, quantized variants out.\n\n{SHORT}"
app = typer.Typer(no_args_is_help=True, help=HELP)


@app.command("compile")
def compile_(
    source: o.Source,
    calibration: o.Calibration,
    validation: o.Validation,
    out: o.Out,
    target: o.Targets = None,
    weights: o.Weights = None,
    cloud: o.Cloud = None,
    labels: o.Labels = "",
    features: o.Features = None,
    watch: o.Watch = "",
    input_: o.Inputs = None,
    output: o.Outputs = None,
    extends: o.Extends = None,
    model: o.OfHub = "",
    metric: o.MetricName = "",
    task: o.TaskName = "",
    non_finite: o.NonFinite = None,
    preprocess: o.Preprocess = None,
    front: o.FrontModel = "",
    channels_last: o.ChannelsLast = False,
    max_drop: o.MaxDrop = None,
    min_metric: o.MinMetric = None,
    min_agreement: o.MinAgreement = None,
    max_class_drop: o.MaxClassDrop = None,
    max_latency_ratio: o.MaxLatencyRatio = None,
    gate_bound: o.GateBound = False,
    search: o.Search = False,
    defer_error: o.DeferError = None,
    defer_cloud: o.DeferCloud = 10.0,
    encoder_from: o.EncoderFrom = None,
    delta_from: o.DeltaFrom = None,
    lineage: o.LineageFile = None,
    python: o.Pythons = None,
    measurements: o.Measurements = None,
    measure_again: o.Again = False,
    seed: o.Seed = 0,
    json: o.Json = False,
) -> None:
    """Build variants of a trained model, measure and gate them, and write a release directory.

    Example: model-compiler compile out/student.pt2 --calibration out/calibration.npz
    --validation out/validation.npz --target litert-int8 --cloud out/teacher.onnx --max-drop 1 --out out/release
    """
    from model_compiler import CompileRequest, compile_release
    from model_compiler.inputs.sources import load_onnx

    with _exit_on_error():
        fixed = _contract(labels, input_, output, _earlier(extends, model, encoder_from), non_finite, preprocess, front)
        request = CompileRequest(
            **_sets(calibration, validation, fixed["non_finite"]),
            targets=tuple(target or ("litert-int8", "litert-fp32")),
            out=out,
            **_source(source, weights),
            cloud=load_onnx(cloud) if cloud else None,
            **fixed,
            features=features_of(features),
            watch=watch,
            metric=metric_of(metric),
            task=task_of(task),
            channels_last=channels_last,
            gate=gate_of(max_drop, min_metric, min_agreement, max_class_drop, max_latency_ratio, by_bound=gate_bound),
            search=search,
            defer=defer_of(defer_error, defer_cloud),
            lineage=lineage_of(lineage),
            seed=seed,
            measurements=_kept(measurements, again=measure_again),
            pythons=tuple(python or ()),
            earlier=tuple(delta_from or ()),
        )
        _run(request, compile_release, json=json)


@app.command("import")
def import_(
    file: o.ModelFile,
    validation: o.Validation,
    out: o.Out,
    reference: o.Reference = None,
    cloud: o.Cloud = None,
    labels: o.Labels = "",
    features: o.Features = None,
    watch: o.Watch = "",
    input_: o.Inputs = None,
    output: o.Chosen = None,
    extends: o.Extends = None,
    model: o.OfHub = "",
    metric: o.MetricName = "",
    task: o.TaskName = "",
    non_finite: o.NonFinite = None,
    preprocess: o.Preprocess = None,
    front: o.FrontModel = "",
    raw: o.Raw = False,
    max_drop: o.MaxDrop = None,
    min_metric: o.MinMetric = None,
    min_agreement: o.MinAgreement = None,
    max_class_drop: o.MaxClassDrop = None,
    max_latency_ratio: o.MaxLatencyRatio = None,
    gate_bound: o.GateBound = False,
    encoder_from: o.EncoderFrom = None,
    python: o.Pythons = None,
    measurements: o.Measurements = None,
    measure_again: o.Again = False,
    json: o.Json = False,
) -> None:
    """Wrap an existing model file as a release, measured but unchanged.

    Example: model-compiler import model.tflite --validation test.npz --out release
    """
    from model_compiler.importing import import_release
    from model_compiler.inputs.dataset import load_dataset
    from model_compiler.inputs.request import CompileRequest
    from model_compiler.inputs.sources import load_onnx

    with _exit_on_error():
        fixed = _contract(labels, input_, output, _earlier(extends, model, encoder_from), non_finite, preprocess, front)
        data = load_dataset(validation, non_finite=fixed["non_finite"], exact=True)
        request = CompileRequest(
            calibration=data,
            validation=data,
            targets=(),
            out=out,
            cloud=load_onnx(cloud) if cloud else None,
            **fixed,
            features=features_of(features),
            watch=watch,
            metric=metric_of(metric),
            task=task_of(task),
            gate=gate_of(max_drop, min_metric, min_agreement, max_class_drop, max_latency_ratio, by_bound=gate_bound),
            measurements=_kept(measurements, again=measure_again),
            pythons=tuple(python or ()),
        )
        _run(request, lambda asked: import_release(file, asked, reference=reference, raw=raw), json=json)


@app.command("inspect")
def inspect(release: o.Release, json: o.Json = False) -> None:
    """Show a release directory, after checking every blob.

    Example: model-compiler inspect out/release
    """
    from model_compiler.inputs.release_folder import read_release
    from model_compiler.report.terminal import show

    with _exit_on_error():
        show(read_release(release), {}, json=json, release=release)


@app.command("delta")
def delta_(old: o.Old, new: o.New, out: o.Patch = None, model: o.Name = "", json: o.Json = False) -> None:
    """Build the smallest patch from one model file to another, check it, and compare the methods.

    OLD and NEW are model files, or release directories: then the first edge variant, or --variant.

    Example: model-compiler delta out/release1 out/release2 --out patch
    """
    from model_compiler.package import delta
    from model_compiler.report.terminal import print_json

    with _exit_on_error():
        before, after = delta.model_of(old, model), delta.model_of(new, model)
        built = delta.build(before, after)
        if delta.apply(before, built.patch) != after:
            raise CompilerError("the patch does not make the new file; this is a bug")
        if out is not None:
            out.write_bytes(built.patch)
        if json:
            sizes = {"method": built.method, "patch_bytes": len(built.patch), "file_bytes": len(after)}
            print_json({**sizes, "methods": built.sizes})
            return
        for method, size in sorted(built.sizes.items(), key=lambda item: item[1]):
            typer.echo(f"{method:9} {size:>12,} bytes, {size / max(len(after), 1):.1%} of the file")


def _names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.split(",")))


def _sets(calibration: Path, validation: Path, non_finite: Sequence[str]) -> dict[str, Any]:
    """The fields of a request that are its data."""
    from model_compiler.inputs.dataset import load_dataset

    return {
        "calibration": load_dataset(calibration, labelled=False, non_finite=non_finite, precise=True),
        "validation": load_dataset(validation, non_finite=non_finite, precise=True),
    }


def _source(source: str, weights: Path | None) -> dict[str, Any]:
    """The field of a request that is its source."""
    from model_compiler.inputs.sources import load_onnx, load_torch

    if source.endswith(".onnx"):
        return {"onnx": load_onnx(Path(source))}
    return {"module": load_torch(source, weights)}


def _earlier(release: Path | None, model: str, encoder_from: Path | None) -> Kept:
    from model_compiler.inputs.existing_model import found

    return found(release, model, encoder_from)


def _contract(
    labels: str,
    inputs: list[str] | None,
    outputs: list[str] | None,
    kept: Kept,
    non_finite: list[str] | None,
    preprocess: Path | None,
    front: str,
) -> dict[str, Any]:
    """The fields of a request that say what applications rely on: an earlier release gives what was not said."""
    from model_compiler.build.fronts import read
    from model_compiler.inputs.preprocessing import imputed
    from model_compiler.inputs.request import non_finite_of

    if kept.said:
        typer.echo(kept.said, err=True)
    steps = _steps(preprocess) or kept.steps
    return {
        "labels": _names(labels),
        "inputs": tuple(inputs or ()),
        "outputs": tuple(outputs or ()),
        "interface": kept.interface,
        "non_finite": tuple(sorted({*(non_finite or ()), *non_finite_of(kept.interface), *imputed(steps)})),
        "preprocess": steps,
        "front": read(front) if front else kept.front,
        "encoder": kept.encoder,
    }


def _steps(path: Path | None) -> tuple[AnyStep, ...]:
    from model_compiler.inputs.preprocessing import read_steps

    if path is None:
        return ()
    try:
        return read_steps(path.read_bytes(), str(path))
    except OSError as error:
        raise CompilerError(f"{path}: {error.strerror}", subject=str(path)) from error


def _kept(folder: Path | None, *, again: bool) -> Path | None:
    """Return the folder that keeps measurements: `$XDG_CACHE_HOME/edgeloop/measurements`, under `~/.cache` without
    that; None where there is no home."""
    if again or folder is not None:
        return None if again else folder
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # no HOME, and a user without an entry
        return None
    return cache / "edgeloop" / "measurements"


def _run(request: CompileRequest, work: Callable[[CompileRequest], CompileReport], *, json: bool) -> None:
    """Work under a bar that says what is being done, then show what came of it."""
    from dataclasses import replace

    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from model_compiler.report.terminal import show

    columns = (SpinnerColumn(), BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    # Every target is built, run and tried; six steps are taken once. A search adds steps and so runs over.
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=2 * len(request.targets) + 6)
        report = work(replace(request.numbered(), progress=lambda step: bar.update(task, advance=1, description=step)))
    show(report.manifest, report.left_out, json=json, release=request.out)


class _exit_on_error:  # reads as a statement
    """Turn a CompilerError, and a disk that refuses, into one line on stderr and an exit code."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, CompilerError):
            typer.echo(f"error: {error}", err=True)
            if error.hint:
                typer.echo(f"try: {error.hint}", err=True)
            raise typer.Exit(_code_of(error)) from error
        if isinstance(error, ProtocolError):
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(Exit.FAILED) from error
        if isinstance(error, OSError):
            typer.echo(f"error: {error.filename or 'a file'}: {error.strerror or error}", err=True)
            typer.echo("try: free space, or name places that can be written (--out, TMPDIR)", err=True)
            raise typer.Exit(of_os_error(error)) from error


def _code_of(error: CompilerError) -> int:
    """That of the error, or of the file that caused it by not being there or being another user's."""
    cause = error.__cause__
    return of_os_error(cause) if isinstance(cause, OSError) and error.exit_code == Exit.FAILED else error.exit_code


with_version(app, "model-compiler")


def main() -> None:
    """Entry point of `model-compiler`."""
    write_any_letter()
    try:
        try:
            run_app(app)
        finally:
            flush()
    except OSError as error:  # standard output refuses
        typer.echo(f"error: {error.strerror or error}", err=True)
        sys.exit(of_os_error(error))


if __name__ == "__main__":
    main()
