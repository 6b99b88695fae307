"""A stream as bytes, and back. Pure. What an earlier version did not keep begins empty."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from cloud_hub.drift import signed
from cloud_hub.drift.baseline import History
from cloud_hub.drift.signed import Bank
from cloud_hub.drift.streams import Kind, Stream
from cloud_hub.drift.week import Packed, Shape, Week, decode_week, encode_week

Floats = npt.NDArray[np.float64]
SCHEMA = 1


# The mean of the rows and their largest distance from it, the rows, their times and sizes; then its own numbers.
_PackedHistory = tuple[bytes, bytes, bytes, bytes, int, int, float]


class _Header(Struct, array_like=True):
    schema: int
    kind: Kind
    name: str
    release: int
    share: float
    began: float
    last: float
    windows: int
    next_fit_s: float
    slot: int
    open_devices: int
    alarm: int
    dims: int
    open_sum: bytes
    bank: dict[str, bytes]
    history: _PackedHistory | None
    own: bool
    level: bytes
    members: int
    apart: float
    usual: float
    based: float = 0.0
    week: Packed | None = None
    aside: Packed | None = None
    shape: tuple[bytes, bytes] | None = None


WHOLE = {"since", "open_part"}  # times and their parts need all their digits
FROZEN = {"covariance", "moved", "open"}  # of a steady stream alone


def encode(stream: Stream) -> bytes:
    """A stream's bytes."""
    dims = stream.bank.mean.shape[1] if stream.bank is not None else 0
    if stream.history is not None:
        dims = stream.history.rows.shape[1]
    header = _Header(
        SCHEMA,
        stream.kind,
        stream.name,
        stream.release,
        stream.share,
        stream.began,
        stream.last,
        stream.windows,
        stream.next_fit_s,
        stream.slot,
        stream.open_devices,
        stream.alarm,
        dims,
        _packed(stream.open_sum),
        _packed_bank(stream.bank, settled=stream.state == "steady"),
        _packed_history(stream.history),
        stream.own,
        _packed(stream.level),
        stream.members,
        stream.apart,
        stream.usual,
        stream.based,
        _packed_week(stream.week),
        _packed_week(stream.aside),
        _packed_shape(stream.shape),
    )
    return msgspec.msgpack.encode(header)


def decode(data: bytes) -> Stream:
    """The stream of some bytes; msgspec.DecodeError or ValueError where they are none of `encode`'s."""
    header = msgspec.msgpack.decode(data, type=_Header)
    if header.schema != SCHEMA:
        raise ValueError(f"a drift stream of schema {header.schema}")
    stream = Stream(
        kind=header.kind,
        name=header.name,
        release=header.release,
        share=header.share,
        history=None,
        began=header.began,
        last=header.last,
        windows=header.windows,
        next_fit_s=header.next_fit_s,
        slot=header.slot,
        open_devices=header.open_devices,
        alarm=header.alarm,
        own=header.own,
        members=header.members,
        apart=header.apart,
        usual=header.usual,
        open_sum=_unpacked(header.open_sum),
        level=_unpacked(header.level),
    )
    if header.bank:
        stream.bank = _bank(header.bank, header.dims)
    stream.based = header.based or header.began  # an earlier version did not say it
    if header.week is not None:
        stream.week = decode_week(header.week, header.dims)
    if header.aside is not None:
        stream.aside = decode_week(header.aside, header.dims)
    if header.shape is not None:
        offsets, doubts = np.frombuffer(header.shape[0], "<f2"), np.frombuffer(header.shape[1], "<f4")
        stream.shape = Shape(offsets.astype(np.float64).reshape(len(doubts), -1), doubts.astype(np.float64))
    if header.history is not None:
        stream.history = _history(header.history, header.dims)
    return stream


def _packed_bank(bank: Bank | None, *, settled: bool) -> dict[str, bytes]:
    """The bank's arrays by name; what is frozen with the baseline only once that is `settled`."""
    packed: dict[str, bytes] = {}
    for field in fields(Bank) if bank is not None else ():
        if field.name in FROZEN and not settled:
            continue
        value = getattr(bank, field.name)[0]
        if field.name == "covariance":
            value = value[np.triu_indices(len(value))]
        packed[field.name] = value.astype("<f8" if field.name in WHOLE else "<f4").tobytes()
    return packed


def _packed_history(history: History | None) -> _PackedHistory | None:
    """Rows as halves of their largest distance from their mean."""
    if history is None:
        return None
    rows = history.rows
    anchor = rows.mean(axis=0) if len(rows) else np.zeros(rows.shape[1])
    scale = max(float(np.abs(rows - anchor).max(initial=0.0)), 1e-12)
    return (
        np.concatenate([anchor, [scale]]).astype("<f4").tobytes(),
        ((rows - anchor) / scale).astype("<f2").tobytes(),
        history.at.astype("<f8").tobytes(),
        history.sizes.astype("<f4").tobytes(),
        history.level,
        history.windows,
        history.inverse_counts,
    )


def _history(packed: _PackedHistory, dims: int) -> History:
    first, rows, at, sizes, level, windows, inverse = packed
    history, anchored = History(dims), np.frombuffer(first, "<f4").astype(np.float64)
    scaled = np.frombuffer(rows, "<f2").astype(np.float64).reshape(-1, dims)
    history.rows = anchored[:-1] + scaled * anchored[-1]
    history.at = np.frombuffer(at, "<f8").copy()
    history.sizes = np.frombuffer(sizes, "<f4").astype(np.float64)
    history.level, history.windows, history.inverse_counts = level, windows, inverse
    return history


def _packed(values: Floats | None) -> bytes:
    return b"" if values is None else values.astype("<f4").tobytes()


def _unpacked(data: bytes) -> Floats | None:
    return np.frombuffer(data, "<f4").astype(np.float64) if data else None


def _packed_week(week: Week | None) -> Packed | None:
    return None if week is None else encode_week(week)


def _packed_shape(shape: Shape | None) -> tuple[bytes, bytes] | None:
    return None if shape is None else (shape.offsets.astype("<f2").tobytes(), _packed(shape.doubts))


def _bank(parts: dict[str, bytes], dims: int) -> Bank:
    n, bets, rates = len(signed.HORIZONS), signed.BETS, len(signed.RATES)
    shapes = {
        "mean": (dims,),
        "fast": (dims,),
        "open": (dims,),
        "moved": (n, dims),
        "covariance": (dims, dims),
        "logs": (bets, rates),
        "since": (bets, rates),
    }
    arrays: dict[str, Any] = {}
    for field in fields(Bank):
        shape = shapes.get(field.name, ())
        data = parts.get(field.name)
        if data is None:
            value: Floats = np.zeros(shape)
        else:
            value = np.frombuffer(data, "<f8" if field.name in WHOLE else "<f4").astype(np.float64)
            if field.name == "covariance":
                full = np.zeros((dims, dims))
                full[np.triu_indices(dims)] = value
                value = full + np.triu(full, 1).T
        value = value.reshape(shape)
        arrays[field.name] = (value.astype(bool) if field.name == "steady" else value)[None]
    return Bank(**arrays)
