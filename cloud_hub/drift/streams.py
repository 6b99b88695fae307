"""One stream's state: a baseline in the making, then a test against it. Pure. Its bytes: `stream_bytes`.

    waiting → provisional → steady (of a period, then of weeks)
       ↑____________|__________|     when its device runs another release, or when an operator asks for a new baseline

*waiting*: too few windows for anything. *provisional*: the period is not over, or does not cover 30 blocks yet. Within
the first period everything is usual, its nights too, and nothing is held against it; after that only what lies far
outside counts. *steady*: the baseline is frozen, the history is gone, and evidence adds up. Beside all that the week
is learnt, and where its hours and days explain what moves, a baseline of weeks takes the period's place (`week`).

The bytes are bounded, with `DIMS` coordinates: at most 20 KB while a period's baseline is made, 11 KB afterwards; in
the last week before a shape is looked for 9 KB more.
"""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from cloud_hub.drift import signed
from cloud_hub.drift.baseline import BLOCKS, FAR, FARTHEST, LEAST, WIDE, Baseline, History, fit
from cloud_hub.drift.signed import Bank
from cloud_hub.drift.week import Shape, Week
from fleet.protocol.durations import DAY_S

Floats = npt.NDArray[np.float64]
Kind = Literal["device", "group", "fleet"]
State = Literal["waiting", "provisional", "steady"]
Made = Literal["", "provisional", "period", "week"]
PATIENCE = 64  # periods after which a baseline that is not steady yet is tried again each time as long
SUSPICION = 1.0  # log evidence of the provisional bet


@dataclass(frozen=True)
class Settings:
    """The settings by which a model's streams are watched.

    `period_s` is a baseline's least length, `first` how many windows make a provisional one; at most one false alarm in
    `budget_days`. `weights` (K,) are the basis's; `least` is the least effect that matters, a distance.
    """

    period_s: float
    first: int
    budget_days: float
    weights: Floats
    least: float = LEAST


@dataclass
class Stream:
    """A device, a group or the fleet. Times are Unix seconds.

    `share` of the budget; `began` and `last`: the times of its first and its newest window; `next_fit_s`: how long
    after `began` its baseline is made anew. `slot`: of a device, the last one in which it counted for its groups; of a
    group, the open one, with the sum of its devices' deviations and their number. `alarm`: the open alarm that names
    it, or 0. `own`: whether the baseline is its own, not borrowed. Of a group: `level`, the mean of the baselines of
    its `members`, how far `apart` they lie from it, and the scale of a window that is `usual` among them: means,
    which one odd device moves little. `based`: when the baseline of its kind was made; `week`: what is gathered for one
    of weeks, `aside` the same with what came while an alarm was open, and `shape` that baseline, once it is found.
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
    based: float = 0.0
    week: Week | None = None
    aside: Week | None = None
    shape: Shape | None = None

    @property
    def key(self) -> tuple[str, str]:
        """The key that tells it from the model's other streams."""
        return self.kind, self.name

    @property
    def state(self) -> State:
        """The state of its baseline."""
        if self.bank is None:
            return "waiting"
        return "steady" if self.bank.steady[0] else "provisional"

    @property
    def made(self) -> Made:
        """The source of its baseline."""
        if self.bank is None:
            return ""
        if self.state == "provisional":
            return "provisional"
        return "period" if self.shape is None else "week"

    @property
    def evidence(self) -> float:
        """The evidence that it has moved, as a log e-value."""
        return float(self.bank.log_e[0]) if self.bank is not None else 0.0

    @property
    def distance(self) -> float:
        """The distance that it has moved, by the bet with most evidence or by its last windows, less their noise: a
        root of a squared maximum mean discrepancy, in the directions that are watched."""
        if self.bank is None:
            return 0.0
        bet, _ = self._leading()
        seen = min(max(float(self.bank.windows[0]), 1.0), signed.FAST)
        noise = float(np.trace(self.bank.covariance[0])) if self.state == "steady" else float(self.bank.scale[0]) ** 2
        lately = float(self.bank.fast[0] @ self.bank.fast[0]) - noise / seen
        moved = self.gone(bet)
        return math.sqrt(max(lately, float(moved @ moved) if self.evidence >= 3.0 else 0.0, 0.0))

    @property
    def leading_bet(self) -> int:
        """The bet with most evidence."""
        return self._leading()[0]

    def gone(self, bet: int) -> Floats:
        """The way that it has gone from its baseline (K,), by the running mean that a bet is made on.

        The stream has a baseline.
        """
        assert self.bank is not None
        found: Floats = self.bank.moved[0, bet] if bet < len(signed.HORIZONS) else self.bank.fast[0]
        return found

    @property
    def since(self) -> float | None:
        """From when the evidence adds up."""
        return None if self.bank is None else float(self.bank.since[0][self._leading()])

    @property
    def margin(self) -> float | None:
        """The margin that a distance is held against: how far is far, and once it is steady one deviation of a
        block."""
        if self.bank is None:
            return None
        usual = np.sqrt(max(float(np.trace(self.bank.covariance[0])), 0.0))
        return float(usual if self.state == "steady" else self.bank.far[0])

    def in_first_period(self, settings: Settings) -> bool:
        """Tell whether its baseline is made of the first windows of a period that is not over."""
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
    """Return a stream that has seen nothing."""
    return Stream(kind=kind, name=name, release=release, share=share, history=History(dims))


def without_baseline(group: Stream) -> Stream:
    """A group that learns anew what is usual; where its devices' baselines lie stays known."""
    assert group.level is not None
    found = new_stream(group.kind, group.name, group.release, group.share, len(group.level))
    found.level, found.members, found.apart, found.usual = group.level, group.members, group.apart, group.usual
    found.alarm = group.alarm
    return found


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
    if before is None or over:
        stream.based = at
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
    for week in (stream.week, stream.aside):
        if week is not None:
            week.shift(moved)
    stream.bank.logs[:, -1], stream.bank.since[:, -1] = before.logs[:, -1], before.since[:, -1]
    stream.bank.fast, stream.bank.windows = before.fast - moved, before.windows
    return moved


def borrow(stream: Stream, group: Stream, settings: Settings, at: float) -> None:
    """Watch a device that has no baseline yet against its group's, provisionally: where the others' baselines lie."""
    assert group.level is not None
    dims = len(group.level)
    lent = Baseline(
        mean=group.level,
        covariance=np.zeros((dims, dims)),
        block_s=0.0,
        blocks=1,
        inflation=1.0,
        steady=False,
        far=min(max(2 * FAR, WIDE * group.apart), FARTHEST),
        scale=max(group.usual, 1e-6),
        count=1.0,
    )
    stream.bank = Bank.begin([lent], [stream.share], settings.weights, at)


def expected_at(stream: Stream, at: float) -> tuple[Floats | float, float]:
    """Return the week's expectation at a time (Unix seconds): an offset (K,) from the baseline's mean, and a doubt."""
    return (0.0, 0.0) if stream.shape is None else stream.shape.at(at)


def learn_week(stream: Stream, row: Floats, at: float, settings: Settings) -> None:
    """Let a window (K,) at its own time join the week, and take the week for the baseline once it explains the
    moves: then the stream's evidence is nothing. While an alarm is open or due a window is kept aside, until an
    operator says whether it was usual (`watch_again`)."""
    if stream.shape is not None or stream.bank is None or not stream.own:
        return
    bank, week = stream.bank, stream.week or Week(len(row))
    stream.week = week
    if stream.alarm or stream.evidence >= stream.limit(settings):
        stream.aside = stream.aside or deepcopy(week)
        stream.aside.add(row - bank.mean[0], at, settings.weights)
        return
    if not week.add(row - bank.mean[0], at, settings.weights) or not week.is_due:
        return
    now = Baseline(
        mean=bank.mean[0],
        covariance=np.zeros((len(row), len(row))),
        block_s=0.0,
        blocks=1,
        inflation=1.0,
        steady=False,
        far=float(bank.far[0]),
        scale=float(bank.scale[0]),
        count=float(bank.count[0]),
    )
    found = week.found(settings.weights, stream.share, now)
    if found is None:
        week.postpone()
        return
    made, stream.shape = found
    stream.bank = Bank.begin([made], [stream.share], settings.weights, stream.last)
    stream.history, stream.week, stream.aside, stream.based = None, None, None, stream.last


def watch_again(stream: Stream, *, usual: bool = False) -> None:
    """Go on against the same baseline, from nothing. With `usual`, what came meanwhile joins what is known of the week;
    else it is dropped."""
    if usual and stream.aside is not None:
        stream.week = stream.aside
    stream.aside = None
    if stream.bank is not None:
        stream.bank.logs[:] = 0.0
    stream.alarm = 0
