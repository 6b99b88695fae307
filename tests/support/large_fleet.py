"""A fleet of any size, written straight into the database: devices, reports, windows, a rollout's evidence."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from msgspec.structs import replace
from sqlalchemy import Engine, event, insert
from sqlmodel import SQLModel

from cloud_hub.store.tables import Device, DeviceModel, PairEvidence, RolloutRow, WindowRow
from fleet.protocol.channel import Audit, Channel, ModelEntry
from tests.support.hub import HubFixture

MODEL, CHANNEL = "digits", "stable"
SITES, CLASSES = 40, ("rpi4", "rpi5", "x86_64", "jetson")
CHUNK = 2000


def releases(hub: HubFixture, count: int = 2) -> None:
    """Releases of the model, the first of which is the channel's."""
    hub.model(MODEL)
    for seed in range(count):
        hub.release(MODEL, seed=seed)

    def first(channel: Channel) -> Channel:
        return replace(channel, models={MODEL: ModelEntry(release=1, audit=Audit(auditor=1))})

    hub.hub.publisher.change_channel(CHANNEL, first, actor="test")


def name_of(number: int) -> str:
    """A device's id, such as `dev-000012`."""
    return f"dev-{number:06d}"


def devices(hub: HubFixture, count: int, *, first: int = 0) -> None:
    """So many devices of the channel, on release 1, heard within the last minute, with a window each."""
    now, rng = hub.clock(), random.Random(count)
    numbers = range(first, first + count)
    write(hub, Device, (a_device(number, now - rng.random() * 60) for number in numbers))
    write(hub, DeviceModel, (_report(number, now) for number in numbers))
    write(hub, WindowRow, (_window(number, now) for number in numbers))


def evidence(hub: HubFixture, rollout: str, count: int) -> None:
    """Every device of the rollout's stages has committed its release, and has brought pairs."""
    with hub.hub.reading() as session:
        row = session.get(RolloutRow, rollout)
        assert row is not None
    rng = random.Random(1)
    reports = [
        {**_report(n, hub.clock()), "active": row.release, "previous": 1, "rollout": rollout, "attempt": 1}
        for n in range(count)
    ]
    with hub.hub.session() as session:
        for at in range(0, count, CHUNK):
            session.bulk_update_mappings(DeviceModel, reports[at : at + CHUNK])  # type: ignore[arg-type]
    lines = (
        PairEvidence(
            rollout=rollout,
            attempt=1,
            device_id=name_of(n),
            both=rng.randrange(20, 60),
            only_old=rng.randrange(2),
            only_new=rng.randrange(2),
            neither=rng.randrange(3),
            answered=500,
        ).model_dump()
        for n in range(count)
    )
    write(hub, PairEvidence, lines)


def write(hub: HubFixture, table: type[SQLModel], rows: Iterator[Mapping[str, Any]]) -> None:
    """Insert many rows."""
    chunk: list[Mapping[str, Any]] = []
    with hub.hub.session() as session:
        for row in rows:
            chunk.append(row)
            if len(chunk) == CHUNK:
                session.connection().execute(insert(table), chunk)
                chunk = []
        if chunk:
            session.connection().execute(insert(table), chunk)


@contextmanager
def statements(engine: Engine) -> Iterator[list[str]]:
    """Every statement that is sent within the block."""
    found: list[str] = []

    def sent(_connection: Any, _cursor: Any, statement: str, _parameters: Sequence[Any], *_rest: Any) -> None:
        found.append(statement)

    event.listen(engine, "before_cursor_execute", sent)
    try:
        yield found
    finally:
        event.remove(engine, "before_cursor_execute", sent)


def a_device(number: int, seen: float) -> dict[str, Any]:
    """A device's row."""
    name = name_of(number)
    return Device(
        id=name,
        public_key="-" * 180,
        key_fingerprint=name,
        certificate="-" * 900,
        certificate_serial=f"{number:x}",
        certificate_expires_at=seen + 1e7,
        channel=CHANNEL,
        enrolled_at=seen - 1e6,
        last_seen_at=seen,
        online=True,
        labels={"site": f"s{number % SITES}", "hw": CLASSES[number % len(CLASSES)]},
        info={
            "agent": "0.2.0",
            "channel": CHANNEL,
            "problem": "",
            "hint": "",
            "capabilities": ["refusals"],
            "hardware": {"machine": "aarch64", "host": name},
        },
        quiet_s=75.0,
        quiet_since=seen - 1000,
    ).model_dump()


def _report(number: int, now: float) -> dict[str, Any]:
    return DeviceModel(
        device_id=name_of(number),
        model=MODEL,
        state="committed",
        target=1,
        active=1,
        active_variant="litert-int8",
        seq=1,
        at=now - 100,
    ).model_dump()


def _window(number: int, now: float) -> dict[str, Any]:
    fields = WindowRow(
        device_id=name_of(number),
        spool="s",
        seq=1,
        model=MODEL,
        release=1,
        started_at=now - 120 - number % 3000,
        ended_at=now - 60 - number % 3000,
        sketch_id="",
        sketch_count=0,
        sketch=b"",
        body={"counters": {"requests": 60, "audited": 6, "local": 58}, "latency_us": [0] * 40, "classes": [6] * 10},
    ).model_dump()
    fields.pop("id")
    return fields
