"""The `model-compiler` command: compile, import, inspect."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from model_compiler.errors import CompilerError

if TYPE_CHECKING:
    from fleet.protocol.manifest import Lineage, Manifest
    from model_compiler.pipeline import CompileRequest

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="A trained model in; measured, gated, quantized variants out."
)
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Out = Annotated[Path, typer.Option("--out", help="The release directory to write.")]
Labels = Annotated[str, typer.Option("--labels", help="Class names in output order, separated by commas.")]


@app.command("compile")
def compile_(
    source: Annotated[str, typer.Argument(help="A .pt2, an .onnx, or file.py:factory.")],
    calibration: Annotated[Path, typer.Option("--calibration", help=".npz with x and y; calibrates quantization.")],
    validation: Annotated[Path, typer.Option("--validation", help=".npz with x and y; disjoint; gives the verdict.")],
    out: Out,
    target: Annotated[list[str] | None, typer.Option("--target", help="A variant; repeat. Preferred first.")] = None,
    weights: Annotated[Path | None, typer.Option("--weights", help="safetensors for file.py:factory.")] = None,
    cloud: Annotated[Path | None, typer.Option("--cloud", help="The teacher as .onnx: the cloud variant.")] = None,
    labels: Labels = "",
    max_drop: Annotated[float | None, typer.Option("--max-drop", help="Gate: percentage points below fp32.")] = None,
    min_metric: Annotated[float | None, typer.Option("--min-metric", help="Gate: least accuracy, 0 to 1.")] = None,
    min_agreement: Annotated[float | None, typer.Option("--min-agreement", help="Gate: with fp32, 0 to 1.")] = None,
    max_class_drop: Annotated[
        float | None, typer.Option("--max-class-drop", help="Gate: in one class, 0 to 1.")
    ] = None,
    max_latency_ratio: Annotated[float | None, typer.Option("--max-latency-ratio", help="Gate: over fp32.")] = None,
    defer_error: Annotated[float | None, typer.Option("--defer-error", help="Deferral: at most x % error.")] = None,
    defer_cloud: Annotated[float, typer.Option("--defer-cloud", help="Deferral: at most y % cloud calls.")] = 10.0,
    encoder_from: Annotated[
        Path | None, typer.Option("--encoder-from", help="Keep an earlier release's encoder.")
    ] = None,
    lineage: Annotated[Path | None, typer.Option("--lineage", help="JSON that training wrote.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seeds the drift encoder.")] = 0,
    json: Json = False,
) -> None:
    """Build variants of a trained model, measure and gate them, and write a release directory.

    Example: model-compiler compile out/student.pt2 --calibration out/calibration.npz
    --validation out/validation.npz --target litert-int8 --target litert-fp32
    --cloud out/teacher.onnx --max-drop 1 --out out/release
    """
    from fleet.protocol.manifest import Gate
    from model_compiler.data import load_dataset
    from model_compiler.deferral import DeferTarget
    from model_compiler.pipeline import CompileRequest
    from model_compiler.reference import encoder_of
    from model_compiler.sources import load_onnx, load_torch

    with _exit_on_error():
        is_onnx = source.endswith(".onnx")
        request = CompileRequest(
            calibration=load_dataset(calibration),
            validation=load_dataset(validation),
            targets=tuple(target or ("litert-int8", "litert-fp32")),
            out=out,
            module=None if is_onnx else load_torch(source, weights),
            onnx=load_onnx(Path(source)) if is_onnx else None,
            cloud=load_onnx(cloud) if cloud else None,
            labels=tuple(filter(None, labels.split(","))),
            gate=Gate(
                max_drop_points=max_drop,
                min_metric=min_metric,
                min_agreement=min_agreement,
                max_class_drop=max_class_drop,
                max_latency_ratio=max_latency_ratio,
            ),
            defer=DeferTarget(error=None if defer_error is None else defer_error / 100, cloud=defer_cloud / 100),
            encoder=encoder_of(encoder_from) if encoder_from else None,
            lineage=_lineage(lineage),
            seed=seed,
        )
        _compile(request, json=json)


def _compile(request: CompileRequest, *, json: bool) -> None:
    from dataclasses import replace

    from rich.console import Console

    from model_compiler.pipeline import compile_release

    console = Console(stderr=True)
    with console.status("starting") as status:
        report = compile_release(replace(request, progress=lambda step: status.update(step)))
    _show(report.manifest, report.left_out, json=json)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A .tflite or .onnx file.")],
    validation: Annotated[Path, typer.Option("--validation", help=".npz with x and y.")],
    out: Out,
    labels: Labels = "",
    json: Json = False,
) -> None:
    """Wrap an existing model file as a release, measured but unchanged.

    Example: model-compiler import model.tflite --validation test.npz --out release
    """
    from model_compiler.data import load_dataset
    from model_compiler.importing import import_release

    with _exit_on_error():
        names = tuple(filter(None, labels.split(",")))
        _show(import_release(file, load_dataset(validation), names, out), {}, json=json)


@app.command("inspect")
def inspect(release: Annotated[Path, typer.Argument(help="A release directory.")], json: Json = False) -> None:
    """Show a release directory, after checking every blob.

    Example: model-compiler inspect out/release
    """
    from model_compiler.pack import read_release

    with _exit_on_error():
        _show(read_release(release), {}, json=json)


def _lineage(path: Path | None) -> Lineage:
    import msgspec

    from fleet.protocol.manifest import Lineage

    if path is None:
        return Lineage()
    try:
        return msgspec.json.decode(path.read_bytes(), type=Lineage)
    except (OSError, msgspec.DecodeError) as error:
        raise CompilerError(f"{path}: not a lineage file: {error}", subject=str(path)) from error


def _show(manifest: Manifest, left_out: dict[str, str], *, json: bool) -> None:
    import msgspec
    from rich.console import Console
    from rich.table import Table

    if json:
        document = {"manifest": msgspec.to_builtins(manifest), "left_out": left_out}
        sys.stdout.write(msgspec.json.encode(document).decode() + "\n")
        return
    table = Table("variant", "accuracy", "95 %", "agreement", "bytes", "p50 µs", "× fp32", box=None, pad_edge=False)
    console = Console(soft_wrap=True)
    for variant in manifest.variants:
        v = variant.verdict
        table.add_row(
            variant.name, f"{v.value:.3f}", f"{v.interval[0]:.2f}–{v.interval[1]:.2f}", f"{v.agreement:.3f}",
            str(v.size_bytes), f"{v.latency_us_p50:.0f}", f"{v.latency_ratio:.2f}",
        )  # fmt: skip
    console.print(table)
    for variant in manifest.variants:
        for note in variant.verdict.notes:
            console.print(f"{variant.name} is {note}")
    for name, why in left_out.items():
        console.print(f"left out: {name}: {why}")


class _exit_on_error:  # reads as a statement
    """Turn a CompilerError into one line on stderr and its exit code."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, CompilerError):
            typer.echo(f"error: {error}", err=True)
            if error.hint:
                typer.echo(f"try: {error.hint}", err=True)
            raise typer.Exit(error.exit_code) from error


def main() -> None:
    """Entry point of `model-compiler`."""
    app()


if __name__ == "__main__":
    main()
