"""From what to label to labels: through the real application, by Label Studio's JSON and by CSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloud_hub.samples import store
from cloud_hub.store.tables import Alarm
from fleet.cli import label_tasks
from fleet.cli import sample as sample_command
from fleet.cli.main import run
from fleet.cli.session import Session
from fleet.protocol.messages import Sample
from fleet.protocol.tensors import to_array
from tests.fleet.client.test_real_hub import AppTransport
from tests.support.hub import START, HubFixture

Fleet = Callable[..., tuple[int, Any]]
RANDOM = np.random.default_rng(0)


def sample(number: int, x: np.ndarray, confidence: float, key: str = "", reason: str = "uncertain") -> Sample:
    return Sample(
        id=key or f"s{number}",
        model="digits",
        release=1,
        variant="v",
        at=START + number,
        reason=reason,
        inputs=(to_array("x", x),),
        outputs=(),
        confidence=confidence,
        prediction=1,
    )


@pytest.fixture
def fleet(hub: HubFixture, capsys: pytest.CaptureFixture[str]) -> Fleet:
    hub.model()
    hub.release(labels=("cat", "dog", *"23456789"))

    def call(*arguments: str) -> tuple[int, Any]:
        environment = {"EDGELOOP_HUB": "http://hub", "EDGELOOP_TOKEN": hub.admin_token}
        session = Session(environment, connect=lambda login: AppTransport(hub.client))
        capsys.readouterr()
        code = run([*arguments, "--json"], session)
        out = capsys.readouterr().out
        return code, json.loads(out) if out else None

    return call


def fill(hub: HubFixture) -> None:
    """Two devices: one with three frames of each of two scenes, one with a sample of its own."""
    scenes = RANDOM.random((3, 1, 8, 8)).astype(np.float32)
    frames = [
        sample(n, scenes[n % 2] + np.float32(1e-4) * RANDOM.random((1, 8, 8)).astype(np.float32), 0.9 - 0.1 * n)
        for n in range(6)
    ]
    store.commit(hub.hub, "kiosk-1", frames)
    store.commit(hub.hub, "kiosk-2", [sample(6, scenes[2], 0.95)])


def test_ranked_exported_to_label_studio_and_back(hub: HubFixture, fleet: Fleet, tmp_path: Path) -> None:
    fill(hub)
    code, found = fleet("sample", "rank", "--model", "digits")
    assert code == 0 and (found["candidates"], found["repeats"], found["unread"]) == (7, 4, 0)
    assert found["items"][0]["id"] == "s5"  # of the least confidence
    assert {item["id"] for item in found["items"]} == {"s4", "s5", "s6"}
    out = tmp_path / "tasks.json"
    wanted = ("sample", "export", "--model", "digits", "--format", "label-studio", "--ranked", "3", "--out", str(out))
    config = str(out.with_suffix(".xml"))
    assert fleet(*wanted) == (0, {"file": str(out), "samples": 3, "gone": 0, "config": config})
    tasks = json.loads(out.read_text())
    assert all(task["data"]["image"].startswith("data:image/png;base64,iVBOR") for task in tasks)
    for task, choice in zip(tasks, ("dog", "cow", "7"), strict=True):
        task["annotations"] = [{"result": [{"type": "choices", "value": {"choices": [choice]}}]}]
    tasks.append({**tasks[0], "data": {"sample": "absent"}})
    out.write_text(json.dumps(tasks))
    code, said = fleet("sample", "import", str(out), "--format", "label-studio", "--by", "ada")
    keys = [task["data"]["sample"] for task in tasks]
    assert code == 1 and (said["labelled"], said["untried"], len(said["refused"])) == (2, 0, 2)
    assert any("'cow' is no label" in why and "or a class name" in why for why in said["refused"])
    assert any("no sample absent" in why for why in said["refused"])
    assert [store.get(hub.hub, key).label for key in keys[:3]] == [1, None, 7]
    _, left = fleet("sample", "rank", "--model", "digits")
    assert [item["id"] for item in left["items"]] == [keys[1]]  # its scene is the one without a label


def test_csv_has_an_empty_column_and_rows_by_themselves(hub: HubFixture, fleet: Fleet, tmp_path: Path) -> None:
    numbers = [sample(n, np.full((1, 4), n, np.float32), 0.5) for n in range(3)]
    store.commit(hub.hub, "kiosk-1", numbers)
    store.commit(hub.hub, "kiosk-1", [sample(3, np.array([[b"=1+1"]], object), 0.5, key="text")])
    out = tmp_path / "tasks.csv"
    assert fleet("sample", "export", "--model", "digits", "--format", "csv", "--out", str(out))[1]["samples"] == 4
    heading, *rows = csv.reader(out.open(newline=""))
    assert heading[:2] == ["sample", "label"] and [row[1] for row in rows] == [""] * 4
    assert rows[1][-1] == "x: 1, 1, 1, 1" and rows[3][-1] == "'=1+1"
    rows[0][1], rows[1][1], rows[2][1] = "dog", "[1,", ""
    with out.open("w", newline="") as file:
        csv.writer(file).writerows([heading, *rows])
    code, said = fleet("sample", "import", str(out), "--format", "csv")
    assert code == 1 and (said["labelled"], said["without"]) == (1, 2)
    assert "line 3" in said["refused"][0]
    assert store.get(hub.hub, "s0").label == 1


def test_since_the_alarm(hub: HubFixture, fleet: Fleet) -> None:
    assert fleet("sample", "rank", "--model", "absent")[0] == 3
    assert fleet("sample", "rank", "--model", "digits") == (
        0,
        {"items": [], "candidates": 0, "repeats": 0, "random": 0, "unread": 0, "since": None},
    )
    fill(hub)
    assert fleet("sample", "rank", "--model", "digits", "--since-alarm")[0] == 3
    with hub.hub.session() as session:
        for at, status, since in ((1.0, "open", hub.clock() - 0.5), (2.0, "closed", 0.0)):
            session.add(Alarm(model="digits", release=1, at=START + at, status=status, detail={"since": since}))
    hub.clock.advance(10)
    later = [RANDOM.random((1, 8, 8)).astype(np.float32) for _ in range(2)]
    store.commit(hub.hub, "kiosk-1", [sample(20, later[0], 0.5), sample(21, later[1], 0.1, reason="random")])
    _, found = fleet("sample", "rank", "--model", "digits", "--since-alarm")
    assert "s20" in {item["id"] for item in found["items"]} and found["random"] == 1
    assert "s21" not in {item["id"] for item in found["items"]}  # how right the model is, its label says
    assert found["candidates"] == sum(START + n >= found["since"] for n in (*range(7), 20))


def test_no_device_crowds_the_others_out(hub: HubFixture, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    from cloud_hub.samples import ranking

    monkeypatch.setattr(ranking, "CANDIDATES", 4)
    store.commit(hub.hub, "kiosk-1", [sample(1, RANDOM.random((1, 8, 8)).astype(np.float32), 0.5)])
    hub.clock.advance(10)
    flood = [sample(n, RANDOM.random((1, 8, 8)).astype(np.float32), 0.0) for n in range(2, 30)]
    store.commit(hub.hub, "kiosk-2", flood)
    _, found = fleet("sample", "rank", "--model", "digits")
    assert found["candidates"] == 4 and "s1" in {item["id"] for item in found["items"]}


def test_a_long_export_says_how_far_it_is(
    hub: HubFixture, fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(hub)
    said: list[str] = []
    monkeypatch.setattr(label_tasks, "HEARD_EVERY", 3)
    monkeypatch.setattr(label_tasks, "MOST_TASKS", 3)
    monkeypatch.setattr(sample_command, "print_note", said.append)
    options = ("sample", "export", "--model", "digits", "--format", "csv", "--out", str(tmp_path / "t.csv"))
    assert fleet(*options)[1]["samples"] == 7
    assert said == ["3 samples so far; --ranked 50 writes only those that are worth a label most", "6 samples so far"]


@pytest.mark.parametrize("options", [("--ranked", "3"), ("--since-alarm",), ("--format", "csv", "--since-alarm")])
def test_options_that_do_not_go_together(fleet: Fleet, tmp_path: Path, options: tuple[str, ...]) -> None:
    assert fleet("sample", "export", "--model", "digits", "--out", str(tmp_path / "o"), *options)[0] == 2
