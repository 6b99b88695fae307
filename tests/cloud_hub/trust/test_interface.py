"""A model's first live release fixes its interface; the hub publishes nothing that applications would break on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from cloud_hub.errors import ConflictError, InvalidError
from cloud_hub.store.tables import Model, Release
from cloud_hub.trust.models import show_model
from fleet.protocol.channel import Channel, ModelEntry
from fleet.protocol.errors import MalformedError
from fleet.protocol.manifest import Tensor
from fleet.protocol.steps import AnyStep, Concat, Normalise, Scale
from fleet.protocol.task import TaskSpec
from tests.cloud_hub.api.test_operator_api import add_device
from tests.support.hub import PASSPHRASE, HubFixture, make_hub
from tests.support.manifests import hollow_onnx, small_release

SENSORS = (Tensor(name="sensors", datatype="FP32", shape=(-1, 8)),)
SCORES = (Tensor(name="scores", datatype="FP32", shape=(-1, 2)),)
CLASSES = ("fine", "failing")
MACHINES = {"inputs": SENSORS, "outputs": SCORES, "labels": CLASSES, "sketch_id": "a" * 64}


def tensor(name: str, datatype: str = "FP32", shape: tuple[int, ...] = (-1, 8)) -> tuple[Tensor, ...]:
    return (Tensor(name=name, datatype=datatype, shape=shape),)


@pytest.fixture
def machines(hub: HubFixture) -> HubFixture:
    hub.model("machines")
    hub.release("machines", **MACHINES)
    return hub


@pytest.mark.parametrize(
    ("change", "ours", "theirs"),
    [
        ({"inputs": tensor("x")}, "sensors FP32 [-1, 8]", "x FP32 [-1, 8]"),
        ({"inputs": tensor("sensors", "INT8")}, "sensors FP32 [-1, 8]", "sensors INT8 [-1, 8]"),
        ({"inputs": tensor("sensors", shape=(-1, 9))}, "sensors FP32 [-1, 8]", "sensors FP32 [-1, 9]"),
        ({"inputs": tensor("sensors", shape=(1, 8))}, "sensors FP32 [-1, 8]", "sensors FP32 [1, 8]"),
        ({"inputs": (*SENSORS, *tensor("age"))}, "sensors FP32 [-1, 8]", "sensors FP32 [-1, 8], age FP32 [-1, 8]"),
        ({"outputs": tensor("logits", shape=(-1, 2))}, "scores FP32 [-1, 2]", "logits FP32 [-1, 2]"),
        ({"outputs": (*tensor("more"), *SCORES)}, "scores FP32 [-1, 2]", "more FP32 [-1, 8], scores FP32 [-1, 2]"),
        ({"labels": ("failing", "fine")}, "fine, failing", "failing, fine"),
        ({"labels": ()}, "fine, failing", "none"),
        ({"sketch_id": "b" * 64}, "aaaaaaaaaaaa", "bbbbbbbbbbbb"),
        ({"sketch_id": ""}, "sketch aaaaaaaaaaaa", "no sketch"),
    ],
)
def test_a_release_that_changes_the_interface_is_refused(
    machines: HubFixture, change: dict[str, object], ours: str, theirs: str
) -> None:
    with pytest.raises(ConflictError) as refused:
        machines.release("machines", seed=1, **{**MACHINES, **change})
    assert ours in str(refused.value) and f"; this has {theirs}" in str(refused.value)
    assert "fixed by release 1" in str(refused.value)
    assert "fleet model create" in refused.value.hint or "--end-monitoring" in refused.value.hint
    with machines.hub.reading() as session:
        assert session.get(Release, ("machines", 2)) is None
        assert session.get(Model, "machines").next_release == 2  # type: ignore[union-attr]


def test_the_same_interface_is_published_whatever_the_order_of_inputs(hub: HubFixture) -> None:
    hub.model("pair")
    both = (*tensor("temperature"), *tensor("pressure"))
    hub.release("pair", inputs=both)
    assert hub.release("pair", seed=1, inputs=both[::-1]) == 2


def test_all_differences_are_in_one_message(machines: HubFixture) -> None:
    with pytest.raises(ConflictError, match=r"inputs are .*; the model's outputs are .*; the model's classes are"):
        machines.release("machines", seed=1, inputs=tensor("x"), outputs=tensor("y"), labels=())


def test_monitoring_ends_only_when_it_is_said(machines: HubFixture) -> None:
    manifest, blobs = small_release(seed=1, **{**MACHINES, "sketch_id": ""})
    for sha256, data in blobs.items():
        machines.hub.objects.put_new(f"blobs/{sha256}", data)
    http, auth, url = machines.client, machines.auth(), "/api/v1/models/machines/releases"
    refused = http.post(url, content=manifest, headers=auth)
    assert refused.status_code == 409 and "no sketch" in refused.json()["error"]
    assert http.post(f"{url}?end_monitoring=true", content=manifest, headers=auth).json()["number"] == 2
    entries = http.get("/api/v1/audit", headers=auth).json()["items"]
    assert [e["subject"] for e in entries if e["detail"].get("monitoring") == "ended"] == ["machines/2"]
    # Release 2 is the newest and has no sketch: another encoder may begin anew.
    assert machines.release("machines", seed=2, **{**MACHINES, "sketch_id": "c" * 64}) == 3


def test_what_was_withdrawn_fixes_nothing(machines: HubFixture) -> None:
    machines.hub.publisher.withdraw("machines", 1, "wrong names", actor="t")
    assert machines.release("machines", seed=1, inputs=tensor("x"), sketch_id="b" * 64) == 2


def test_what_lies_below_the_floor_fixes_nothing(machines: HubFixture) -> None:
    machines.hub.publisher.set_floor("machines", 2, actor="t")
    assert machines.release("machines", seed=1, inputs=tensor("x")) == 2


def disagreeing(hub: HubFixture) -> None:
    """A model of a hub of 0.1: release 1 has `sensors`, release 2 came back from a retrain with `x`."""
    hub.model("machines")
    hub.release("machines", **MACHINES)
    manifest, blobs = small_release(seed=1, inputs=tensor("x"), outputs=SCORES, labels=CLASSES)
    for sha256, data in blobs.items():
        hub.hub.objects.put_new(f"blobs/{sha256}", data)
    with hub.hub.session() as session:
        model = session.get(Model, "machines")
        assert model is not None
        model.next_release = 3
        session.add(model)
        session.add(
            Release(model="machines", number=2, status="published", manifest=manifest, created_at=0.0, published_at=1.0)
        )


def serve(hub: HubFixture, channel: str, release: int) -> None:
    def change(document: Channel) -> Channel:
        return msgspec.structs.replace(document, models={"machines": ModelEntry(release=release)})

    hub.hub.publisher.change_channel(channel, change, actor="t")


def shown(hub: HubFixture) -> dict[str, Any]:
    found: dict[str, Any] = hub.client.get("/api/v1/models/machines", headers=hub.auth()).json()
    return found


def choose(hub: HubFixture, release: int) -> Any:
    return hub.client.patch("/api/v1/models/machines", json={"interface_from": release}, headers=hub.auth())


def test_where_releases_disagree_nothing_is_published_before_one_is_chosen(hub: HubFixture) -> None:
    disagreeing(hub)
    for inputs in (SENSORS, tensor("x")):
        with pytest.raises(ConflictError, match="releases 1 and 2 of model 'machines' disagree") as refused:
            hub.release("machines", seed=2, **{**MACHINES, "inputs": inputs})
        assert "fleet model change machines --interface-from N" in refused.value.hint
    assert shown(hub)["disputed"] == [1, 2]
    assert hub.client.get("/api/v1/models", headers=hub.auth()).json()["items"][0]["disputed"] == [1, 2]
    assert choose(hub, 1).json()["interface_from"] == 1
    assert shown(hub)["disputed"] == [] and shown(hub)["interface"]["release"] == 1
    entries = hub.client.get("/api/v1/audit", headers=hub.auth()).json()["items"]
    (entry,) = [entry for entry in entries if entry["action"] == "model.interface"]
    assert (entry["subject"], entry["detail"]) == ("machines", {"release": 1, "before": None, "differing": [2]})
    with pytest.raises(ConflictError, match=r"fixed by release 1: .*inputs are sensors.*this has x"):
        hub.release("machines", seed=2, inputs=tensor("x"), outputs=SCORES, labels=CLASSES)
    assert hub.release("machines", seed=2, **MACHINES) == 3
    assert shown(hub)["interface"]["release"] == 3  # the newest that has the chosen one


def test_until_then_what_a_channel_serves_counts_and_goes_on(hub: HubFixture) -> None:
    disagreeing(hub)
    assert shown(hub)["interface"]["release"] == 2
    assert shown(hub)["interface"]["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 8]}]
    serve(hub, "stable", 2)
    with pytest.raises(ConflictError, match="release 1 has not the interface of model 'machines', fixed by release 2"):
        serve(hub, "stable", 1)
    assert choose(hub, 1).status_code == 200
    serve(hub, "stable", 1)
    with pytest.raises(ConflictError, match="release 2 has not the interface"):
        serve(hub, "beta", 2)


def test_a_release_of_another_interface_is_neither_rolled_out_nor_pinned(hub: HubFixture) -> None:
    disagreeing(hub)
    serve(hub, "stable", 2)
    choose(hub, 2)
    add_device(hub, "k")
    http, auth = hub.client, hub.auth()
    wanted = {"model": "machines", "release": 1, "channel": "stable"}
    for answer in (
        http.post("/api/v1/rollouts", json=wanted, headers=auth),
        http.patch("/api/v1/devices/k", json={"pins": {"machines": 1}}, headers=auth),
    ):
        assert answer.status_code == 409 and "has not the interface" in answer.json()["error"]
        assert "--interface-from 1" in answer.json()["hint"]


def test_a_channel_that_names_both_goes_on_until_it_is_moved(hub: HubFixture) -> None:
    """A halt must always work: only what a channel begins to name is looked at."""
    disagreeing(hub)
    serve(hub, "stable", 2)
    choose(hub, 1)
    hub.hub.publisher.change_channel("stable", lambda channel: channel, actor="t")
    serve(hub, "stable", 1)


@pytest.mark.parametrize("release", [3, 9])
def test_only_what_is_out_can_be_chosen(hub: HubFixture, release: int) -> None:
    disagreeing(hub)
    hub.hub.publisher.reserve("machines", actor="t")
    assert choose(hub, release).status_code == 409 and shown(hub)["disputed"] == [1, 2]


def test_a_choice_that_was_withdrawn_is_none(hub: HubFixture) -> None:
    disagreeing(hub)
    choose(hub, 2)
    hub.hub.publisher.withdraw("machines", 2, "wrong names", actor="t")
    assert shown(hub)["interface"]["release"] == 1 and shown(hub)["disputed"] == []


def test_releases_that_differ_in_sketch_or_task_do_not_disagree(machines: HubFixture) -> None:
    manifest, blobs = small_release(seed=1, **{**MACHINES, "sketch_id": ""})
    for sha256, data in blobs.items():
        machines.hub.objects.put_new(f"blobs/{sha256}", data)
    machines.hub.publisher.publish_release("machines", manifest, actor="t", ends_monitoring=True)
    assert shown(machines)["disputed"] == []
    serve(machines, "stable", 2)
    serve(machines, "stable", 1)  # back to one that was watched


@pytest.mark.parametrize(
    ("cloud", "message"),
    [
        (hollow_onnx(["x"], ["scores"]), "calls its inputs x; the release calls them sensors"),
        (hollow_onnx(["sensors"], ["logits"]), "calls its outputs logits; the release calls them scores"),
        (hollow_onnx(["sensors", "more"], ["scores"]), "calls its inputs more, sensors"),
        (b"no protobuf at all", "not an ONNX model"),
    ],
)
def test_the_teacher_is_called_by_the_same_names(hub: HubFixture, cloud: bytes, message: str) -> None:
    hub.model("machines")
    with pytest.raises(InvalidError, match=message):
        hub.release("machines", **MACHINES, cloud=cloud)


@pytest.mark.parametrize("name", ["", "a\0b", "line\nbreak", "n" * 256])
def test_a_name_that_no_request_can_carry_is_refused(hub: HubFixture, name: str) -> None:
    hub.model("machines")
    with pytest.raises(MalformedError, match="input name"):
        hub.release("machines", inputs=tensor(name))
    with pytest.raises(MalformedError, match="same name"):
        hub.release("machines", outputs=tensor("twice") * 2)


@pytest.mark.parametrize("name", ["x", "y", "label", "labels", "file", "ids", "a/b:0", "Größe", "self"])
def test_any_other_name_is_an_input_s(hub: HubFixture, name: str) -> None:
    hub.model("machines")
    assert hub.release("machines", inputs=tensor(name)) == 1


def test_a_signature_made_elsewhere_does_not_pass_the_interface(tmp_path: Path) -> None:
    """Two releases wait for their signature; the first one signed fixes the interface."""
    hub = make_hub(tmp_path, release_key="external")
    hub.model("machines")
    hub.release("machines", **MACHINES)
    hub.release("machines", seed=1, inputs=tensor("x"))
    key = load_pem_private_key((hub.offline / "release.pem").read_bytes(), PASSPHRASE)

    def sign(number: int) -> Release:
        wanted = hub.hub.publisher.signing("machines", number)
        return hub.hub.publisher.accept_signature(
            "machines",
            number,
            key_id=wanted.key_id,
            version=wanted.version,
            actor="t",
            signature=key.sign(wanted.payload).hex(),  # type: ignore[union-attr, call-arg]
        )

    assert sign(1).status == "published"
    with pytest.raises(ConflictError, match="fixed by release 1"):
        sign(2)


def test_a_task_is_checked_at_publish_and_kept_from_then_on(hub: HubFixture) -> None:
    regression = TaskSpec(name="regression", tolerance=0.5)

    def publish(task: TaskSpec, requires: tuple[str, ...]) -> None:
        hub.release("scales", labels=(), task=task, requires=requires)

    hub.model("scales")
    with pytest.raises(MalformedError, match="must require task:regression"):
        publish(regression, ())
    with pytest.raises(MalformedError, match="no task 'telepathy'"):
        publish(TaskSpec(name="telepathy"), ("task:telepathy",))
    publish(regression, ("task:regression",))
    with pytest.raises(ConflictError, match=r"task is regression \(tolerance 0.5\); this has embedding"):
        publish(TaskSpec(name="embedding"), ("task:embedding",))
    assert show_model(hub.hub, "scales").interface.task == "regression (tolerance 0.5)"


def test_kinds_of_steps_are_kept_and_their_constants_are_not(hub: HubFixture) -> None:
    normalise = Normalise(input="x", mean=(0,), std=(1,))

    def publish(*steps: AnyStep, requires: tuple[str, ...] = ("step:normalise", "step:scale")) -> int:
        return hub.release(preprocess=steps or msgspec.UNSET, requires=requires)

    hub.model()
    with pytest.raises(MalformedError, match="must require step:normalise"):
        publish(normalise, requires=())
    assert publish(normalise) == 1
    assert publish(Normalise(input="x", mean=tuple(range(64)), std=(2,))) == 2
    for other, words in (
        ((Scale(input="x", factor=(1,), offset=(0,)),), "scale x"),
        ((normalise, normalise), "normalise x; normalise x"),
        ((), "none"),
    ):
        with pytest.raises(ConflictError, match=f"preprocessing is normalise x; this has {words}"):
            publish(*other)
    assert show_model(hub.hub, "digits").interface.preprocess == ["normalise x"]


def test_the_teacher_takes_what_the_steps_make(hub: HubFixture) -> None:
    hub.model()
    steps = (Concat(inputs=("x",), output="features"),)
    with pytest.raises(InvalidError, match="calls its inputs x; the release calls them features"):
        hub.release(preprocess=steps, requires=("step:concat",))
    hub.release(preprocess=steps, requires=("step:concat",), cloud=hollow_onnx(["features"], ["logits"]))
