"""Devices' measurements of a release: from their reports to the operator's API, per hardware class."""

from __future__ import annotations

import math

import msgspec
import pytest
from msgspec.structs import asdict, replace
from sqlmodel import select

from cloud_hub.ingest.ingestor import Ingestor, Message
from cloud_hub.store import benchmarks
from cloud_hub.store.tables import Device, DeviceEvent, MeasuredRow, SetAside
from fleet.protocol import topics
from fleet.protocol.codec import encode_msgpack
from fleet.protocol.errors import MalformedError
from fleet.protocol.messages import Benchmark, CommandResult, Envelope
from tests.support.hub import HubFixture

FIGURES = Benchmark(
    model="digits",
    release=1,
    variant="litert-int8",
    runtime="ai-edge-litert",
    runtime_version="2.1",
    agent="0.1",
    rounds=200,
    p50_us=40.0,
    p95_us=60.0,
    load_us=900.0,
    memory_bytes=1 << 20,
    process_bytes=48 << 20,
)


@pytest.fixture
def fleet(hub: HubFixture) -> HubFixture:
    """Release 1 of `digits`; two Raspberry Pis and a device that only says its machine type."""
    hub.model()
    hub.release()
    with hub.hub.session() as session:
        for name, labels in (("pi-1", {"hw": "rpi4"}), ("pi-2", {"hw": "rpi4"}), ("box-1", {})):
            session.add(
                Device(
                    id=name,
                    public_key="-",
                    key_fingerprint=name,
                    certificate="-",
                    certificate_serial="1",
                    certificate_expires_at=0.0,
                    channel="stable",
                    enrolled_at=0.0,
                    labels=labels,
                    info={"hardware": {"machine": "x86_64"}},
                )
            )
    return hub


def report(fleet: HubFixture, device: str, seq: int, body: CommandResult, at: float = 1.0) -> None:
    data = Envelope(
        device=device, spool="s1", seq=seq, base=1, at=at, kind="result", body=msgspec.Raw(encode_msgpack(body))
    )
    Ingestor(fleet.hub).take([Message(topics.uplink(device, "report"), encode_msgpack(data))])


def result(figures: Benchmark | None = None, **fields) -> CommandResult:
    return CommandResult(id="", ok=True, kind="benchmark", data=asdict(figures or FIGURES), **fields)


def release(fleet: HubFixture) -> list[dict]:
    answer = fleet.client.get("/api/v1/models/digits/releases/1", headers=fleet.auth())
    assert answer.status_code == 200, answer.text
    return answer.json()["measured"]


def rows(fleet: HubFixture, kind):
    with fleet.hub.reading() as session:
        return list(session.exec(select(kind)))


def test_figures_are_shown_per_hardware_class(fleet):
    report(fleet, "pi-1", 1, result())
    report(fleet, "pi-2", 1, result(replace(FIGURES, p50_us=60.0, p95_us=100.0, memory_bytes=3 << 20)))
    report(fleet, "box-1", 1, result(replace(FIGURES, p50_us=4.0, p95_us=6.0)))
    assert release(fleet) == [
        {
            "hardware": "rpi4",
            "variant": "litert-int8",
            "runtime": "ai-edge-litert",
            "devices": 2,
            "p50_us": 50.0,
            "p95_us": 80.0,
            "worst_p95_us": 100.0,
            "load_us": 900.0,
            "memory_bytes": 2 << 20,
            "process_bytes": 48 << 20,
        },
        {
            "hardware": "x86_64",
            "variant": "litert-int8",
            "runtime": "ai-edge-litert",
            "devices": 1,
            "p50_us": 4.0,
            "p95_us": 6.0,
            "worst_p95_us": 6.0,
            "load_us": 900.0,
            "memory_bytes": 1 << 20,
            "process_bytes": 48 << 20,
        },
    ]


def test_a_device_that_measures_again_replaces_its_figures_and_a_revoked_one_does_not_count(fleet):
    report(fleet, "pi-1", 1, result())
    report(fleet, "pi-1", 2, result(replace(FIGURES, p95_us=61.0)), at=2.0)
    assert [row.p95_us for row in rows(fleet, MeasuredRow)] == [61.0]
    with fleet.hub.reading() as session:
        assert benchmarks.newest_p95(session, "digits", 1) == {"pi-1": 61.0}
        assert benchmarks.newest_p95(session, "digits", 2) == {}
    assert fleet.client.post("/api/v1/devices/pi-1/revoke", headers=fleet.auth()).status_code == 200
    assert release(fleet) == []


def test_of_two_variants_the_one_measured_last_counts(fleet):
    report(fleet, "pi-1", 1, result(replace(FIGURES, variant="litert-fp32", p95_us=500.0)), at=1.0)
    report(fleet, "pi-1", 2, result(), at=2.0)
    with fleet.hub.reading() as session:
        assert benchmarks.newest_p95(session, "digits", 1) == {"pi-1": 60.0}


def test_other_results_hold_no_figures(fleet):
    report(fleet, "pi-1", 1, CommandResult(id="c", ok=True, kind="diagnose", data={"p95_us": 1}))
    report(fleet, "pi-1", 2, CommandResult(id="c", ok=False, kind="benchmark", detail="the child was killed"))
    report(fleet, "pi-1", 3, CommandResult(id="c", ok=True, detail="benchmark", data={"p95_us": 1.0}))  # an old agent
    assert rows(fleet, MeasuredRow) == []
    assert [event.kind for event in rows(fleet, DeviceEvent)] == ["result"] * 3


@pytest.mark.parametrize(
    "changes",
    [
        {"p95_us": math.nan},
        {"p95_us": math.inf},
        {"p50_us": -1.0},
        {"p95_us": 1.0},  # below p50
        {"release": 0},
        {"release": 1 << 40},
        {"rounds": 0},
        {"memory_bytes": 1 << 63},
        {"variant": "x" * 65},
        {"runtime": "two\nlines"},
        {"model": "../digits"},
        {"load_us": "soon"},
    ],
)
def test_figures_that_cannot_be_right_are_set_aside(fleet, changes):
    with pytest.raises(MalformedError):
        benchmarks.read({**asdict(FIGURES), **changes})
    report(fleet, "pi-1", 1, CommandResult(id="", ok=True, kind="benchmark", data={**asdict(FIGURES), **changes}))
    report(fleet, "pi-1", 2, result())
    (aside,) = rows(fleet, SetAside)
    assert (aside.device_id, aside.reason, aside.seq) == ("pi-1", "malformed", 1)
    assert [event.kind for event in rows(fleet, DeviceEvent)] == ["result"]
    assert len(rows(fleet, MeasuredRow)) == 1  # what comes after it is taken
