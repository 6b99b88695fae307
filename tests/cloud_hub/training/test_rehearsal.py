"""`fleet recipe check`: what a recipe lacks, in words, step by step, without a hub."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cloud_hub.errors import HubError
from cloud_hub.training.cli import main
from cloud_hub.training.recipe import load_recipe
from cloud_hub.training.rehearsal import rehearse
from cloud_hub.training.run import run_training as run_recipe
from cloud_hub.training.run_request import RunRequest
from fleet.cli import recipe as command
from fleet.cli.main import run
from fleet.cli.session import Session
from tests.cloud_hub.training.test_names import MACHINES


def written(folder: Path, old: str = "", new: str = "") -> str:
    assert old in MACHINES
    (folder / "r.py").write_text(MACHINES.replace(old, new) if old else MACHINES)
    return str(folder / "r.py")


def test_a_good_recipe_goes_through_every_step(tmp_path: Path) -> None:
    steps = list(rehearse(load_recipe(written(tmp_path)), tmp_path / "out"))
    assert [step.name for step in steps] == ["data and networks", "teacher", "student", "retrain", "metric", "export"]
    assert all(step.passed for step in steps)
    assert "train 300 rows" in steps[0].words and "inputs sensors float32 [n, 4]; outputs logits [2]" in steps[0].words


def test_a_loss_of_what_only_training_answers_holds_in_a_retrain_too(tmp_path: Path) -> None:
    """A retrain's student starts from the weights of the release before, and asks the loss which of them matter."""
    file = Path(written(tmp_path, "        return self.layers(sensors)", TELLING))
    file.write_text(file.read_text().replace("hyper=Hyper(", "loss=loss, hyper=Hyper("))
    file.write_text(file.read_text().replace("def rows(", LOSS + "def rows("))
    assert [step.words for step in rehearse(load_recipe(str(file)), tmp_path / "out") if not step.passed] == []


def test_a_step_is_named_before_its_work_begins(tmp_path: Path) -> None:
    """A job that fails in it would name the step before."""
    seen: list[tuple[str, float]] = []
    quick = written(tmp_path, "teacher_epochs=40, student_epochs=30", "teacher_epochs=1, student_epochs=1")
    run_recipe(
        RunRequest(load_recipe(quick), tmp_path / "out", progress=lambda step, share: seen.append((step, share)))
    )
    begun = [step for step, share in seen if share == 0.0]
    assert begun == ["training the teacher", "distilling the student", "writing"]


TELLING = """
        found = self.layers(sensors)
        return {"logits": found, "raw": found} if self.training else {"logits": found}
"""
LOSS = """
def loss(answer, batch):
    found = answer["raw"] if isinstance(answer, dict) else answer
    return nn.functional.cross_entropy(found[batch.known], batch.y[batch.known])

"""
BROKEN = [
    ("nn.Linear(4, hidden)", "nn.Linear(5, hidden)", "data and networks", "does not run on the data"),
    (
        "(x[:, 0] > x[:, 1])",
        "(x[:, 0] > 9) + 7 * (x[:, 1] > 0)",
        "data and networks",
        "none of the task classification",
    ),
    ("teacher=lambda: Teacher(16)", "teacher=lambda: 1 / 0", "data and networks", "ZeroDivisionError in line"),
    ("hyper=Hyper(", "metric='telepathy', hyper=Hyper(", "data and networks", "unknown metric 'telepathy'"),
    ("hyper=Hyper(", "loss=lambda answer, batch: answer.nope, hyper=Hyper(", "teacher", "AttributeError in line"),
]


@pytest.mark.parametrize(("old", "new", "step", "words"), BROKEN, ids=[words for *_, words in BROKEN])
def test_the_first_step_that_fails_says_why(tmp_path: Path, old: str, new: str, step: str, words: str) -> None:
    last = list(rehearse(load_recipe(written(tmp_path, old, new)), tmp_path / "out"))[-1]
    assert (last.name, last.passed) == (step, False) and words in last.words and last.hint


def test_the_command_says_each_step_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path)
    main([file, "--check"])
    assert f"{file} is ready" in capsys.readouterr().out
    main([file, "--check", "--json"])
    assert json.loads(capsys.readouterr().out)["steps"][-1]["name"] == "export"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.py"]
    with pytest.raises(HubError, match="data and networks: the recipe"):
        main([written(tmp_path, "nn.Linear(4, hidden)", "nn.Linear(5, hidden)"), "--check"])
    with pytest.raises(HubError, match="--out is missing"):
        main([file])


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        ("import sys; sys.exit(7)", 7, ""),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", 1, "ended by signal 11"),
        ("import time; time.sleep(60)", 1, "had not ended after 0.5 s"),
    ],
)
def test_fleet_runs_it_in_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], body: str, code: int, words: str
) -> None:
    file, spawn = written(tmp_path), command.subprocess.run
    asked: list[list[str]] = []

    def stand_in(arguments: list[str], **more: object) -> object:
        asked.append(arguments)
        return spawn([arguments[0], "-c", body], **more)  # type: ignore[call-overload]

    monkeypatch.setattr(command.subprocess, "run", stand_in)
    arguments = ["recipe", "check", file, "--timeout", "0.5" if "sleep" in body else "60"]
    assert run(arguments, Session({})) == code and words in capfd.readouterr().err
    assert asked[0][1:] == ["-m", "cloud_hub", "train", file, "--check"]
    assert run(["recipe", "check", str(tmp_path / "none.py")], Session({})) == 1
