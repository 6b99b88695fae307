"""A release directory of a machine's sensors, and histories as CSV."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from fleet.protocol.drift_encoder import encode_encoder, fit_encoder, sketch_id
from fleet.protocol.figures import TrainingProfile, encode_profile, planned_figures, summarize_input
from fleet.protocol.manifest import Manifest, SketchRef, Tensor, decode_manifest, encode_manifest
from fleet.protocol.sketch import encode_sketch, sketch
from model_compiler.inputs.release_folder import blob_of
from tests.support.manifests import small_release

NAMES = ("temperature", "vibration")
USUAL, SPREAD = np.array([20.0, 1.0]), np.array([2.0, 0.2])
BEGAN = 1_700_000_000 // 86_400 * 86_400  # 2023-11-14


def write_release(folder: Path, *, finite: bool = True) -> Manifest:
    """Write a release of a classifier of two sensors; returns its manifest."""
    trained = np.random.default_rng(7).normal(USUAL, SPREAD, (1000, 2)).astype(np.float32)
    inputs = (Tensor(name="x", datatype="FP32", shape=(-1, 2), finite=finite),)
    encoder = fit_encoder(trained, tensor="x", features=128)
    told = summarize_input(planned_figures(inputs)[0], list(trained), every=True)
    data, blobs = small_release(
        inputs=inputs, outputs=(Tensor(name="y", datatype="FP32", shape=(-1, 2)),), labels=("ok", "worn")
    )
    profile = encode_profile(TrainingProfile(inputs=(told,), names={"x": NAMES}))
    files = [*blobs.values(), encode_encoder(encoder), encode_sketch(sketch(encoder, trained)), profile]
    (folder / "blobs").mkdir(parents=True)
    for blob in files:
        (folder / "blobs" / blob_of(blob).sha256).write_bytes(blob)
    encoded, reference, profile = files[-3:]
    drift = SketchRef(sketch_id=sketch_id(encoder), encoder=blob_of(encoded), reference=blob_of(reference), margin=0.0)
    manifest = replace(decode_manifest(data), sketch=drift, profile=blob_of(profile))
    (folder / "manifest.json").write_bytes(encode_manifest(manifest))
    return manifest


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """The release's directory."""
    write_release(tmp_path / "release")
    return tmp_path / "release"


def write_csv(path: Path, heading: Iterable[object], rows: Iterable[Iterable[object]]) -> Path:
    """Write a CSV file."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(heading)
        writer.writerows(rows)
    return path


def history(
    path: Path,
    days: float,
    change: Callable[[str, float, np.ndarray], np.ndarray] = lambda name, day, row: row,
    *,
    every: int = 240,
    devices: int = 3,
) -> Path:
    """A history of machines with a row every four minutes, which `change` may change by the machine and the day."""
    random = np.random.default_rng(3)

    def rows() -> Iterable[Iterable[object]]:
        for second in range(0, int(days * 86_400), every):
            for number in range(devices):
                name = f"m{number}"
                values = change(name, second / 86_400, random.normal(USUAL, SPREAD))
                yield BEGAN + second, name, "north", *(f"{value:.4f}" for value in values)

    return write_csv(path, ["time", "machine", "site", *NAMES], rows())
