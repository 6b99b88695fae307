"""The facts of a rollout in columns: kept from step to step, changed device by device, judged all at once.

`facts` says what the facts mean, one device at a time; here the same is computed with arrays, so that a step's cost is
that of the devices that changed and a few passes over numbers. What devices gain in the bets is kept as well: the sums
over it are made anew at each step, in the order of the devices' names, and so are the same to the last bit.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from fleet.rollouts.bets import STAKES, Floats, harm_gains, health_gains
from fleet.rollouts.facts import DeviceFact

Mask = npt.NDArray[np.bool_]
Side = Literal["free", "control", "neither"]
SIDES: tuple[Side, ...] = ("free", "control", "neither")
AWAY, RESTING, FAILED, SILENT, WHOLE = range(5)
PAIRS = ("both", "only_old", "only_new", "neither", "repeats", "unnamed", "checked", "outvoted", "disputed")
OWN = ("own_old", "own_new", "own_same")  # a device's own word of all that it claims
ROW = np.dtype(
    [("side", "i1"), ("place", "i4"), ("hardware", "i4"), ("met", "?"), ("unmarked", "?")]
    + [(name, "?") for name in ("committed", "failed", "untried", "control_failed")]
    + [(name, "f8") for name in ("last_seen", "quiet_s", "silenced_at", "p95_us")]
    + [(name, "i8") for name in (*PAIRS, *OWN)]
)
BETS = ("harm", "health", "own_harm", "own_health")
NOBODY = np.zeros((), ROW)


class Member(Struct, frozen=True, kw_only=True):
    """A device, wherever the rollout's stage puts it.

    `fact` is how it stands as one of the cohort. `side` is `free` when a share takes it in that is larger than its
    `place` (in parts per million), `control` or `neither`. `met`: it has met the release in this attempt.
    `control_failed`: its own release fails. `unmarked`: its report says that it failed, which is not in its evidence
    yet.
    """

    fact: DeviceFact
    side: Side
    place: int
    met: bool = False
    control_failed: bool = False
    unmarked: bool = False


class Table(NamedTuple):
    """Devices in the order of their names; `hardware` has the class of each code in `rows`.

    `order` says where each is in `texts` (its reason and its class of hardware) and in `gains` (by `BETS`).
    """

    names: list[str]
    rows: npt.NDArray[Any]
    order: npt.NDArray[np.int64]
    texts: list[tuple[str, str]]
    hardware: list[str]
    gains: dict[str, Floats]

    def reason(self, at: int) -> str:
        """Return why a device fails."""
        return self.texts[int(self.order[at])][0]


class Columns:
    """Every device that a rollout may have to do with; `margin` is that of its policy."""

    def __init__(self, margin: float) -> None:
        self._margin = margin
        self._rows = np.zeros(0, ROW)
        self._gains = {name: np.zeros((0, len(STAKES))) for name in BETS}
        self._stale: set[int] = set()  # rows whose gains are to be computed
        self._at: dict[str, int] = {}
        self._free: list[int] = []
        self._texts: list[tuple[str, str]] = []  # of each row, its reason and its class of hardware
        self._pairs: list[tuple[int, ...]] = []
        self._hardware: dict[str, int] = {}
        self._order: tuple[list[str], npt.NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        return len(self._at)

    def put(self, member: Member) -> None:
        """Take a device in, or what has changed of it."""
        fact, pairs = member.fact, _pairs_of(member.fact)
        at = self._at.get(fact.device_id)
        if at is None:
            at = self._new(fact.device_id)
        if self._pairs[at] != pairs:
            self._pairs[at] = pairs
            self._stale.add(at)
        self._texts[at] = fact.reason, fact.hardware
        code = self._hardware.setdefault(fact.hardware, len(self._hardware))
        self._rows[at] = (
            SIDES.index(member.side),
            member.place,
            code,
            member.met,
            member.unmarked,
            fact.committed,
            fact.failed,
            fact.untried,
            member.control_failed,
            fact.last_seen,
            fact.quiet_s,
            _number(fact.silenced_at),
            _number(fact.p95_us),
            *pairs,
        )
        if len(self._hardware) > 1000 + 2 * len(self._at):  # a device may name another one with each report
            self._number_hardware()

    def drop(self, device_id: str) -> None:
        """Forget a device."""
        at = self._at.pop(device_id, None)
        if at is not None:
            self._free.append(at)
            self._order = None

    def heard(self, device_id: str, last_seen: float) -> None:
        """The device was heard last at that time; nothing else of it has changed."""
        at = self._at.get(device_id)
        if at is not None:
            self._rows["last_seen"][at] = last_seen

    def table(self) -> Table:
        """All devices, in the order of their names; it holds until the columns change."""
        self._bet()
        if self._order is None:
            named = sorted(self._at.items())
            self._order = [name for name, _ in named], np.array([at for _, at in named], np.int64)
        names, order = self._order
        return Table(names, self._rows[order], order, self._texts, list(self._hardware), self._gains)

    def _bet(self) -> None:
        """Compute anew what those gain whose pairs have changed."""
        if self._stale:
            at = np.array(sorted(self._stale))
            rows = self._rows[at]
            same = rows["both"] + rows["neither"]
            self._gains["harm"][at] = harm_gains(rows["only_old"], rows["only_new"])
            self._gains["health"][at] = health_gains(rows["only_old"], rows["only_new"], same, self._margin)
            old, new, same = (rows[name] for name in OWN)
            self._gains["own_harm"][at] = harm_gains(old, new)
            self._gains["own_health"][at] = health_gains(old, new, same, self._margin)
            self._stale.clear()

    def _new(self, device_id: str) -> int:
        self._order = None
        if not self._free:
            known, more = len(self._rows), max(64, len(self._rows) // 2)
            self._rows = np.concatenate([self._rows, np.zeros(more, ROW)])
            empty = np.zeros((more, len(STAKES)))
            self._gains = {name: np.concatenate([gains, empty]) for name, gains in self._gains.items()}
            self._texts += [("", "")] * more
            self._pairs += [()] * more
            self._free = list(range(known + more - 1, known - 1, -1))
        at = self._at[device_id] = self._free.pop()
        self._pairs[at] = ()  # none that any device has: what it gains is computed
        return at

    def _number_hardware(self) -> None:
        self._hardware = {}
        for at in self._at.values():
            self._rows["hardware"][at] = self._hardware.setdefault(self._texts[at][1], len(self._hardware))


def _pairs_of(fact: DeviceFact) -> tuple[int, ...]:
    return *(getattr(fact.pairs, name) for name in PAIRS), *fact.pairs.own


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
