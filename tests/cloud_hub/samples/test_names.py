"""Samples and snapshots carry the names, datatypes and shapes of the model's own inputs."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from cloud_hub.errors import InvalidError
from cloud_hub.samples import snapshots, store
from cloud_hub.samples.dataset import Dataset, decode_dataset, encode_dataset, read_dataset
from cloud_hub.store.tables import Snapshot
from cloud_hub.training.checking import samples_of
from cloud_hub.training.recipe import Examples
from fleet import tasks
from fleet.protocol.manifest import Tensor
from fleet.protocol.messages import Sample
from fleet.protocol.task import TaskSpec
from fleet.protocol.tensors import to_array
from tests.support.hub import START, HubFixture

DIGITS = tasks.of(
    TaskSpec(name="classification"), tuple("0123456789"), (Tensor(name="y", datatype="FP32", shape=(-1, 10)),)
)
BOTH = (Tensor(name="label", datatype="FP32", shape=(-1, 3)), Tensor(name="ids", datatype="INT64", shape=(-1, 2)))


def sample(number: int, **inputs: np.ndarray) -> Sample:
    return Sample(
        id=f"s{number}",
        model="pair",
        release=1,
        variant="v",
        at=START + number,
        reason="random",
        inputs=tuple(to_array(name, array) for name, array in inputs.items()),
        outputs=(to_array("logits", np.zeros((1, 10), np.float32)),),
        confidence=0.5,
        prediction=0,
    )


def pair(number: int) -> dict[str, np.ndarray]:
    return {"label": np.full((1, 3), number, np.float32), "ids": np.full((1, 2), 2**40 + number)}


@pytest.fixture
def model(hub: HubFixture) -> HubFixture:
    hub.model("pair")
    hub.release("pair", inputs=BOTH)
    return hub


def commit(hub: HubFixture, *samples: Sample) -> None:
    store.commit(hub.hub, "kiosk-1", samples)


def test_every_input_is_kept_by_name_in_its_datatype_whatever_order_it_came_in(model: HubFixture) -> None:
    first = pair(1)
    commit(model, sample(1, **first), sample(2, **dict(reversed(pair(2).items()))))
    store.label(model.hub, {"s2": 7}, by="ada", actor="t")
    row = snapshots.create(model.hub, "pair", actor="t")
    dataset = snapshots.load(model.hub, row.id)
    assert (row.samples, row.labelled) == (2, 1) and list(dataset.inputs) == ["label", "ids"]
    assert dataset.inputs["ids"].tolist() == [[2**40 + 1] * 2, [2**40 + 2] * 2]  # float32 could not say these
    assert dataset.inputs["label"].tolist() == [[1.0] * 3, [2.0] * 3] and dataset.label.tolist() == [-1, 7]
    examples = samples_of(
        dataset, Examples({"ids": dataset.inputs["ids"], "label": dataset.inputs["label"]}, np.zeros(2, int)), DIGITS
    )
    assert list(examples.inputs) == ["ids", "label"] and examples.y.tolist() == [-1, 7]


def test_a_sample_of_other_inputs_stays_out_and_is_counted(model: HubFixture) -> None:
    """A release of 0.1 with an input `x`, a batch, another size, a text: none takes the others along."""
    x = np.zeros((1, 3), np.float32)
    good = pair(1)
    commit(
        model,
        sample(1, **good),
        sample(2, x=x),
        sample(3, **{**good, "label": np.zeros((1, 4), np.float32)}),
        sample(4, **{**good, "more": x}),
        sample(5, **{**good, "ids": np.zeros((1, 2), np.int32)}),
        sample(6, label=good["label"]),
        sample(7, **{**good, "label": np.zeros((2, 3), np.float32)}),
        sample(8, **{**good, "label": np.array([[b"a", b"b", b"c"]], object)}),
    )
    row = snapshots.create(model.hub, "pair", actor="t")
    assert row.samples == 1
    entries = model.client.get("/api/v1/audit", headers=model.auth()).json()["items"]
    assert [e["detail"]["left_out"] for e in entries if e["action"] == "snapshot.create"] == [7]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_sample_with_nan_or_infinity_stays_out_unless_the_model_means_them(hub: HubFixture, value: float) -> None:
    for name, finite in (("strict", True), ("free", False)):
        hub.model(name)
        hub.release(name, inputs=(Tensor(name="x", datatype="FP32", shape=(-1, 2), finite=finite),))
        rows = (np.zeros((1, 2), np.float32), np.array([[1, value]], np.float32))
        commit(hub, *(structs.replace(sample(n, x=row), id=f"{name}-{n}", model=name) for n, row in enumerate(rows)))
    assert [snapshots.create(hub.hub, name, actor="t").samples for name in ("strict", "free")] == [1, 2]


def test_where_none_fits_both_sides_are_named(model: HubFixture) -> None:
    commit(model, sample(1, x=np.zeros((1, 3), np.float32)))
    with pytest.raises(InvalidError, match=r"inputs label FP32 .*ids INT64 .*; they have x FP32 \[1, 3\]"):
        snapshots.create(model.hub, "pair", actor="t")
    with model.hub.reading() as session:
        assert session.get(Snapshot, "") is None


def test_before_a_first_release_most_samples_say_what_the_inputs_are(hub: HubFixture) -> None:
    hub.model("pair")
    commit(hub, sample(1, a=np.zeros((1, 3), np.float32)), *(sample(n, b=np.zeros((1, 2))) for n in (2, 3)))
    dataset = snapshots.load(hub.hub, snapshots.create(hub.hub, "pair", actor="t").id)
    assert {name: array.shape for name, array in dataset.inputs.items()} == {"b": (2, 2)}


def test_where_a_size_varies_the_usual_one_is_kept(hub: HubFixture) -> None:
    hub.model("pair")
    hub.release("pair", inputs=(Tensor(name="words", datatype="INT64", shape=(-1, -1)),))
    commit(hub, *(sample(n, words=np.zeros((1, 5 if n else 9), np.int64)) for n in range(3)))
    dataset = snapshots.load(hub.hub, snapshots.create(hub.hub, "pair", actor="t").id)
    assert dataset.inputs["words"].shape == (2, 5)


def test_a_model_without_a_batch_keeps_its_shape(hub: HubFixture) -> None:
    hub.model("pair")
    hub.release("pair", inputs=(Tensor(name="frame", datatype="FP32", shape=(1, 4)),))
    commit(hub, *(sample(n, frame=np.full((1, 4), n, np.float32)) for n in range(3)))
    dataset = snapshots.load(hub.hub, snapshots.create(hub.hub, "pair", actor="t").id)
    assert dataset.inputs["frame"].shape == (3, 1, 4)


def test_a_snapshot_of_0_1_keeps_its_id_and_takes_the_models_name(tmp_path: Path) -> None:
    """0.1 wrote `x`, `label` and `ids`; this hash was computed by it."""
    file = io.BytesIO()
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.savez_compressed(file, x=x, label=np.array([1, -1]), ids=np.array(["s1", "s2"]))
    (tmp_path / "old.npz").write_bytes(file.getvalue())
    old = read_dataset(tmp_path / "old.npz")
    assert old.id == "3409b047c103071f47b178288c54579a11d96ee7be843f91bdfa4f001f900ca1"
    assert decode_dataset(encode_dataset(old), subject="again").id == old.id
    found = samples_of(old, Examples({"sensors": np.zeros((1, 3), np.float32)}, np.zeros(1, int)), DIGITS)
    np.testing.assert_array_equal(found.inputs["sensors"], x)


@pytest.mark.parametrize("name", ["label", "ids", "y", "x", "file", "a/b:0", "input:label", "Größe"])
def test_any_name_is_kept_apart_from_labels_and_ids(name: str) -> None:
    dataset = Dataset({name: np.zeros((2, 3)), "other": np.zeros((2, 1))}, np.array([3, -1]), np.array(["s1", "s2"]))
    again = decode_dataset(encode_dataset(dataset), subject="again")
    assert list(again.inputs) == [name, "other"] and again.label.tolist() == [3, -1]
    assert again.id == dataset.id
    other = Dataset({f"{name}2": np.zeros((2, 3)), "other": np.zeros((2, 1))}, dataset.label, dataset.ids)
    assert other.id != dataset.id


def test_a_snapshot_of_other_inputs_is_refused_by_name() -> None:
    dataset = Dataset({"readings": np.zeros((2, 3))}, np.array([0, 1]), np.array(["s1", "s2"]))
    with pytest.raises(InvalidError, match=r"has the inputs readings float64 \[n, 3\]; the recipe's data has sensors"):
        samples_of(dataset, Examples({"sensors": np.zeros((1, 3))}, np.zeros(1, int)), DIGITS)
