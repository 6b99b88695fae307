"""`cloud-hub train`: snapshots by id or by file, and a bad release that its own data calls good."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cloud_hub.errors import HubError
from cloud_hub.samples import snapshots
from cloud_hub.samples.dataset import Dataset
from cloud_hub.training import parallel
from cloud_hub.training.cli import main
from cloud_hub.training.parallel import Share
from examples.digits import data
from fleet.protocol.manifest import decode_manifest
from tests.support.commands import call
from tests.support.hub import HubFixture

RECIPE = """
from dataclasses import replace
from examples.digits.recipe import RECIPE as FULL
RECIPE = replace(FULL, hyper=replace(FULL.hyper, teacher_epochs={epochs}, student_epochs={epochs}))
"""


def recipe(folder: Path, epochs: int) -> str:
    (folder / "quick.py").write_text(RECIPE.format(epochs=epochs))
    return str(folder / "quick.py")


def test_a_snapshot_is_named_by_id_or_by_file(hub: HubFixture, tmp_path: Path) -> None:
    x, y = data.splits(0)["traffic"]
    row = snapshots.save(hub.hub, "digits", Dataset({"x": x[:40]}, y[:40], np.arange(40).astype(str)), actor="test")
    file = tmp_path / "snapshot.npz"
    file.write_bytes(hub.hub.objects.get(row.path).data)
    quick = recipe(tmp_path, 1)
    main([quick, "--out", str(tmp_path / "a"), "--hub", str(hub.hub.config.directory), "--snapshot", row.id])
    main([quick, "--out", str(tmp_path / "b"), "--snapshot", str(file)])
    lineages = [json.loads((tmp_path / name / "lineage.json").read_bytes()) for name in "ab"]
    assert lineages[0]["snapshot"] == lineages[1]["snapshot"] == row.id
    assert (tmp_path / "a" / "metrics.json").read_bytes() == (tmp_path / "b" / "metrics.json").read_bytes()
    main([quick, "--data-only", "--out", str(tmp_path / "rows"), "--snapshot", str(file)])
    assert sorted(path.name for path in (tmp_path / "rows").iterdir()) == ["calibration.npz", "validation.npz"]
    for name in ("calibration.npz", "validation.npz"):
        assert (tmp_path / "rows" / name).read_bytes() == (tmp_path / "a" / name).read_bytes(), "the verdict's rows"
    before = (tmp_path / "a" / "validation.npz").read_bytes()
    with pytest.raises(HubError, match=r"has the lineage.json of a run already"):
        main([quick, "--data-only", "--out", str(tmp_path / "a"), "--seed", "9"])
    assert (tmp_path / "a" / "validation.npz").read_bytes() == before
    with pytest.raises(HubError, match="no snapshot"):
        main([quick, "--out", str(tmp_path / "c"), "--hub", str(hub.hub.config.directory), "--snapshot", "0" * 64])


def test_a_check_writes_no_data(tmp_path: Path) -> None:
    with pytest.raises(HubError, match="--check and --data-only exclude each other"):
        main([recipe(tmp_path, 1), "--check", "--data-only", "--out", str(tmp_path / "rows")])


def test_only_the_first_of_several_processes_writes_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "process_share", lambda: Share(1, 2))
    main([recipe(tmp_path, 1), "--data-only", "--out", str(tmp_path / "rows")])
    assert not (tmp_path / "rows").exists()


def test_swapped_labels_pass_their_own_gate_and_fail_the_exam(tmp_path: Path) -> None:
    out, quick = tmp_path / "bad", recipe(tmp_path, 40)
    main([quick, "--out", str(out), "--swap-labels", "3,8"])
    done = call(
        "model-compiler",
        "compile",
        out / "student.pt2",
        "--cloud",
        out / "teacher.onnx",
        "--max-drop",
        5,
        "--calibration",
        out / "calibration.npz",
        "--validation",
        out / "validation.npz",
        "--target",
        "litert-int8",
        "--target",
        "litert-fp32",
        "--out",
        tmp_path / "release",
    )
    assert done.returncode == 0, done.stderr
    manifest = decode_manifest((tmp_path / "release" / "manifest.json").read_bytes())
    verdicts = {variant.name: variant.verdict for variant in manifest.variants}
    assert {"litert-int8", "litert-fp32"} <= set(verdicts)
    metrics = json.loads((out / "metrics.json").read_text())
    wrong = np.isin(data.splits(0)["exam"][1], (3, 8)).mean()
    assert metrics["student"] < 1 - 0.75 * wrong  # two classes in ten are wrong on the untouched exam
    assert all(found.value > metrics["student"] + wrong / 3 for found in verdicts.values())
