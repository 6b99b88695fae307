"""The cost of a retrain for devices, and its worth: `python benchmarks/retrain_bytes.py [--data digits|mnist]`.

A student is trained and compiled, then retrained on labelled images that are turned (a camera that slipped): anew, by
a fine-tune of all its weights, as `fleet retrain` does it, and under a byte budget (`--max-bytes`, by default a tenth
of the whole release; one that cannot be kept is written down as refused).
Bytes are all that a device with the first release and `litert-int8` fetches: manifest, patches, files. `whole` is the
first release, each of these packed by zstd -19. Right answers are of that variant as it is served, on an exam that
nobody trained on, as it is and turned. `--data mnist` needs EDGELOOP_DATA. The result goes to
`benchmarks/results/retrain_bytes.json`, one entry for each data set.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import machine
from cloud_hub.errors import InvalidError
from cloud_hub.samples.dataset import Dataset
from cloud_hub.training.checking import Contract
from cloud_hub.training.compiling import Trained, compile_run
from cloud_hub.training.dealing import Parts, deal_run
from cloud_hub.training.examples import Examples
from cloud_hub.training.handed import RELEASE, Released, best_of
from cloud_hub.training.models import Made
from cloud_hub.training.recipe import load_recipe
from cloud_hub.training.run import settle_run
from cloud_hub.training.run_request import RunRequest
from cloud_hub.training.spending import Budget, budget_of, fetched, over, patch_size, train_within, weights_of
from cloud_hub.training.teacher_student import train_student, train_teacher
from cloud_hub.training.work import worse
from examples.digits import data as digits
from fleet.protocol.interface import interface_of
from fleet.protocol.manifest import encode_manifest
from model_compiler.inputs.dataset import make_dataset
from model_compiler.inputs.former_release import Former, former_of
from model_compiler.inputs.release_folder import encoder_of
from model_compiler.package.delta import build
from model_compiler.running import runner

OUT = Path(__file__).parent / "results" / "retrain_bytes.json"
VARIANT = "litert-int8"
SHARE = 0.1  # of the whole release, packed: the budget
LOW, HIGH = 15.0, 20.0  # degrees that images are turned by
WAYS = ("anew", "all weights", "plain", "budget")


@dataclass(frozen=True)
class Case:
    """A recipe's name, and its shifted traffic with labels and its exam for a seed."""

    recipe: str
    traffic: Examples
    exam: Examples


def case_of(name: str, seed: int) -> Case:
    """The digits of scikit-learn, or MNIST with 2,000 labelled samples."""
    if name == "digits":
        os.environ["EDGELOOP_DIGITS_SEED"] = str(seed)
        parts = digits.splits(seed)
        return Case("examples.digits.recipe", Examples(*parts["traffic"]), Examples(*parts["exam"]))
    from examples.mnist import data as mnist

    parts = mnist.splits(14_000, seed)
    x, y = parts["train"]
    return Case("examples.mnist.recipe", Examples(x[12_000:], y[12_000:]), Examples(*parts["exam"]))


def slipped(part: Examples, seed: int) -> Examples:
    """The same images, turned."""
    return Examples(digits.turned(np.asarray(part.x), LOW, HIGH, seed), part.y)


def right(release: Path, exam: Examples) -> float:
    """The share of right answers of a release's `VARIANT`, in per cent."""
    model = former_of(release).file_of(VARIANT)
    assert model is not None  # the recipe builds it
    outputs = runner.run(VARIANT, "litert", model, make_dataset(exam.x, None, "exam")).outputs[0]
    return 100 * float((outputs.argmax(axis=1) == exam.y).mean())


def packed(former: Former) -> int:
    """The bytes of all that a device with nothing fetches, each file packed."""
    manifest = former.manifest
    files = [encode_manifest(manifest), *former.files.values()]
    names = {blob.sha256 for blob in manifest.needed_for(manifest.variant(VARIANT))}
    kept = [files[0], *(data for sha256, data in former.files.items() if sha256 in names)]
    encoder = manifest.sketch.encoder.size if manifest.sketch is not None else 0  # random numbers: nothing to pack
    return sum(build(b"", data).sizes["whole"] for data in kept) + encoder


class Bench:
    """One seed: the first release, and ways to retrain it."""

    def __init__(self, name: str, seed: int, folder: Path) -> None:
        self.case, self._folder = case_of(name, seed), folder
        loaded = load_recipe(self.case.recipe)
        if name == "mnist":
            loaded = replace(loaded, recipe=replace(loaded.recipe, targets=(VARIANT, "litert-fp32")))
        first = RunRequest(loaded=loaded, out=folder / "first", seed=seed)
        settled = settle_run(first)
        parts = deal_run(first, settled)
        teacher = train_teacher(first, parts, settled)
        student = train_student(first, parts, settled, teacher)
        compile_run(
            first,
            Trained(student, teacher, parts, settled),
            current=None,
            on_grid=False,
            progress=lambda step: None,
        )
        self.release = folder / "first" / RELEASE
        self.former = former_of(self.release)
        self.current = Released(1, self.former.manifest, best_of(self.former.manifest), b"", b"", self.former.files)
        assert student.module is not None  # the kit trains it
        start = {name: value.numpy() for name, value in student.module.state_dict().items()}
        labelled = slipped(self.case.traffic, seed + 1)
        ids = np.arange(len(labelled)).astype(str)
        snapshot = Dataset({"x": np.asarray(labelled.x)}, labelled.y, ids)
        contract = Contract(name, "the first release", interface_of(self.former.manifest), encoder_of(self.release))
        self.request = replace(first, snapshot=snapshot, start={"student": start}, contract=contract)
        self.settled = settled
        self.parts: Parts = deal_run(self.request, settled)
        self.teacher = train_teacher(replace(self.request, out=folder / "teacher"), self.parts, settled)

    def student(self, request: RunRequest, way: str, budget: Budget, room: int) -> Made:
        """A student, retrained in one of `WAYS`; under the budget, with a patch of at most `room` bytes."""
        if way != "budget":
            share = 1.0 if way == "all weights" else None
            asked = replace(request, start={}) if way == "anew" else request
            return train_student(asked, self.parts, self.settled, self.teacher, share)
        return train_within(
            budget,
            room,
            weights_of(request),
            lambda share: train_student(request, self.parts, self.settled, self.teacher, share),
            lambda made: patch_size(budget, self.parts, made),
            lambda less, more: worse(less, more, self.parts.calibration.with_labels(), self.settled),
        )

    def measure(self, way: str, exams: dict[str, Examples], most: int = 0) -> dict[str, float]:
        """Bytes, their share of the whole release, and right answers; `most` is the budget (0: a tenth of it).

        Raises InvalidError for a budget that cannot be kept.
        """
        whole, began = packed(self.former), time.monotonic()
        request = replace(self.request, out=self._folder / way.replace(" ", "-"))
        budget = budget_of(request, self.current, most or int(SHARE * whole))
        room, trained, update = budget.limit - budget.beside, 0.0, 0
        for again in (True, False):  # as the job does it: the rest may be larger than it looked before
            student = self.student(request, way, budget, room)
            trained = time.monotonic() - began
            compile_run(
                request,
                Trained(student, self.teacher, self.parts, self.settled),
                current=self.current,
                on_grid=way == "budget",
                progress=lambda step: None,
            )
            update = fetched(self.former, request.out)[0][VARIANT]
            if way != "budget" or update <= budget.limit:
                break
            if not again:
                raise over(budget, update)
            room -= update - budget.limit
        found = {name: right(request.out / RELEASE, exam) for name, exam in exams.items()}
        return {"bytes": update, "share": update / whole, "seconds": trained, **found}


def measured(name: str, seed: int, most: int) -> dict[str, Any]:
    """Every way on one seed."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(name, seed, Path(folder))
        exams = {"plain": bench.case.exam, "turned": slipped(bench.case.exam, seed + 2)}
        found: dict[str, Any] = {"whole": packed(bench.former)}
        found["before"] = {kind: right(bench.release, exam) for kind, exam in exams.items()}
        for way in WAYS:
            try:
                found[way] = bench.measure(way, exams, most)
            except InvalidError as error:
                found[way] = {"refused": str(error)}
            print(f"{name} seed {seed} {way:12}", found[way], flush=True)
    return found


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("digits", "mnist"), default="digits")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--max-bytes", type=int, default=0, help="the budget; 0: a tenth of the whole release")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measured(options.data, seed, options.max_bytes) for seed in range(options.seeds)]
    kept = [way for way in WAYS if not any("refused" in row[way] for row in rows)]
    summary = {way: {key: round(mean(row[way][key] for row in rows), 4) for key in rows[0][way]} for way in kept}
    before = {kind: mean(row["before"][kind] for row in rows) for kind in ("plain", "turned")}
    document = json.loads(options.out.read_text()) if options.out.is_file() else {}
    document[options.data] = {"machine": machine(), "before": before, "mean": summary, "seeds": rows}
    options.out.write_text(json.dumps(document, indent=2) + "\n")
    for way, found in summary.items():
        print(f"{way:12}", found)


if __name__ == "__main__":
    main()
