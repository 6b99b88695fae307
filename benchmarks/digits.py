"""The digits example over five seeds: float and int8 student, teacher, and deferral, on exams nobody tuned on.

`python benchmarks/digits.py` (under two minutes on two cores) trains and compiles the example's recipe once
per seed, each with its own split of the data, prints a table and writes `benchmarks/results/digits.json`.
Figures are shares of right answers on the exam; `deferred` is the share that the int8 student
hands to the teacher, `combined` what both get right together, `agreement` how often int8 and fp32 agree.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import torch

from cloud_hub.training.dealing import deal_run
from cloud_hub.training.fitting import accuracy
from cloud_hub.training.recipe import load_recipe
from cloud_hub.training.run import onnx_of, settle_run
from cloud_hub.training.run_request import RunRequest
from cloud_hub.training.teacher_student import train_student, train_teacher
from fleet.protocol import confidence
from model_compiler.inputs.dataset import make_dataset
from model_compiler.inputs.request import CompileRequest
from model_compiler.pipeline import compile_release
from model_compiler.running import runner

COLUMNS = ("teacher", "fp32", "int8", "agreement", "deferred", "combined", "int8_bytes", "fp32_bytes")


def measure(seed: int, folder: Path) -> dict[str, float]:
    """Train, compile and examine one seed."""
    os.environ["EDGELOOP_DIGITS_SEED"] = str(seed)
    request = RunRequest(loaded=load_recipe("examples.digits.recipe"), out=folder / "run", seed=seed)
    settled = settle_run(request)
    parts = deal_run(request, settled)
    taught = train_teacher(request, parts, settled)
    assert taught is not None and taught.module is not None  # the recipe has a teacher
    student, teacher = train_student(request, parts, settled, taught).module, taught.module
    made = compile_release(
        CompileRequest(
            calibration=make_dataset(parts.calibration.x, parts.calibration.y, "calibration"),
            validation=make_dataset(parts.validation.x, parts.validation.y, "validation"),
            targets=("litert-int8", "litert-fp32"),
            out=folder / "release",
            module=student,
            cloud=onnx_of(teacher, parts.train.x),
            seed=seed,
        )
    )
    found = {"teacher": accuracy(teacher, parts.exam)}
    classes = {}
    variants = {name: made.manifest.variant(f"litert-{name}") for name in ("fp32", "int8")}
    for name, variant in variants.items():
        data = (made.out / "blobs" / variant.blob.sha256).read_bytes()
        logits = runner.run(name, "litert", data, make_dataset(parts.exam.x, None, "exam")).outputs[0]
        found |= {name: float((logits.argmax(axis=1) == parts.exam.y).mean()), f"{name}_bytes": len(data)}
        classes[name] = logits.argmax(axis=1)
    found["agreement"] = float((classes["fp32"] == classes["int8"]).mean())
    fitted = variants["int8"].deferral
    assert fitted is not None
    sure = confidence.confidence(confidence.probabilities(logits, temperature=fitted.temperature))
    away = sure < fitted.threshold
    asked = parts.exam.take(np.flatnonzero(away))
    kept = float(((logits.argmax(axis=1) == parts.exam.y) & ~away).sum())
    combined = (kept + accuracy(teacher, asked) * len(asked)) / len(parts.exam)
    return {**found, "deferred": float(away.mean()), "combined": combined}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "digits.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    start, rows = time.monotonic(), []
    print("seed", *(f"{name:>10}" for name in COLUMNS))
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            row = measure(seed, Path(folder))
        rows.append({"seed": seed, **row})
        print(f"{seed:4d}", *(f"{row[name]:10.4g}" for name in COLUMNS), flush=True)
    summary = {name: {"mean": mean(row[name] for row in rows)} for name in COLUMNS}
    if len(rows) > 1:
        summary = {name: {**summary[name], "sd": stdev(row[name] for row in rows)} for name in COLUMNS}
    print("mean", *(f"{summary[name]['mean']:10.4g}" for name in COLUMNS))
    document = {"seconds": round(time.monotonic() - start, 1), "seeds": rows, "summary": summary}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
