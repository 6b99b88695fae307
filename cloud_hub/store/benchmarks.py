"""Devices' measurements of releases: kept per device, shown per hardware class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import msgspec
from msgspec import Struct
from sqlmodel import Session, col, select

from cloud_hub.store import bulk
from cloud_hub.store.rows import rows_by_key
from cloud_hub.store.tables import Device, MeasuredRow
from fleet.protocol.errors import MalformedError
from fleet.protocol.messages import Benchmark
from fleet.protocol.names import check_name

WORD_LIMIT = 64  # characters of a variant, a runtime or a version
LARGEST = 1 << 62
COLUMNS = (
    "device_id",
    "model",
    "release",
    "variant",
    "runtime",
    "runtime_version",
    "agent",
    "rounds",
    "p50_us",
    "p95_us",
    "load_us",
    "memory_bytes",
    "process_bytes",
    "at",
)
KEY = 5  # of the columns are the primary key


class Figures(Struct, frozen=True, kw_only=True):
    """One variant on one runtime over `devices` of a hardware class: medians over the devices, of latencies
    and load time (µs) and of memory (bytes); `worst_p95_us` is the slowest device's."""

    hardware: str
    variant: str
    runtime: str
    devices: int
    p50_us: float
    p95_us: float
    worst_p95_us: float
    load_us: float
    memory_bytes: int
    process_bytes: int


def read(data: Mapping[str, Any]) -> Benchmark:
    """The figures in a device's report; MalformedError names what cannot be right."""
    try:
        figures = msgspec.convert(data, Benchmark)
    except msgspec.ValidationError as error:
        raise MalformedError(f"a benchmark does not decode: {error}", subject="benchmark") from error
    check_name(figures.model, "model")
    for name in ("variant", "runtime", "runtime_version", "agent"):
        text = getattr(figures, name)
        if len(text) > WORD_LIMIT or not text.isprintable():
            raise MalformedError(f"a benchmark's {name} is not a short word", subject="benchmark")
    numbers = (figures.p50_us, figures.p95_us, figures.load_us, figures.memory_bytes, figures.process_bytes)
    if not all(math.isfinite(number) and 0 <= number < LARGEST for number in numbers):
        raise MalformedError("a benchmark holds a number that is negative or not finite", subject="benchmark")
    if not 1 <= figures.release < 1 << 31 or not 1 <= figures.rounds < 1 << 31 or figures.p95_us < figures.p50_us:
        raise MalformedError("a benchmark's release, rounds or quantiles cannot be right", subject="benchmark")
    return figures


def row(device_id: str, figures: Benchmark, at: float) -> tuple[Any, ...]:
    """A device's figures as a row of `tables.MeasuredRow`, in the order of `COLUMNS`.

    Args:
        device_id: the device.
        figures: as it reported them.
        at: Unix seconds.
    """
    return (device_id, *(getattr(figures, name) for name in COLUMNS[1:-1]), at)


def keep(session: Session, rows: Sequence[tuple[Any, ...]]) -> None:
    """Write devices' figures over their older ones of the same variant and runtime; no two rows are of the same."""
    bulk.upsert(session, MeasuredRow, COLUMNS, rows)


def by_hardware(session: Session, model: str, release: int, *, most: int | None = None) -> list[Figures]:
    """The figures of a release, by hardware class, variant and runtime; revoked devices are left out.

    Args:
        most: how many of all figures are summed up; None for all.
    """
    groups: dict[tuple[str, str, str], list[MeasuredRow]] = {}
    for row, device in _rows(session, model, release, most):
        groups.setdefault((hardware_class(device), row.variant, row.runtime), []).append(row)
    return [_summed(key, rows) for key, rows in sorted(groups.items())]


def newest_p95(session: Session, model: str, release: int, ids: Sequence[str] | None = None) -> dict[str, float]:
    """Each device's latest p95 (µs) of a release, whatever the variant it runs; of some ids if they are given.

    Args:
        session: an open one.
        model: its name.
        release: its number.
        ids: of devices; None for all.
    """
    wanted = (
        select(MeasuredRow.device_id, MeasuredRow.p95_us)
        .where(MeasuredRow.model == model, MeasuredRow.release == release)
        .order_by(col(MeasuredRow.at), col(MeasuredRow.variant), col(MeasuredRow.runtime))
    )
    return dict(tuple(row) for row in rows_by_key(session, wanted, MeasuredRow.device_id, ids))


def hardware_class(device: Device) -> str:
    """Return the label `hw`, else the machine type that the agent reports."""
    hardware = device.info.get("hardware")
    reported = hardware.get("machine", "") if isinstance(hardware, dict) else ""
    return device.labels.get("hw") or str(reported)


def _rows(session: Session, model: str, release: int, most: int | None) -> list[tuple[MeasuredRow, Device]]:
    statement = (
        select(MeasuredRow, Device)
        .join(Device, col(Device.id) == col(MeasuredRow.device_id))
        .where(MeasuredRow.model == model, MeasuredRow.release == release, col(Device.revoked_at).is_(None))
    )
    return list(session.exec(statement.limit(most)))


def _summed(key: tuple[str, str, str], rows: list[MeasuredRow]) -> Figures:
    hardware, variant, runtime = key
    return Figures(
        hardware=hardware,
        variant=variant,
        runtime=runtime,
        devices=len(rows),
        p50_us=median(row.p50_us for row in rows),
        p95_us=median(row.p95_us for row in rows),
        worst_p95_us=max(row.p95_us for row in rows),
        load_us=median(row.load_us for row in rows),
        memory_bytes=int(median(row.memory_bytes for row in rows)),
        process_bytes=int(median(row.process_bytes for row in rows)),
    )
