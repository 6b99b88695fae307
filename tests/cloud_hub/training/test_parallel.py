"""Two processes under torchrun train what one process trains: the same losses, and one set of files."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from cloud_hub.errors import InvalidError
from cloud_hub.training import parallel
from cloud_hub.training.cli import main as train
from cloud_hub.training.parallel import Share
from cloud_hub.training.recipe import LoadedRecipe, Recipe
from cloud_hub.training.run import run_training
from cloud_hub.training.run_request import RunRequest

ROOT = Path(__file__).resolve().parents[3]
RECIPE = """
import os
import numpy as np
import torch
from torch import nn
from cloud_hub.training.recipe import Examples, Hyper, Recipe, Sets

class Net(nn.Module):
    def __init__(self, hidden=8):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 2))
        if os.environ.get("RANK", "0") != "0":  # as weights that are drawn without a seed
            nn.init.ones_(self.layers[0].weight)

    def forward(self, x):
        return self.layers(x)

def rows(count, seed):
    x = np.random.default_rng(seed).normal(size=(count, 4)).astype(np.float32)
    return Examples({"x": x}, (x[:, 0] > 0).astype(np.int64))

def noisy(x, generator):
    return x + 0.1 * torch.randn(x.shape, generator=generator)

RECIPE = Recipe(
    data=lambda: Sets(rows(65, 1), rows(20, 2), rows(20, 3), rows(20, 4)), student=Net, augment=noisy,
    targets=("onnx-fp32",), hyper=Hyper(student_epochs=12, student_rate=0.02, batch=16),
)
"""


def losses_in(said: str) -> list[float]:
    """Of each epoch."""
    return [float(found) for found in re.findall(r"loss (\S+)", said)]


def test_two_processes_train_what_one_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.py"
    recipe.write_text(RECIPE)
    torch.set_num_threads(1)
    train([str(recipe), "--out", str(tmp_path / "one")])
    alone = losses_in(capsys.readouterr().err)
    command = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "cloud_hub", "train", str(recipe)]
    done = subprocess.run(
        [sys.executable, "-m", *command, "--out", str(tmp_path / "two"), "--json"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=250,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(alone) == 12 and alone[-1] < 0.7 * alone[0]
    # Of 65 rows the last batch has one, so that the second process has none of it.
    assert losses_in(done.stderr) == pytest.approx(alone, rel=2e-3)
    one, two = (load_file(tmp_path / out / "student.safetensors") for out in ("one", "two"))
    for name, array in one.items():
        np.testing.assert_allclose(two[name], array, atol=1e-4)
    (said,) = done.stdout.strip().splitlines()  # the first process speaks, and writes
    assert json.loads(said)["metrics"]["student"] >= 0.8


def test_a_share_is_every_other_row_and_all_shares_are_the_batch() -> None:
    rows = torch.arange(7)
    parts = [Share(number, 3).of(rows).tolist() for number in range(3)]
    assert parts == [[0, 3, 6], [1, 4], [2, 5]]
    # Batch statistics of one row are none, so the first takes a short batch alone.
    assert [Share(number, 3).of(rows[:5]).tolist() for number in range(3)] == [[0, 1, 2, 3, 4], [], []]
    assert [Share(number, 3).of(rows[:6]).tolist() for number in range(3)] == [[0, 3], [1, 4], [2, 5]]
    assert Share().of(rows).tolist() == rows.tolist() and Share().first and not Share(1, 3).first


def test_a_recipe_s_own_fit_is_refused_by_several_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*given: object) -> Any:
        raise AssertionError("it is refused before")

    monkeypatch.setattr(parallel, "process_share", lambda: Share(1, 2))
    request = RunRequest(LoadedRecipe("r", "0" * 64, Recipe(data=never, fit=never)), tmp_path)
    with pytest.raises(InvalidError, match="torchrun started 2 processes"):
        run_training(request)


def test_processes_that_share_a_gpu_talk_by_gloo() -> None:
    assert [parallel.backend(*machine) for machine in ((2, 2), (8, 2), (1, 2), (0, 1))] == [
        "nccl",
        "nccl",
        "gloo",
        "gloo",
    ]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_precision_is_asked_for(precision: str) -> None:
    from cloud_hub.training.fitting import FitSettings, accuracy, fit_network
    from cloud_hub.training.recipe import Examples

    torch.manual_seed(0)
    seen = []

    class Net(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            answer = super().forward(x)
            seen.append(answer.dtype)
            return answer

    x = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    data = Examples(x, (x[:, 0] > 0).astype(np.int64))
    made = fit_network(Net(4, 2), data, FitSettings(20, 16, 0.02, 0.0, 1, precision=precision))
    assert set(seen) == {torch.bfloat16 if precision == "bf16" else torch.float32}
    assert accuracy(made, data) > 0.9 and made.weight.dtype == torch.float32
