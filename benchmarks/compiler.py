"""The compiler on real data: what int8 costs and gains, on MNIST and on a table with 3 % positives.

`EDGELOOP_DATA=DIR python benchmarks/compiler.py` (about a minute on two cores) trains the examples'
students, compiles them to every variant, prints the tables and writes `benchmarks/results/compiler.json`.
DIR holds `mnist/` and `ai4i2020/`; without it the benchmark says so and ends.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console

from cloud_hub.training.dealing import deal_run
from cloud_hub.training.recipe import load_recipe
from cloud_hub.training.run import settle_run
from cloud_hub.training.run_request import RunRequest
from cloud_hub.training.teacher_student import train_student, train_teacher
from examples.machines import data as machines
from examples.machines.model import train
from model_compiler.inputs.dataset import make_dataset
from model_compiler.inputs.request import CompileRequest
from model_compiler.metrics import parse
from model_compiler.pipeline import compile_release
from model_compiler.report.document import CompileReport
from model_compiler.report.terminal import table

TARGETS = ("litert-int8", "litert-fp32", "litert-int8-dynamic", "onnx-int8", "onnx-fp32")


def mnist(folder: Path) -> CompileReport:
    """The student of `examples.mnist`, distilled from its teacher."""
    request = RunRequest(loaded=load_recipe("examples.mnist.recipe"), out=folder / "run", seed=0)
    settled = settle_run(request)
    parts = deal_run(request, settled)
    student = train_student(request, parts, settled, train_teacher(request, parts, settled)).module
    return compile_release(
        CompileRequest(
            calibration=make_dataset(parts.calibration.x, parts.calibration.y, "calibration"),
            validation=make_dataset(parts.validation.x, parts.validation.y, "validation"),
            targets=TARGETS,
            out=folder / "release",
            module=student,
        )
    )


def tabular(folder: Path) -> CompileReport:
    """The dense network of `examples.machines`, judged by the area under the ROC curve."""
    parts = machines.splits()
    x, y = parts["train"]
    return compile_release(
        CompileRequest(
            calibration=make_dataset(*parts["calibration"], "calibration"),
            validation=make_dataset(*parts["validation"], "validation"),
            targets=TARGETS,
            out=folder / "release",
            module=train(torch.from_numpy(x), torch.from_numpy(y)),
            metric=parse("auc"),
            labels=("fine", "failing"),
        )
    )


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "compiler.json")
    options = parser.parse_args()
    if "EDGELOOP_DATA" not in os.environ:
        sys.exit("this benchmark needs real data: set EDGELOOP_DATA to a folder that holds mnist/ and ai4i2020/")
    torch.manual_seed(0)
    found = {}
    for name, work in (("mnist", mnist), ("ai4i2020", tabular)):
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            report = work(Path(folder))
        Console(width=140).print(f"\n{name}, {time.monotonic() - start:.0f} s with training", table(report.manifest))
        found[name] = {
            "variants": {n: entry["verdict"] for n, entry in report.document["variants"].items()},
            "left_out": report.left_out,
        }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
