"""A batch of samples with bad ones in it: the good ones are kept, the bad ones set aside, and none comes again."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from sqlmodel import select

from cloud_hub.samples import intake, store
from cloud_hub.store.tables import Device, SampleRow, SetAside
from fleet.protocol.errors import MalformedError, VersionError
from fleet.protocol.messages import SampleBatch, SampleReceipt
from tests.cloud_hub.samples.test_samples import sample
from tests.support.hub import HubFixture, make_hub

LIMIT = 8 << 20
GOOD = msgspec.structs.asdict(sample(1))
BAD: dict[str, dict[str, Any]] = {
    "id-nul": {"id": "a\0b"},
    "id-long": {"id": "s" * 65},
    "id-empty": {"id": ""},
    "model": {"model": "../x"},
    "model-unknown": {"model": "nobody"},
    "variant": {"variant": "\0"},
    "release-2^40": {"release": 1 << 40},
    "release-2^64-1": {"release": (1 << 64) - 1},
    "release": {"release": -1},
    "prediction": {"prediction": 1 << 31},
    "cloud": {"cloud_prediction": 1 << 63},
    "negative": {"prediction": -5},
    "confidence": {"confidence": float("nan")},
    "at": {"at": float("nan")},
    "late": {"at": 1e300},
    "reason": {"reason": "whim"},
    "no-inputs": {"inputs": []},
    "text": {"prediction": "one"},
    "shape": {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2**31, 2**31], "data": b"1234"}]},
}


@pytest.fixture
def hub(tmp_path, hub_database) -> HubFixture:
    made = make_hub(tmp_path, database=hub_database)
    made.model()
    with made.hub.session() as session:
        session.add(
            Device(
                id="kiosk-1",
                public_key="",
                key_fingerprint="",
                certificate="",
                certificate_serial="",
                certificate_expires_at=0,
                channel="stable",
                enrolled_at=0,
            )
        )
    yield made
    made.hub.engine.dispose()


def ids(hub: HubFixture, table: Any, column: Any) -> list[Any]:
    with hub.hub.reading() as session:
        return sorted(session.exec(select(column)))


def test_bad_samples_are_set_aside_and_the_good_ones_are_kept(hub: HubFixture) -> None:
    bad = [{**GOOD, "id": name, **fields} for name, fields in BAD.items()]
    body = msgspec.msgpack.encode({"v": 1, "samples": [{**GOOD, "id": "first"}, *bad, 7, {**GOOD, "id": "last"}]})
    text = hub.hub.device_tokens.token("kiosk-1", now=hub.clock())
    answer = hub.client.post("/device/samples", content=body, headers=hub.auth(text))
    assert answer.status_code == 200, answer.text
    committed = msgspec.json.decode(answer.content, type=SampleReceipt).committed
    assert set(committed) == {"first", "last", *(fields["id"] for fields in bad)}
    assert ids(hub, SampleRow, SampleRow.id) == ["first", "last"]
    assert ids(hub, SetAside, SetAside.leaf) == ["samples"] * (len(BAD) + 1)
    shown = hub.client.get("/api/v1/devices/kiosk-1/set-aside", headers=hub.auth()).json()["items"]
    assert shown[0]["reason"] == "malformed" and "got `int`" in shown[0]["detail"]


def test_a_sample_that_fails_for_an_unforeseen_reason_costs_no_other(hub: HubFixture, monkeypatch) -> None:
    real = store.commit

    def commit(hub, device, samples):
        if any(one.id == "s2" for one in samples):
            raise ZeroDivisionError("a bug")
        return real(hub, device, samples)

    monkeypatch.setattr(store, "commit", commit)
    body = msgspec.msgpack.encode(SampleBatch(samples=(sample(1), sample(2), sample(3))))
    assert sorted(intake.take(hub.hub, "kiosk-1", body, LIMIT)) == ["s1", "s2", "s3"]
    assert ids(hub, SampleRow, SampleRow.id) == ["s1", "s3"]
    assert ids(hub, SetAside, SetAside.detail) == ["ZeroDivisionError: a bug"]


LATER = msgspec.msgpack.encode({"v": 2, "samples": []})


@pytest.mark.parametrize(
    ("body", "error"), [(b"", MalformedError), (b"\x93\x01", MalformedError), (LATER, VersionError)]
)
def test_what_is_no_batch_is_refused(hub: HubFixture, body: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        intake.take(hub.hub, "kiosk-1", body, LIMIT)
