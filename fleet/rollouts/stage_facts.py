"""The facts about a rollout's stage now, tallied from the columns of its devices. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import nsmallest
from statistics import median

import numpy as np
import numpy.typing as npt

from fleet.rollouts.bets import Floats
from fleet.rollouts.calendar import closed_since
from fleet.rollouts.claims import SharedInputs, contradicted, most
from fleet.rollouts.columns import (
    AWAY,
    FAILED,
    OWN,
    RESTING,
    SIDES,
    SILENT,
    WHOLE,
    Mask,
    Table,
)
from fleet.rollouts.evidence import Arms
from fleet.rollouts.facts import HABIT, Joined, heard_for
from fleet.rollouts.guard import ClassLatency, CohortHealth, by_reason
from fleet.rollouts.matching import Matched
from fleet.rollouts.pairs import Counted, Tally


class StageFacts:
    """The facts of this moment, as in `facts.RolloutFacts`, about a rollout that was neither withdrawn nor superseded.

    Args:
        table: the devices.
        share_ppm: of the channel.
        deaf_until: see `facts.RolloutFacts`.
        shared: inputs that several devices have met.

    The keeper of the devices sets `matched` to the outcomes that it has found, `mute` to why no audited pair can come.
    """

    withdrawn = superseded = ""

    def __init__(
        self, table: Table, share_ppm: int, deaf_until: float = 0.0, shared: SharedInputs | None = None
    ) -> None:
        self._table, self._rows, self.deaf_until = table, table.rows, deaf_until
        self._shared = shared or SharedInputs()
        self.matched: Matched | None = None
        self.mute = ""
        self._standing: tuple[object, npt.NDArray[np.int64], Mask] | None = None
        held = self._rows["place"] < share_ppm
        self._free: Mask = self._rows["side"] == SIDES.index("free")
        self._cohort: Mask = self._free & held
        self._left: Mask = self._rows["met"] & held & ~self._cohort
        self._control: Mask = (self._free & ~held) | ((self._rows["side"] == SIDES.index("control")) & ~self._left)

    @property
    def size(self) -> int:
        """Devices of the cohort."""
        return int(self._cohort.sum())

    @property
    def met(self) -> int:
        """Devices of the cohort, and those that have left it."""
        return int((self._cohort | self._left).sum())

    @property
    def devices(self) -> int:
        """All of the devices."""
        return len(self._rows)

    def names(self) -> frozenset[str]:
        """All of the cohort, of those that have left it, and of the control."""
        return self._named(self._cohort | self._left | self._control)

    def arms(self) -> tuple[frozenset[str], frozenset[str]]:
        """The cohort and the control."""
        return self._named(self._cohort), self._named(self._control)

    def _named(self, which: Mask) -> frozenset[str]:
        return frozenset(self._table.names[at] for at in np.flatnonzero(which).tolist())

    def places(self, salt: str, least: int, below: int) -> Sequence[int]:
        """See `facts.RolloutFacts.places`; `salt` is the one of the columns."""
        places = self._rows["place"][self._free]
        found: list[int] = np.sort(places[(least <= places) & (places < below)]).tolist()
        return found

    def heard_for(self, least_s: float, now: float) -> bool:
        """See `facts.heard_for`."""
        return heard_for(self.deaf_until, least_s, now)

    def tally(self, joined: Joined, silent_after_s: float, now: float) -> tuple[CohortHealth, tuple[Arms, ...]]:
        """See `facts.tally`."""
        stands, was_silent = self._stand(joined, silent_after_s, now)
        left = self._left & self._rows["failed"]
        cohort = self._cohort | left
        failed = np.flatnonzero(cohort & ((stands == FAILED) | (stands == SILENT)))
        whole = cohort & (stands == WHOLE)
        committed = self._rows["committed"]
        why = [self._table.reason(at) if self._rows["failed"][at] else "silent" for at in failed.tolist()]
        said = {reason for reason, at in zip(why, failed.tolist(), strict=True) if self._rows["failed"][at]} - {""}
        names = [self._table.names[at] for at in failed.tolist()]
        health = CohortHealth(
            present=int(whole.sum()) + len(failed),
            committed=int((whole & committed).sum()),
            untried=int((whole & committed & self._rows["untried"]).sum()),
            failed=len(failed),
            silent=int((cohort & (stands == SILENT)).sum()),
            resting=int((cohort & (stands == RESTING)).sum()),
            pending=int((whole & ~committed).sum()),
            reasons=tuple(sorted(said)[:5]),
            examples=tuple(nsmallest(5, names)),
            failures=by_reason(zip(names, why, strict=True)),
        )
        return health, self._arms(cohort, stands, was_silent)

    def silenced(self, joined: Joined, silent_after_s: float, now: float) -> tuple[str, ...]:
        """See `facts.silenced`; in the order of the names."""
        stands, was_silent = self._stand(joined, silent_after_s, now)
        found = (self._cohort | self._control) & (stands == SILENT) & ~was_silent
        return tuple(self._table.names[at] for at in np.flatnonzero(found).tolist())

    def unmarked(self) -> dict[str, str]:
        """Devices of the cohort whose report says that they failed, which is not in their evidence yet; and why."""
        found = np.flatnonzero(self._cohort & self._rows["unmarked"]).tolist()
        return {self._table.names[at]: self._table.reason(at) or "failed" for at in found}

    def latencies(self) -> tuple[ClassLatency, ...]:
        """See `facts.latencies`."""
        rows = self._rows[self._cohort & ~np.isnan(self._rows["p95_us"]) & ~self._rows["failed"]]
        measured: dict[str, list[float]] = {}
        for code, p95_us in zip(rows["hardware"].tolist(), rows["p95_us"].tolist(), strict=True):
            measured.setdefault(self._table.hardware[code], []).append(p95_us)
        return tuple(
            ClassLatency(hardware=hardware, devices=len(found), p95_us=median(found))
            for hardware, found in sorted(measured.items())
        )

    def counted(self, margin: float) -> Counted:
        """The pairs of the cohort and of those that have left it; `margin` is the one of the columns."""
        rows, gains = self._rows, self._table.gains
        met = self._cohort | self._left
        same = rows["both"] + rows["neither"]
        told = rows["only_old"] + rows["only_new"] + same
        old, new, rest = (rows[name] for name in OWN)
        inputs = np.maximum(told, old + new + rest)
        at = np.flatnonzero(met & (inputs > 0))
        doubted = contradicted(np.where(met, rows["outvoted"], 0), np.where(met, rows["checked"], 0))
        place = self._table.order[at]
        return Counted(
            names=[self._table.names[one] for one in at.tolist()],
            both=rows["both"][at],
            neither=rows["neither"][at],
            distinct=Tally(
                rows["only_old"][at], rows["only_new"][at], same[at], gains["harm"][place], gains["health"][place]
            ),
            own=Tally(old[at], new[at], rest[at], gains["own_harm"][place], gains["own_health"][place]),
            heard=~doubted[at],
            seen_on=int((met & ((inputs > 0) | (rows["repeats"] > 0))).sum()),
            repeats=_sum(rows["repeats"][met]),
            unnamed=_sum(rows["unnamed"][met]),
            shared=self._shared,
            disputing=most(self._table.names, rows["disputed"], met & (rows["disputed"] > 0)),
            contradicted=most(self._table.names, rows["outvoted"], doubted),
        )

    def unsure(self, joined: Joined, silent_after_s: float, now: float, bucket_s: float) -> tuple[str, ...]:
        """Return the devices whose standing is unsure while `last_seen` is known only to the `bucket_s` seconds around
        it.

        That is, where a moment lies between what is known and the end of these seconds at which `facts.standing` turns.
        """
        rows, known = self._rows, self._rows["last_seen"]
        until = (np.floor(known / bucket_s) + 1) * bucket_s
        turns = (
            np.full(len(rows), now - silent_after_s),
            self._joined(joined) - silent_after_s,
            rows["silenced_at"],
        )
        habit = np.maximum(silent_after_s, HABIT * rows["quiet_s"])
        quiet, quieter = (now - seen - _closed(joined, seen) for seen in (until, known))
        found = (quiet <= habit) & (quieter >= habit)
        for turn in turns:
            found |= (known <= turn) & (turn <= until)
        found &= self._cohort | self._left | self._control
        return tuple(self._table.names[at] for at in np.flatnonzero(found).tolist())

    def _joined(self, joined: Joined) -> Floats:
        """Return the moment at which each device was assigned to its arm."""
        times = np.array(joined.times or (joined.started_at,))
        shares = np.array(joined.shares_ppm[: len(times)])
        wave = np.searchsorted(shares, self._rows["place"], side="right")
        since: Floats = times[np.minimum(wave, len(times) - 1)]
        since[self._control] = joined.started_at
        return since

    def _stand(self, joined: Joined, silent_after_s: float, now: float) -> tuple[npt.NDArray[np.int64], Mask]:
        """Return the standing of each device (see `facts.standing`), and whether it was silent before."""
        asked = joined, silent_after_s, now
        if self._standing is not None and self._standing[0] == asked:
            return self._standing[1], self._standing[2]
        rows, since = self._rows, self._joined(joined)
        last_seen, silenced_at = rows["last_seen"], rows["silenced_at"]
        failed = np.where(self._control, rows["control_failed"], rows["failed"])
        committed = rows["committed"] & ~self._control
        known = silenced_at >= np.maximum(since, last_seen)
        habit = np.maximum(silent_after_s, HABIT * rows["quiet_s"])
        counts_from = np.maximum(last_seen, self.deaf_until)
        beyond = now - counts_from - _closed(joined, counts_from) > habit
        stands = np.select(
            [failed, now - last_seen <= silent_after_s, last_seen < since - silent_after_s, known | beyond, committed],
            [FAILED, WHOLE, AWAY, SILENT, RESTING],
            AWAY,
        )
        was_silent: Mask = silenced_at >= since
        self._standing = asked, stands, was_silent
        return stands, was_silent

    def _arms(self, cohort: Mask, stands: npt.NDArray[np.int64], was_silent: Mask) -> tuple[Arms, ...]:
        counts = (stands != AWAY) | was_silent
        fails = counts & ((stands == FAILED) | (stands == SILENT) | was_silent)
        codes, classes = self._rows["hardware"], len(self._table.hardware)
        sums = [
            np.bincount(codes[arm & which], minlength=classes).tolist()
            for arm in (cohort, self._control)
            for which in (counts, fails)
        ]
        found = sorted(zip(self._table.hardware, *sums, strict=True))
        return tuple(
            Arms(hardware=name, cohort=here, cohort_failed=failed, control=there, control_failed=theirs)
            for name, here, failed, there, theirs in found
            if here or there
        )


def _closed(joined: Joined, since: Floats) -> Floats | float:
    """Seconds since then in which nobody's silence counts."""
    return closed_since(joined.closed, since) if joined.closed else 0.0


def _sum(counts: npt.NDArray[np.int64]) -> int:
    """The sum as a whole number of any size: a device may bring as many repeats as 63 bits hold."""
    return (int((counts >> 32).sum()) << 32) + int((counts & 0xFFFF_FFFF).sum())
