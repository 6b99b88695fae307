"""The variants that each architecture compiles to: `python benchmarks/coverage.py` (a few minutes on two cores).

Every family of `benchmarks/architectures.py` gets random weights and random inputs; what is right is the
module's own answer. A cell shows how much of the float outputs' variance the variant keeps (1 is all), or
that it failed, with the reason below the table. Writes `benchmarks/results/coverage.json`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.architectures import FAMILIES, Made
from model_compiler.errors import CompilerError
from model_compiler.inputs.dataset import Dataset, make_dataset
from model_compiler.inputs.request import CompileRequest
from model_compiler.metrics import parse
from model_compiler.pipeline import compile_release

TARGETS = ("litert-fp32", "litert-int8", "litert-int8-dynamic", "onnx-fp32", "onnx-int8")


def data(made: Made, count: int, seed: int) -> Dataset:
    """Random inputs like the example's, and the module's first output for them."""
    module, example = made
    random = np.random.default_rng(seed)
    inputs = {}
    for name, tensor in example.items():
        shape = (count, *tensor.shape[1:])
        whole = tensor.dtype == torch.int64
        inputs[name] = random.integers(0, 100, shape) if whole else random.normal(size=shape).astype(np.float32)
    with torch.no_grad():
        answer = module(*(torch.from_numpy(array) for array in inputs.values()))
    if isinstance(answer, dict):
        answer = next(iter(answer.values()))
    first = answer[0] if isinstance(answer, tuple) else answer
    return make_dataset(inputs, first.numpy(), "random")


def attempt(name: str, folder: Path) -> dict[str, str | float]:
    """By target: the agreement, or why there is none."""
    torch.manual_seed(0)
    module, example = FAMILIES[name]()
    made = (module.eval(), example)
    request = CompileRequest(
        module=made[0],
        calibration=data(made, 64, 1),
        validation=data(made, 64, 2),
        targets=TARGETS,
        metric=parse("rmse"),
        out=folder / "release",
    )
    try:
        report = compile_release(request)
    except CompilerError as error:
        return dict.fromkeys(TARGETS, str(error))
    found: dict[str, str | float] = dict(report.left_out)
    return found | {variant.name: variant.verdict.agreement for variant in report.manifest.variants}


def main() -> None:
    """Compile all, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="families whose name contains this")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "coverage.json")
    options = parser.parse_args()
    start, rows = time.monotonic(), {}
    table = Table("family", *TARGETS, box=None)
    for name in [name for name in FAMILIES if options.only in name]:
        with tempfile.TemporaryDirectory() as folder:
            rows[name] = attempt(name, Path(folder))
        cells = (rows[name][target] for target in TARGETS)
        table.add_row(name, *(f"{cell:.4f}" if isinstance(cell, float) else "failed" for cell in cells))
    console = Console(width=140)
    console.print(table)
    for name, row in rows.items():
        for target, cell in row.items():
            if isinstance(cell, str):
                console.print(f"{name}: {target}: {cell}", markup=False)
    built = sum(isinstance(cell, float) for row in rows.values() for cell in row.values())
    print(f"{built} of {len(rows) * len(TARGETS)} variants in {time.monotonic() - start:.0f} s")
    if not options.only:
        options.out.write_text(json.dumps({"torch": torch.__version__, "families": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
