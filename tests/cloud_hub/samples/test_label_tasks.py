"""Samples go to Label Studio and come back, for every task; a spreadsheet holds them, and many are read at a time."""

from __future__ import annotations

import base64
import csv
import io
import json
import wave
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree as Xml

import numpy as np
import pytest

from cloud_hub.samples import labelling, store
from cloud_hub.store.tables import Model, SampleRow
from fleet.cli import label_tasks
from fleet.cli.main import run
from fleet.cli.session import Session
from fleet.protocol.manifest import Tensor
from fleet.protocol.messages import Sample
from fleet.protocol.task import TaskSpec, task_capability
from fleet.protocol.tensors import to_array
from tests.fleet.client.test_real_hub import AppTransport
from tests.support import shown_samples
from tests.support.hub import START, HubFixture
from tests.support.shown_samples import FOUND, HEIGHT, KINDS, RATE, ROAD, SPEECH, WIDTH

Fleet = Callable[..., tuple[int, Any]]
CLASSES = ("7", "a & b", "cat")  # names that are numbers, and that XML has to escape
SERIES, TABLE = np.linspace(-1, 1, 40, dtype=np.float32)[None], np.array([[21.5, 3.25]], np.float32)


@pytest.fixture
def transport(hub: HubFixture) -> AppTransport:
    return AppTransport(hub.client)


@pytest.fixture
def fleet(hub: HubFixture, transport: AppTransport, capsys: pytest.CaptureFixture[str]) -> Fleet:
    def call(*arguments: str) -> tuple[int, Any]:
        environment = {"EDGELOOP_HUB": "http://hub", "EDGELOOP_TOKEN": hub.admin_token}
        session = Session(environment, connect=lambda login: transport)
        capsys.readouterr()
        code = run([*arguments, "--json"], session)
        told = capsys.readouterr()
        return code, json.loads(told.out) if told.out else told.err

    return call


def lay(
    hub: HubFixture,
    task: TaskSpec,
    inputs: Mapping[str, np.ndarray],
    outputs: Mapping[str, np.ndarray],
    labels: tuple[str, ...] = (),
    count: int = 1,
) -> None:
    """A model `m` of a task, and samples m-0, m-1, … of one device with these inputs and outputs."""
    hub.model("m")
    hub.release(
        "m",
        labels=labels,
        task=task,
        requires=(task_capability(task.name),),
        cloud=None,
        inputs=tuple(Tensor(name=n, datatype="FP32", shape=(-1, *a.shape[1:])) for n, a in inputs.items()),
        outputs=tuple(Tensor(name=n, datatype="FP32", shape=(-1, *a.shape[1:])) for n, a in outputs.items()),
    )
    samples = [
        Sample(
            id=f"m-{number}",
            model="m",
            release=1,
            variant="v",
            at=START + number,
            reason="random",
            inputs=tuple(to_array(name, array) for name, array in inputs.items()),
            outputs=tuple(to_array(name, array) for name, array in outputs.items()),
            confidence=0.5,
            prediction=-1,
        )
        for number in range(count)
    ]
    store.commit(hub.hub, "kiosk-1", samples)


def exported(fleet: Fleet, folder: Path, model: str) -> tuple[list[Any], Xml.Element]:
    out = folder / "tasks.json"
    code, told = fleet("sample", "export", "--model", model, "--format", "label-studio", "--out", str(out))
    assert (code, told["config"]) == (0, str(folder / "tasks.xml"))
    return json.loads(out.read_text()), Xml.parse(folder / "tasks.xml").getroot()


def sent_back(fleet: Fleet, folder: Path, tasks: list[Any], *results: list[Any]) -> tuple[int, Any]:
    file = folder / "project.json"
    for task, result in zip(tasks, results, strict=True):
        task["annotations"] = [{"result": result, "was_cancelled": False}]
    file.write_text(json.dumps(tasks))
    return fleet("sample", "import", str(file), "--format", "label-studio", "--by", "ada")


def label(hub: HubFixture, sample: str) -> Any:
    with hub.hub.reading() as session:
        return session.get_one(SampleRow, sample).label


def chosen(*names: str) -> Any:
    return {"type": "choices", "from_name": "label", "value": {"choices": list(names)}}


def number(name: str, value: float) -> Any:
    return {"type": "number", "from_name": name, "value": {"number": value}}


def text(value: str) -> Any:
    return {"type": "textarea", "from_name": "words", "value": {"text": [value]}}


def rectangle(kind: str, *sides: float, **more: Any) -> Any:
    value = dict(zip(("x", "y", "width", "height"), sides, strict=True))
    return {"type": "rectanglelabels", "value": {**value, "rotation": 0, "rectanglelabels": [kind], **more}}


SCORES = {"scores": np.array([[0.1, 0.7, 0.9]], np.float32)}


class Case(NamedTuple):
    """A task with the outputs and classes of its model; results that are the label `kept`, and bad ones."""

    task: TaskSpec
    outputs: Mapping[str, np.ndarray]
    classes: tuple[str, ...]
    good: list[Any]
    kept: Any
    bad: list[Any]
    why: str


CASES = [
    Case(TaskSpec(name="classification"), SCORES, CLASSES, [chosen("7")], 0, [chosen("dog")], "'dog' is no label"),
    Case(TaskSpec(name="multi-label"), SCORES, CLASSES, [chosen("cat", "7")], [0, 2], [chosen("8")], "'8' is no label"),
    Case(TaskSpec(name="multi-label"), SCORES, CLASSES, [], [], [number("v", 1)], "choices are"),
    Case(
        TaskSpec(name="regression", tolerance=0.5, high=9.0),
        {"wear": np.array([[2.5]], np.float32)},
        (),
        [number("value", 3.25)],
        3.25,
        [number("value", 10)],
        "10 is no label of a regression",
    ),
    Case(
        TaskSpec(name="regression", tolerance=0.5),
        {"place": np.array([[2.5, -1.0]], np.float32)},
        (),
        [number("value_2", -4), number("value_1", 3)],
        [3.0, -4.0],
        [number("value_1", 3)],
        "a label has 2 numbers, value_1, value_2; this has value_1",
    ),
    Case(
        TaskSpec(name="anomaly-score", threshold=0.5),
        {"score": np.array([[0.7]], np.float32)},
        (),
        [chosen("anomaly")],
        1,
        [chosen("strange")],
        "'strange' is neither usual nor anomaly",
    ),
    Case(
        TaskSpec(name="embedding"),
        {"vector": np.ones((1, 4), np.float32)},
        (),
        [text("Ada's voice")],
        "Ada's voice",
        [text(" ")],
        "its text is not one that was submitted",
    ),
    Case(
        TaskSpec(name="custom", agreement="equal"),
        {"out": np.ones((1, 4), np.float32)},
        (),
        [text('{"grid": [1, 2]}')],
        {"grid": [1, 2]},
        [text("{")],
        "this is not JSON",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.task.name} {len(case.good)}")
def test_a_label_of_every_task_comes_back_and_a_wrong_one_is_named(
    hub: HubFixture, fleet: Fleet, tmp_path: Path, case: Case
) -> None:
    lay(hub, case.task, {"flow": SERIES}, case.outputs, case.classes, count=2)
    tasks, config = exported(fleet, tmp_path, "m")
    controls = {one.get("name") for one in config.iter() if one.get("toName") == "input"}
    assert {one["from_name"] for one in case.good} <= controls, "the configuration has the controls that are read"
    code, told = sent_back(fleet, tmp_path, tasks, case.good, case.bad)
    assert (code, told["labelled"]) == (1, 1)
    assert case.why in told["refused"][0]
    assert label(hub, "m-0") == case.kept and label(hub, "m-1") is None


def test_boxes_are_drawn_on_the_picture_and_come_back_in_the_models_unit(
    hub: HubFixture, fleet: Fleet, tmp_path: Path
) -> None:
    shown_samples.detections(hub, ROAD)
    tasks, config = exported(fleet, tmp_path, ROAD)
    assert [one.get("value") for one in config.iter("Label")] == list(KINDS)
    assert all(one["data"]["image"].startswith("data:image/png;base64,iVBOR") for one in tasks)
    x1, y1, x2, y2 = FOUND
    drawn = [100 * x1 / WIDTH, 100 * y1 / HEIGHT, 100 * (x2 - x1) / WIDTH, 100 * (y2 - y1) / HEIGHT]
    turned = rectangle("car", *drawn, rotation=30)
    code, told = sent_back(fleet, tmp_path, tasks, [rectangle("person", *drawn)], [], [turned])
    assert (code, told["labelled"]) == (1, 2) and "turned by 30 degrees" in told["refused"][0]
    names = [task["data"]["sample"] for task in tasks]
    assert label(hub, names[0]) == [{"box": pytest.approx(list(FOUND)), "class": 1}]
    assert label(hub, names[1]) == [] and label(hub, names[2]) is None


def test_boxes_as_shares_come_back_as_shares(hub: HubFixture, fleet: Fleet, tmp_path: Path) -> None:
    shown_samples.detections(hub, ROAD, scale=(WIDTH, HEIGHT))
    tasks, _ = exported(fleet, tmp_path, ROAD)
    code, _ = sent_back(fleet, tmp_path, tasks[:1], [rectangle("car", 10, 20, 30, 40)])
    assert code == 0
    assert label(hub, tasks[0]["data"]["sample"]) == [{"box": pytest.approx([0.1, 0.2, 0.4, 0.6]), "class": 0}]


def test_boxes_whose_unit_nobody_knows_are_not_drawn(hub: HubFixture, fleet: Fleet, tmp_path: Path) -> None:
    shown_samples.detections(hub, ROAD, found=False)
    wanted = ("sample", "export", "--model", ROAD, "--format", "label-studio", "--out", str(tmp_path / "t.json"))
    code, told = fleet(*wanted)
    assert code != 0 and "nothing" not in told and '{"samples": {"boxes": "pixels"}}' in told
    with hub.hub.session() as session:
        session.get_one(Model, ROAD).policy = {"samples": {"boxes": "share"}}
    assert fleet(*wanted)[0] == 0


def test_a_sound_is_played(hub: HubFixture, fleet: Fleet, tmp_path: Path) -> None:
    shown_samples.lay(hub)
    tasks, config = exported(fleet, tmp_path, SPEECH)
    assert [one.get("value") for one in config.iter("Audio")] == ["$sound"]
    kind, _, data = tasks[0]["data"]["sound"].partition(";base64,")
    with wave.open(io.BytesIO(base64.b64decode(data))) as file:
        assert kind == "data:audio/wav" and file.getframerate() == file.getnframes() == RATE
    assert sent_back(fleet, tmp_path, tasks[:1], [chosen("noise")])[1]["labelled"] == 1


@pytest.mark.parametrize(
    ("inputs", "kind", "shown"),
    [
        ({"flow": SERIES}, "TimeSeries", lambda data: data["series"]["channel_1"][0] == -1.0),
        ({"sensors": TABLE}, "Table", lambda data: data["table"] == {"sensors 1": "21.5", "sensors 2": "3.25"}),
        ({"flow": SERIES, "sensors": TABLE}, "TimeSeries", lambda data: "sensors: 21.5, 3.25" in data["text"]),
    ],
    ids=["over time", "table", "several inputs"],
)
def test_what_is_no_picture_is_shown_as_what_it_is(
    hub: HubFixture, fleet: Fleet, tmp_path: Path, inputs: Any, kind: str, shown: Any
) -> None:
    lay(hub, TaskSpec(name="multi-label"), inputs, SCORES, CLASSES)
    tasks, config = exported(fleet, tmp_path, "m")
    assert [one.get("name") for one in config.iter(kind)] == ["input"]
    assert shown(tasks[0]["data"])
    channels = [one.get("column") for one in config.iter("Channel")]
    assert set(channels) == set(tasks[0]["data"].get("series", {})) - {"time"}


def sheet(fleet: Fleet, folder: Path, model: str) -> list[dict[str, str]]:
    out = folder / "tasks.csv"
    assert fleet("sample", "export", "--model", model, "--format", "csv", "--out", str(out))[0] == 0
    return list(csv.DictReader(out.open(newline="")))


def test_a_spreadsheet_says_a_detection_as_a_label_would_be(hub: HubFixture, fleet: Fleet, tmp_path: Path) -> None:
    shown_samples.detections(hub, ROAD)
    row = sheet(fleet, tmp_path, ROAD)[0]
    assert json.loads(row["edge said"]) == [{"box": list(FOUND), "class": "car"}]
    file = tmp_path / "filled.csv"
    with file.open("w", newline="") as out:
        csv.writer(out).writerows([("sample", "label"), (row["sample"], row["edge said"])])
    assert fleet("sample", "import", str(file), "--format", "csv")[1]["labelled"] == 1
    assert label(hub, row["sample"]) == [{"box": list(FOUND), "class": 0}]


def test_a_spreadsheet_has_all_values_that_a_cell_holds(hub: HubFixture, fleet: Fleet, tmp_path: Path) -> None:
    values = np.arange(2000, dtype=np.float32)[None]
    lay(hub, TaskSpec(name="multi-label"), {"flow": values}, SCORES, CLASSES)
    (row,) = sheet(fleet, tmp_path, "m")
    assert row["inputs"] == "flow: " + ", ".join(str(value) for value in range(2000))
    assert json.loads(row["edge said"]) == ["a & b", "cat"]


def test_inputs_that_no_cell_holds_are_counted(
    hub: HubFixture, fleet: Fleet, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labelling, "CELL", 50)
    said: list[str] = []
    monkeypatch.setattr("fleet.cli.sample.print_note", said.append)
    lay(hub, TaskSpec(name="multi-label"), {"flow": SERIES}, SCORES, CLASSES, count=2)
    rows = sheet(fleet, tmp_path, "m")
    assert all(len(row["inputs"]) == 50 and row["inputs"].endswith("…") for row in rows)
    assert said == ["inputs of 2 samples are more than a cell holds, and end with …: --format parquet has all"]


def test_many_samples_are_read_by_few_requests(
    hub: HubFixture, fleet: Fleet, transport: AppTransport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(hub, TaskSpec(name="multi-label"), {"flow": SERIES}, SCORES, CLASSES, count=450)
    asked: list[str] = []
    send = transport.send
    monkeypatch.setattr(
        transport, "send", lambda method, path, *a, **k: asked.append(path) or send(method, path, *a, **k)
    )
    assert len(sheet(fleet, tmp_path, "m")) == 450
    assert sum("tasks" in path for path in asked) == 3 and len(asked) < 12


def test_what_one_answer_cannot_hold_is_asked_for_again(
    hub: HubFixture, fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labelling, "MOST_BYTES", 300)
    lay(hub, TaskSpec(name="multi-label"), {"flow": SERIES}, SCORES, CLASSES, count=7)
    assert [row["sample"] for row in sheet(fleet, tmp_path, "m")] == [f"m-{place}" for place in range(7)]


def test_samples_that_are_gone_meanwhile_are_counted(
    hub: HubFixture, fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(hub, TaskSpec(name="multi-label"), {"flow": SERIES}, SCORES, CLASSES, count=3)
    batches = label_tasks._batches

    def late(samples: Any) -> Any:
        for batch in batches(samples):
            store.delete(hub.hub, [store.get(hub.hub, "m-1")], actor="test")
            yield batch

    monkeypatch.setattr(label_tasks, "_batches", late)
    out = tmp_path / "t.csv"
    told = fleet("sample", "export", "--model", "m", "--format", "csv", "--out", str(out))[1]
    assert (told["samples"], told["gone"]) == (2, 1)
