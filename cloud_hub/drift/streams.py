"""One stream's state, and its bytes: a baseline in the making, then a test against it. Pure.

    waiting → provisional → steady
       ↑____________|__________|     when its device runs another release, or when an operator asks for a new baseline

*waiting*: too few windows for anything. *provisional*: the period is not over, or does not cover 30 blocks yet. Within
the first period everything is usual, its nights too, and nothing is held against it; after that only what lies far
outside counts. *steady*: the baseline is frozen, the history is gone, and evidence adds up.

The bytes are bounded: at most 15 KB while a baseline is made, 6 KB afterwards, with `DIMS` coordinates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from cloud_hub.drift import signed
from cloud_hub.drift.baseline import BLOCKS, DAY_S, FAR, FARTHEST, WIDE, Baseline, History, fit
from cloud_hub.drift.signed import Bank

Floats = npt.NDArray[np.float64]
Kind = Literal["device", "group", "fleet"]
State = Literal["waiting", "provisional", "steady"]
PATIENCE = 64  # periods after which a baseline that is not steady yet is tried again each time as long
SUSPICION = 1.0  # log evidence of the provisional bet
SCHEMA = 1


@dataclass(frozen=True)
class Settings:
    """How a model's streams are watched.

    `period_s` is a baseline's least length, `first` how many windows make a provisional one; at most one false alarm in
    `budget_days`. `weights` (K,) are the basis's.
    """

    period_s: float
    first: int
    budget_days: float
    weights: Floats


@dataclass
class Stream:
    """A device, a group or the fleet. Times are Unix seconds.

    `share` of the budget; `began` and `last`: the times of its first and its newest window; `next_fit_s`: how long
    after `began` its baseline is made anew. `slot`: of a device, the last one in which it counted for its groups; of a
    group, the open one, with the sum of its devices' deviations and their number. `alarm`: the open alarm that names
    it, or 0. `own`: whether the baseline is its own, not borrowed. Of a group: `level`, the mean of the baselines of
    its `members`, how far `apart` they lie from it, and the scale of a window that is `usual` among them: means,
    which one odd device moves little.
    """

    kind: Kind
    name: str
    release: int
    share: float
    history: History | None
    bank: Bank | None = None
    began: float = 0.0
    last: float = 0.0
    windows: int = 0
    next_fit_s: float = 0.0
    slot: int = -1
    open_sum: Floats | None = None
    open_devices: int = 0
    alarm: int = 0
    own: bool = False
    level: Floats | None = None
    members: int = 0
    apart: float = 0.0
    usual: float = 0.0

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from the model's other streams."""
        return self.kind, self.name

    @property
    def state(self) -> State:
        """Where its baseline stands."""
        if self.bank is None:
            return "waiting"
        return "steady" if self.bank.steady[0] else "provisional"

    @property
    def evidence(self) -> float:
        """The evidence that it has moved, as a log e-value."""
        return float(self.bank.log_e[0]) if self.bank is not None else 0.0

    @property
    def distance(self) -> float:
        """How far it has moved, by the bet with most evidence or by its last windows, without what those show of noise:
        a root of a squared maximum mean discrepancy, in the directions that are watched."""
        if self.bank is None:
            return 0.0
        bet, _ = self._leading()
        seen = min(max(float(self.bank.windows[0]), 1.0), signed.FAST)
        noise = float(np.trace(self.bank.covariance[0])) if self.state == "steady" else float(self.bank.scale[0]) ** 2
        lately = float(self.bank.fast[0] @ self.bank.fast[0]) - noise / seen
        moved = self.bank.moved[0, bet] if bet < len(signed.HORIZONS) else self.bank.fast[0]
        return math.sqrt(max(lately, float(moved @ moved) if self.evidence >= 3.0 else 0.0, 0.0))

    @property
    def since(self) -> float | None:
        """From when the evidence adds up."""
        return None if self.bank is None else float(self.bank.since[0][self._leading()])

    @property
    def margin(self) -> float | None:
        """What a distance is held against: before it is steady, how far is far; then one deviation of a block."""
        if self.bank is None:
            return None
        usual = np.sqrt(max(float(np.trace(self.bank.covariance[0])), 0.0))
        return float(usual if self.state == "steady" else self.bank.far[0])

    def in_first_period(self, settings: Settings) -> bool:
        """Whether its baseline is made of the first windows of a period that is not over."""
        return self.own and self.history is not None and self.next_fit_s <= settings.period_s

    def limit(self, settings: Settings) -> float:
        """The evidence that raises an alarm; its windows per day are those that were counted, in a day at least."""
        days = max((self.last - self.began) / DAY_S, 1.0)
        return signed.limit(settings.budget_days, max(self.windows, 1) / days, self.share)

    def _leading(self) -> tuple[int, int]:
        assert self.bank is not None
        bet, rate = np.unravel_index(int(self.bank.logs[0].argmax()), self.bank.logs[0].shape)
        return int(bet), int(rate)


def new_stream(kind: Kind, name: str, release: int, share: float, dims: int) -> Stream:
    """A stream that has seen nothing."""
    return Stream(kind=kind, name=name, release=release, share=share, history=History(dims))


def learn(stream: Stream, row: Floats, at: float, count: int, settings: Settings) -> Floats | None:
    """Add a window to the history of a stream that is not steady, and make its baseline when that is due.

    The first period is what is usual, by definition: a day has a night. After it, while there is a suspicion that the
    stream has moved already, its windows are not taken for what is usual.

    Returns:
        The baseline's mean less the one before, (K,), when there is a new one after an earlier; else None.
    """
    assert stream.history is not None
    if stream.own and stream.bank is not None:
        if stream.in_first_period(settings):
            stream.bank.logs[:, -1] = 0.0
        elif stream.bank.logs[0, -1].max() >= SUSPICION:
            return None
    stream.history.add(row, at, count)
    elapsed = at - stream.began
    if not stream.own:
        due = stream.history.windows >= settings.first
        stream.next_fit_s = settings.period_s
    else:
        enough = elapsed >= settings.period_s and stream.history.windows == BLOCKS
        due = elapsed >= stream.next_fit_s or enough
    if not due or stream.history.windows < 2:
        return None
    over = elapsed >= settings.period_s
    before = stream.bank if stream.own else None
    stream.own = True
    made = fit(stream.history, settings.weights, over=over, far=float(before.far[0]) if before is not None else 0.0)
    stream.bank = Bank.begin([made], [stream.share], settings.weights, at)
    if made.steady:
        stream.history = None
    elif over:
        stream.next_fit_s = elapsed + min(elapsed, PATIENCE * settings.period_s)
    if before is None:
        return None
    moved: Floats = made.mean - before.mean[0]
    stream.bank.logs[:, -1], stream.bank.since[:, -1] = before.logs[:, -1], before.since[:, -1]
    stream.bank.fast, stream.bank.windows = before.fast - moved, before.windows
    return moved


def borrow(stream: Stream, group: Stream, settings: Settings, at: float) -> None:
    """Watch a device that has no baseline yet against its group's, provisionally: where the others' baselines lie."""
    assert group.level is not None
    dims = len(group.level)
    lent = Baseline(
        mean=group.level, covariance=np.zeros((dims, dims)), block_s=0.0, blocks=1, inflation=1.0, steady=False,
        far=min(max(2 * FAR, WIDE * group.apart), FARTHEST), scale=max(group.usual, 1e-6), count=1.0,
    )  # fmt: skip
    stream.bank = Bank.begin([lent], [stream.share], settings.weights, at)


def watch_again(stream: Stream) -> None:
    """Go on against the same baseline, from nothing."""
    if stream.bank is not None:
        stream.bank.logs[:] = 0.0
    stream.alarm = 0


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
    history: tuple[bytes, bytes, bytes, bytes, int, int, float] | None
    own: bool
    level: bytes
    members: int
    apart: float
    usual: float


WHOLE = {"since", "open_part"}  # times and their parts need all their digits
FROZEN = {"covariance", "moved", "open"}  # of a steady stream alone


def encode(stream: Stream) -> bytes:
    """A stream's bytes."""
    bank: dict[str, bytes] = {}
    dims = stream.bank.mean.shape[1] if stream.bank is not None else 0
    if stream.bank is not None:
        for field in fields(Bank):
            value = getattr(stream.bank, field.name)[0]
            if field.name in FROZEN and stream.state != "steady":
                continue
            if field.name == "covariance":
                value = value[np.triu_indices(dims)]
            bank[field.name] = value.astype("<f8" if field.name in WHOLE else "<f4").tobytes()
    history = None
    if stream.history is not None:
        h = stream.history
        dims = h.rows.shape[1]
        anchor = h.rows.mean(axis=0) if len(h.rows) else np.zeros(dims)
        scale = max(float(np.abs(h.rows - anchor).max(initial=0.0)), 1e-12)
        history = (
            np.concatenate([anchor, [scale]]).astype("<f4").tobytes(),
            ((h.rows - anchor) / scale).astype("<f2").tobytes(),
            h.at.astype("<f8").tobytes(),
            h.sizes.astype("<f4").tobytes(),
            h.level,
            h.windows,
            h.inverse_counts,
        )
    header = _Header(
        SCHEMA, stream.kind, stream.name, stream.release, stream.share, stream.began, stream.last, stream.windows,
        stream.next_fit_s, stream.slot, stream.open_devices, stream.alarm, dims,
        _packed(stream.open_sum), bank, history, stream.own, _packed(stream.level), stream.members, stream.apart,
        stream.usual,
    )  # fmt: skip
    return msgspec.msgpack.encode(header)


def decode(data: bytes) -> Stream:
    """The stream of some bytes; msgspec.DecodeError or ValueError where they are none of `encode`'s."""
    header = msgspec.msgpack.decode(data, type=_Header)
    if header.schema != SCHEMA:
        raise ValueError(f"a drift stream of schema {header.schema}")
    stream = Stream(
        kind=header.kind, name=header.name, release=header.release, share=header.share, history=None,
        began=header.began, last=header.last, windows=header.windows, next_fit_s=header.next_fit_s, slot=header.slot,
        open_devices=header.open_devices, alarm=header.alarm, own=header.own, members=header.members,
        apart=header.apart, usual=header.usual, open_sum=_unpacked(header.open_sum), level=_unpacked(header.level),
    )  # fmt: skip
    if header.bank:
        stream.bank = _bank(header.bank, header.dims)
    if header.history is not None:
        first, rows, at, sizes, level, windows, inverse = header.history
        history, anchored = History(header.dims), np.frombuffer(first, "<f4").astype(np.float64)
        scaled = np.frombuffer(rows, "<f2").astype(np.float64).reshape(-1, header.dims)
        history.rows = anchored[:-1] + scaled * anchored[-1]
        history.at = np.frombuffer(at, "<f8").copy()
        history.sizes = np.frombuffer(sizes, "<f4").astype(np.float64)
        history.level, history.windows, history.inverse_counts = level, windows, inverse
        stream.history = history
    return stream


def _packed(values: Floats | None) -> bytes:
    return b"" if values is None else values.astype("<f4").tobytes()


def _unpacked(data: bytes) -> Floats | None:
    return np.frombuffer(data, "<f4").astype(np.float64) if data else None


def _bank(parts: dict[str, bytes], dims: int) -> Bank:
    n, bets, rates = len(signed.HORIZONS), signed.BETS, len(signed.RATES)
    shapes = {
        "mean": (dims,), "fast": (dims,), "open": (dims,), "moved": (n, dims), "covariance": (dims, dims),
        "logs": (bets, rates), "since": (bets, rates),
    }  # fmt: skip
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
