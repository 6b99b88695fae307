"""The examples' recipes are ready, and each learns what it is there for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cloud_hub.training.recipe import load_recipe
from cloud_hub.training.rehearsal import rehearse
from cloud_hub.training.run import run_training
from cloud_hub.training.run_request import RunRequest

torch.set_num_threads(1)
LEARNED: dict[str, Any] = {  # the exam's metric of a full run
    "regression": lambda rmse: rmse < 0.35,
    "anomaly": lambda auc: auc > 0.75,
    "detector": lambda precision: precision > 0.7,
    "keywords": lambda accuracy: accuracy > 0.9,
}


@pytest.mark.parametrize("name", LEARNED)
def test_an_example_is_ready_and_learns(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGELOOP_DATA", raising=False)
    loaded = load_recipe(f"examples.{name}.recipe")
    steps = list(rehearse(loaded, tmp_path / "dry"))
    assert [step.words for step in steps if not step.passed] == [] and steps[-1].name == "export"
    found = run_training(RunRequest(loaded, tmp_path / "out"))
    assert LEARNED[name](found["student"]), found
    assert (tmp_path / "out" / "front.txt").is_file() == (name == "keywords")  # its spectrogram
