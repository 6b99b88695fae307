"""A model of two inputs that answers a number: train, compile, publish, serve, label, retrain, rollout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cloud_hub.store.tables import ChannelRow, RolloutRow
from cloud_hub.training.cli import main as train
from fleet.protocol.channel import decode_channel
from fleet.protocol.task import TaskSpec
from model_compiler.inputs.dataset import load_dataset
from tests.support.commands import call
from tests.support.hub import HubFixture
from tests.support.loop import DeviceOf, Rows, create, manifest_of, publish, retrain

torch.set_num_threads(1)
SIZES = {"torque": 3, "speed": 2}

WEAR = '''
"""Tool wear in hundredths of a millimetre, of torque (n, 3) and speed (n, 2)."""
import numpy as np
import torch
from torch import nn
from cloud_hub.training.recipe import Examples, Hyper, Recipe, Sets

class Wear(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, speed, torque):
        return {"wear": self.layers(torch.cat([torque, speed], dim=1))}

def rows(count, seed):
    random = np.random.default_rng(seed)
    x = {"torque": random.normal(size=(count, 3)), "speed": random.normal(size=(count, 2))}
    x = {name: array.astype(np.float32) for name, array in x.items()}
    return Examples(x, 2 * x["torque"][:, 0] - x["speed"][:, 1])

RECIPE = Recipe(
    data=lambda: Sets(rows(300, 1), rows(60, 2), rows(80, 3), rows(80, 4)), task="regression:tolerance=0.5",
    teacher=lambda: Wear(32), student=lambda: Wear(16), targets=("onnx-fp32",), warm=True,
    hyper=Hyper(teacher_epochs=40, student_epochs=40, teacher_rate=0.02, student_rate=0.02, batch=32),
)
'''


def right(x: Rows) -> float:
    return float(2 * x["torque"][0, 0] - x["speed"][0, 1])


@pytest.fixture
def wear(hub: HubFixture, tmp_path: Path) -> HubFixture:
    """The model `wear` with its recipe, and release 1 from `cloud-hub train` and `model-compiler compile`."""
    path = create(hub, "wear", WEAR)
    trained = tmp_path / "trained"
    train([str(path), "--out", str(trained)])
    command = [
        "compile",
        trained / "student.pt2",
        "--cloud",
        trained / "teacher.onnx",
        "--task",
        "regression:tolerance=0.5",
        "--calibration",
        trained / "calibration.npz",
        "--validation",
        trained / "validation.npz",
        "--target",
        "onnx-fp32",
        "--out",
        tmp_path / "release",
    ]
    done = call("model-compiler", *command)
    assert done.returncode == 0, done.stderr
    publish(hub, tmp_path / "release", "wear")
    return hub


def test_a_regression_goes_round_the_whole_loop(
    wear: HubFixture, tmp_path: Path, device_of: DeviceOf, capsys: pytest.CaptureFixture[str]
) -> None:
    first = manifest_of(wear, "wear", 1)
    assert first.named_task == TaskSpec(name="regression", tolerance=0.5) and first.requires == ("task:regression",)
    assert [t.name for t in (*first.inputs, *first.outputs)] == ["torque", "speed", "wear"]
    device = device_of(wear, "wear")

    # what the verdict says is what the served release does
    data = load_dataset(tmp_path / "trained" / "validation.npz")
    served = device.serve(1, data.inputs)["wear"]
    verdict = first.placed("edge")[0].verdict
    assert (verdict.metric, verdict.higher_is_better) == ("rmse", False)
    assert verdict.value == pytest.approx(float(np.sqrt(((served[:, 0] - data.labels) ** 2).mean())), rel=1e-4)

    assert device.label(right) == len(data)  # they are in the recipe's validation set, and teach nothing
    fresh = {name: np.random.default_rng(7).normal(size=(48, n)).astype(np.float32) for name, n in SIZES.items()}
    device.serve(1, fresh)
    assert device.label(right) == 48

    answer = wear.client.put("/api/v1/channels/stable/models/wear", json={"release": 1}, headers=wear.auth())
    assert answer.status_code == 200, answer.text
    capsys.readouterr()
    job = retrain(
        wear, "wear", channel="stable", rollout={"stages": [50, 100], "guard": {"evidence": "install"}}, seed=1
    )
    assert job.state == "succeeded", job.error
    said = capsys.readouterr().err  # release 1 was made by hand: the weights are those of its own files
    assert "teacher: warm start" in said and "student: warm start" in said
    assert job.result["gate_labels"] == 12 and job.result["gate_new"] > 0.5 and job.result["gate_release"] == 1
    second = manifest_of(wear, "wear", 2)
    assert (second.inputs, second.outputs, second.named_task) == (first.inputs, first.outputs, first.named_task)
    assert second.placed("edge")[0].verdict.metric == "rmse"
    with wear.hub.reading() as session:
        channel = decode_channel(session.get(ChannelRow, "stable").document).models["wear"]
        rollout = session.get(RolloutRow, job.result["rollout"])
    assert (channel.audit.auditor, rollout.state, rollout.release) == (1, "running", 2)
    assert "12 held-out labels do not show" in job.result["auditor_why"], "so few are no evidence for an auditor"
    found = device.serve(2, data.inputs)["wear"]
    assert float(np.abs(found[:, 0] - data.labels).mean()) < 0.5
