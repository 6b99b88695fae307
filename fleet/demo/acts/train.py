"""Acts 1 and 2: split the data, train teacher and student, compile and measure the variants."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from fleet.demo.driver import Digits
from fleet.demo.processes import DemoError, options, run_to_end
from fleet.demo.story import Story
from fleet.demo.workshop import Workshop

RECIPE = "examples.digits.recipe"
SHIFT = "15,20"  # degrees
LABELS = "0,1,2,3,4,5,6,7,8,9"
SETS = ("train", "calibration", "validation", "traffic", "exam")


def make_data(story: Story) -> None:
    """Write the sets twice, as scanned and as a slipped camera sees them, and load what the driver needs."""
    shop = story.shop
    for folder, extra in (("data", []), ("shifted", ["--degrees", SHIFT])):
        out = shop.directory / folder
        script = examples() / "digits" / "data.py"
        words = [sys.executable, str(script), "--out", str(out), "--seed", str(shop.seed), *extra]
        run_to_end(words, log=shop.logs / "commands.log", timeout_s=60, env=shop.env)
    story.data = {name: load(shop.directory / "data" / f"{name}.npz") for name in ("traffic", "exam")}
    story.shifted = {name: load(shop.directory / "shifted" / f"{name}.npz") for name in ("traffic", "exam")}


def train(shop: Workshop, name: str, *more: object) -> Path:
    """Train by the recipe; returns the directory with student, teacher, metrics and lineage."""
    out = shop.directory / "trained" / name
    shop.command("cloud_hub", "train", RECIPE, "--out", out, *more, timeout_s=240)
    return out


def compile_release(shop: Workshop, trained: Path, name: str, *more: object) -> Path:
    """Compile student and teacher into a release directory."""
    out = shop.directory / "releases" / name
    sets = options(calibration=trained / "calibration.npz", validation=trained / "validation.npz")
    kinds = ("--target", "litert-int8", "--target", "litert-fp32", *options(cloud=trained / "teacher.onnx"))
    terms = options(labels=LABELS, lineage=trained / "lineage.json", max_drop=1.5, out=out)
    student = trained / "student.pt2"
    shop.command("model_compiler", "compile", student, *sets, *kinds, *terms, *more, timeout_s=300)
    return out


def manifest(release: Path) -> dict[str, Any]:
    """A release directory's manifest."""
    document: dict[str, Any] = json.loads((release / "manifest.json").read_text(encoding="utf-8"))
    return document


def describe(release: Path) -> str:
    """The variants' verdicts in one line."""
    return "; ".join(
        f"{v['name']} {v['verdict']['value']:.3f}, {v['verdict']['size_bytes'] / 1000:.0f} kB, "
        f"{v['verdict']['latency_us_p50']:.0f} µs"
        for v in manifest(release)["variants"]
    )


def examples() -> Path:
    """The examples beside the packages, in a checkout."""
    found = Path(__file__).resolve().parents[3] / "examples"
    if not (found / "digits").is_dir():
        raise DemoError(f"no {found}/digits: the demo runs from a checkout of the repository")
    return found


def load(path: Path) -> Digits:
    """A set from its file."""
    with np.load(path) as arrays:
        return Digits(x=arrays["x"].astype(np.float32), y=arrays["y"])
