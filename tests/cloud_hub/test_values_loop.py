"""The loop of a regression with two inputs on a real hub: windows, samples, labels, a snapshot, drift, the page."""

from __future__ import annotations

import contextlib
import html
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from msgspec import Raw
from msgspec.structs import replace
from sqlmodel import Session, select

from cloud_hub.context import Hub
from cloud_hub.drift import scope, truth
from cloud_hub.drift.engine import DriftEngine
from cloud_hub.drift.policy import DriftPolicy
from cloud_hub.ingest.ingestor import Ingestor, Message
from cloud_hub.ports import Stored
from cloud_hub.samples import snapshots, store
from cloud_hub.samples.dataset import stack
from cloud_hub.store import windows
from cloud_hub.store.tables import Alarm, Device, MeaningMonitor, Model, Release, WindowRow
from cloud_hub.trust.rows import label_task
from edge_agent.telemetry.windows import Builder, Key
from fleet.protocol import topics
from fleet.protocol.channel import Audit, ModelEntry
from fleet.protocol.codec import encode_msgpack
from fleet.protocol.manifest import Tensor, decode_manifest
from fleet.protocol.messages import Envelope, Sample
from fleet.protocol.task import NO_CLASS, TaskSpec
from fleet.protocol.tensors import to_array
from tests.support.acting import Person
from tests.support.hub import HubFixture, make_hub

INPUTS = (
    Tensor(name="wind", datatype="FP32", shape=(-1, 2)),
    Tensor(name="moon", datatype="FP32", shape=(-1, 1)),
)
OUTPUTS = (Tensor(name="tide", datatype="FP32", shape=(-1, 1)),)
TASK = TaskSpec(name="regression", tolerance=0.5, low=-10, high=10)
FIRST = 8  # windows, and labels, that make the release's record


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubFixture]:
    made = make_hub(Path(tmp_path_factory.mktemp("values")))
    made.model("tide")
    made.release("tide", labels=(), inputs=INPUTS, outputs=OUTPUTS, task=TASK, requires=("task:regression",))
    entry = ModelEntry(release=1, audit=Audit(auditor=1))
    made.hub.publisher.change_channel("stable", lambda channel: replace(channel, models={"tide": entry}), actor="t")
    with made.hub.session() as session:
        session.get_one(Model, "tide").policy = {"drift": {"baseline_windows": FIRST}}
        session.add(
            Device(
                id="buoy",
                public_key="-",
                key_fingerprint="f",
                certificate="-",
                certificate_serial="-",
                certificate_expires_at=0.0,
                channel="stable",
                enrolled_at=0.0,
            )
        )
    yield made
    made.hub.engine.dispose()


def send_windows(hub: HubFixture, count: int, *, agreeing: int, level: float) -> None:
    """Windows of twenty answers around `level` and ten audits each, as a device packs them."""
    random, sent = np.random.default_rng(count), []
    with hub.hub.reading() as session:
        before = len(session.exec(select(WindowRow.id)).all())
    for number in range(before, before + count):
        builder = Builder(Key("tide", 1, "litert-int8", 1), hub.clock(), 0, None)
        for value in random.normal(level, 1.0, 20):
            builder.request(0.001, ("edge",))
            builder.scores((), (), ((float(value),),))
        builder.audited([place < agreeing for place in range(10)], [])
        hub.clock.advance(60)
        body = encode_msgpack(builder.close(hub.clock()))
        envelope = Envelope(
            device="buoy", spool="s", seq=number + 1, base=1, at=hub.clock(), kind="window", body=Raw(body)
        )
        sent.append(Message(topics.uplink("buoy", "telemetry"), encode_msgpack(envelope)))
    Ingestor(hub.hub).take(sent)


def send_samples(hub: HubFixture, ids: range, *, level: float) -> list[str]:
    samples = [
        Sample(
            id=f"s{number:03d}",
            model="tide",
            release=1,
            variant="v",
            at=hub.clock(),
            reason="random",
            inputs=(
                to_array("moon", np.full((1, 1), number, np.float32)),
                to_array("wind", np.full((1, 2), -number, np.float32)),
            ),
            outputs=(to_array("tide", np.full((1, 1), level, np.float32)),),
            confidence=0.0,
            prediction=NO_CLASS,
        )
        for number in ids
    ]
    return list(store.commit(hub.hub, "buoy", samples))


def put(hub: HubFixture, labels: dict[str, object]) -> tuple[int, str]:
    hub.clock.advance(1)
    body = {"labels": [{"id": key, "label": value} for key, value in labels.items()], "by": "ada"}
    answer = hub.client.post("/api/v1/samples/labels", json=body, headers=hub.auth())
    return answer.status_code, answer.text


def status(hub: HubFixture) -> dict:
    DriftEngine(hub.hub).look()
    items = hub.client.get("/api/v1/drift", headers=hub.auth()).json()["items"]
    (found,) = [item for item in items if item["default"]]
    return dict(found)


def page(hub: HubFixture, path: str = "/models") -> str:
    hub.client.post("/login", data={"token": hub.admin_token})
    return html.unescape(hub.client.get(path).text)


def test_a_regression_goes_round_the_whole_loop(hub: HubFixture) -> None:
    send_windows(hub, FIRST, agreeing=9, level=2.0)
    ids = send_samples(hub, range(FIRST + 4), level=2.0)
    code, said = put(hub, {ids[0]: 1.9, ids[1]: 99})
    assert code == 400 and "99 is no label of a regression" in said and "at most 10" in said
    code, _ = put(hub, {key: 2.25 for key in ids[:FIRST]})
    assert code == 200

    made = hub.client.post("/api/v1/snapshots", json={"model": "tide"}, headers=hub.auth()).json()
    assert (made["samples"], made["labelled"]) == (FIRST + 4, FIRST)
    with hub.hub.reading() as session:
        task = label_task(session, "tide")
    assert task is not None
    found = stack(snapshots.load(hub.hub, made["id"]), task)
    assert {name: array.shape for name, array in found.inputs.items()} == {"wind": (12, 2), "moon": (12, 1)}
    assert found.inputs["moon"].ravel().tolist() == list(range(12)) and (found.inputs["wind"][:, 0] <= 0).all()
    assert found.y.tolist() == [[2.25]] * FIRST and found.rows.tolist() == list(range(FIRST))

    good = status(hub)
    assert good["state"] == "no sketch" and good["audits"]["record"] == pytest.approx(0.9)
    assert good["labels"] == {**good["labels"], "state": "watching", "record": 1.0, "counted": FIRST}
    shown = page(hub)
    assert "regression" in shown and "median" in shown and "90.0 % (record 90.0 %)" in shown
    assert "100.0 % (record 100.0 %)" in shown


def test_labels_that_contradict_the_answers_raise_an_alarm_that_says_so(hub: HubFixture) -> None:
    ids = send_samples(hub, range(100, 115), level=2.0)
    assert put(hub, dict.fromkeys(ids, -3.0))[0] == 200
    assert status(hub)["labels"]["state"] == "alarmed"
    with hub.hub.reading() as session:
        (alarm,) = session.exec(select(Alarm)).all()
    assert "answers agree with labels in 0 %" in alarm.detail["reason"] and "record is 100 %" in alarm.detail["reason"]
    assert alarm.detail["reason"] in page(hub, "/drift")
    more = send_samples(hub, range(400, 420), level=2.0)
    assert put(hub, dict.fromkeys(more, -3.0))[0] == 200  # while the alarm is open, to which they belong
    closed = hub.client.post(f"/api/v1/alarms/{alarm.id}/close", headers=hub.auth()).json()
    assert closed["status"] == "closed" and status(hub)["labels"]["state"] == "watching"


def test_samples_are_fetched_while_no_transaction_is_open_and_counted_once(hub: HubFixture, monkeypatch) -> None:
    """Two hubs that look at the same time find the same labels."""
    put(hub, dict.fromkeys(send_samples(hub, range(300, 303), level=2.0), 2.25))
    writing, fetched = [], []
    session, get = Hub.session, hub.hub.objects.get

    @contextlib.contextmanager
    def watched_session(self: Hub) -> Iterator[Session]:
        writing.append(True)
        with session(self) as opened:
            yield opened
        writing.pop()

    def watched_get(path: str) -> Stored:
        assert not writing, "other writers wait for the object store"
        fetched.append(path)
        return get(path)

    monkeypatch.setattr(Hub, "session", watched_session)
    monkeypatch.setattr(hub.hub.objects, "get", watched_get)
    with hub.hub.reading() as reading:
        manifest = decode_manifest(reading.get_one(Release, ("tide", 1)).manifest)
        known = scope.read(reading, "tide")
    assert known is not None
    target = scope.CheckedRelease(
        model="tide", served=known.watched[0], scope=known, upto=windows.settled(hub.hub.engine)
    )
    looks = [truth.look(hub.hub, target, manifest) for _ in range(2)]
    assert fetched and all(look is not None and len(look.labels) == 3 for look in looks)
    counted = []
    for look in looks:
        with hub.hub.session() as writer:
            truth.step(hub.hub, writer, look, DriftPolicy())
            counted.append(truth.read(writer.get_one(MeaningMonitor, ("tide", 1))).labels.counted)
    assert counted[0] == counted[1]
    assert truth.look(hub.hub, target, manifest) is None, "nothing new, so nothing is written"


def test_a_label_is_counted_once_however_often_it_is_said_and_whatever_the_clock_does(hub: HubFixture) -> None:
    def counted() -> int:
        return int(status(hub)["labels"]["counted"])

    ids = send_samples(hub, range(500, 503), level=2.0)
    before = counted()
    assert put(hub, {ids[0]: 2.25})[0] == 200 and counted() == before + 1
    assert put(hub, {ids[0]: 2.25})[0] == 200 and counted() == before + 1
    hub.clock.advance(-3600)  # it ran ahead, and is put right
    try:
        assert put(hub, {ids[1]: 2.25})[0] == 200 and counted() == before + 2
    finally:
        hub.clock.advance(3600)


def test_people_label_samples_on_the_dashboard_in_the_words_of_the_task(hub: HubFixture) -> None:
    (sample,) = send_samples(hub, range(200, 201), level=2.5)
    person = Person(hub)
    shown = html.unescape(person.open("/models/tide/samples").text)
    assert sample in shown and "<td>2.5</td>" in shown and "a finite number and at least -10 and at most 10" in shown
    path = "/act/models/tide/label"
    page = person.open(f"{path}?again=yes&sample-0={sample}").text

    def send(label: str) -> tuple[int, str]:
        answer = person.send(path, page, **{"label-0": label})
        return answer.status_code, html.unescape(answer.text)

    code, said = send("99")
    assert code == 400 and "99 is no label of a regression" in said and store.get(hub.hub, sample).label is None
    for wrong in ("[1e999]", "[18446744073709551617]", '"\\ud800"', "[" * 50 + "]" * 50, '{"a": "\\u0000"}', "[1,", ""):
        assert send(wrong)[0] == 400, wrong
    assert send("2.25")[0] == 303 and store.get(hub.hub, sample).label == 2.25
    assert "2.25 <span" in person.open("/models/tide/samples").text
    page = person.open(f"{path}?again=yes&sample-0={sample}").text
    assert "Labelled 2.25 by" in page and send("2.5")[0] == 303 and store.get(hub.hub, sample).label == 2.5
    viewer = Person(hub, hub.token(role="viewer"))
    assert path not in viewer.open("/models/tide/samples").text and viewer.open(path).status_code == 403
    assert person.open("/models/absent/samples").status_code == 404
    hub.client.cookies.clear()
    assert hub.client.get("/models/tide/samples", follow_redirects=False).headers["location"] == "/login"


def test_so_do_audits_and_the_page_shows_what_the_model_says_now(hub: HubFixture) -> None:
    send_windows(hub, 60, agreeing=2, level=7.0)
    found = status(hub)
    assert found["audits"]["state"] == "alarmed" and found["audits"]["now"] == pytest.approx(0.2)
    with hub.hub.reading() as session:
        alarms = session.exec(select(Alarm).where(Alarm.status == "open")).all()
    assert [alarm.detail["source"] for alarm in alarms] == ["audits"]
    assert "median 6." in page(hub) or "median 7" in page(hub)


def test_another_release_begins_a_record_of_its_own(hub: HubFixture) -> None:
    hub.release("tide", labels=(), inputs=INPUTS, outputs=OUTPUTS, task=TASK, requires=("task:regression",), seed=1)
    entry = ModelEntry(release=2, audit=Audit(auditor=1))
    hub.hub.publisher.change_channel("stable", lambda channel: replace(channel, models={"tide": entry}), actor="t")
    found = status(hub)
    assert found["release"] == 2 and found["audits"]["state"] == "waiting" and found["labels"]["counted"] == 0
    hub.clock.advance(scope.PATIENCE_S)  # nobody serves the one before, and nobody has come back to it
    status(hub)
    with hub.hub.reading() as session:
        assert session.exec(select(Alarm).where(Alarm.status == "open")).all() == []
