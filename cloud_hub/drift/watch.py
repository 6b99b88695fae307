"""A release's streams together: devices, the groups that labels make of them, and the fleet. Pure.

A device is held against its own baseline; until it has one, against its group's, provisionally. A group's window is the
mean, over a slot of time, of its devices' deviations from their own baselines' means, without their weeks: a group
learns its own. Who is there changes nothing in it. In a
slot a device counts once, with a deviation that is bounded, and not at all while an alarm names it, so that one device,
sick or forged, alarms itself and hardly moves the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from cloud_hub.drift import signed
from cloud_hub.drift.baseline import FARTHEST
from cloud_hub.drift.signed import Bank
from cloud_hub.drift.streams import (
    Settings,
    Stream,
    borrow,
    expected_at,
    learn,
    learn_week,
    new_stream,
    without_baseline,
)
from cloud_hub.drift.week import SLOT_S

Floats = npt.NDArray[np.float64]
FLEET = ("fleet", "")
PARTS = 3  # of the budget: the fleets, the groups, the devices, each together over all releases of the model


class SeenWindow(Struct, frozen=True, kw_only=True):
    """One device's window: when (Unix seconds), how many inputs, and their mean (K,) in the basis's coordinates."""

    device: str
    release: int
    at: float
    count: int
    row: Floats


class WatchFacts(Struct, frozen=True, kw_only=True):
    """The facts that a watch knows: how many `devices`, `groups` and `releases` of the model share the budget, the
    `release` whose streams these are, how long a group's window is (`slot_s`), and the time (Unix seconds)."""

    devices: int
    groups: int
    releases: int = 1
    release: int
    slot_s: float
    now: float


class Watch:
    """Counts windows into streams; those that are missing are made.

    Args:
        streams: by (kind, name); groups and devices that windows come from.
        groups: of each device, the names of its groups.
    """

    def __init__(
        self,
        settings: Settings,
        streams: dict[tuple[str, str], Stream],
        groups: Mapping[str, Sequence[str]],
        facts: WatchFacts,
    ) -> None:
        self.settings, self.streams, self.groups = settings, streams, groups
        self.release, self.slot_s = facts.release, facts.slot_s
        self.touched: set[tuple[str, str]] = set()
        # Each release has a fleet of its own; groups and devices are those of all, and a device serves one at a time.
        each = {"fleet": max(facts.releases, 1), "group": max(facts.groups, 1), "device": max(facts.devices, 1)}
        self._shares = {kind: 1 / PARTS / count for kind, count in each.items()}
        for key, stream in list(streams.items()):
            if stream.kind != "device" and stream.windows and not stream.began:
                stream = streams[key] = without_baseline(stream)  # an earlier version did not keep when it began
            stream.share = self._shares[stream.kind]
            if max(stream.last, stream.slot * self.slot_s, *_visits(stream)) > facts.now + 2 * self.slot_s:
                _set_back(stream, facts.now)

    def count(self, windows: Sequence[SeenWindow]) -> None:
        """Count windows in the order in which they came."""
        for some in _rounds(windows):
            streams = [self._device(seen) for seen in some]
            _step(streams, some, self.settings)
            for stream, seen in zip(streams, some, strict=True):
                self._learn(stream, seen)
            for stream, seen in zip(streams, some, strict=True):
                self._join_groups(stream, seen)
                learn_week(stream, seen.row, seen.at, self.settings)

    def over(self) -> list[Stream]:
        """Streams whose evidence has reached their limit, and that no open alarm names."""
        found = [self.streams[key] for key in sorted(self.touched)]
        return [s for s in found if not s.alarm and s.bank is not None and s.evidence >= s.limit(self.settings)]

    def _device(self, seen: SeenWindow) -> Stream:
        key = ("device", seen.device)
        stream = self.streams.get(key)
        if stream is None or stream.release != seen.release:
            stream = new_stream("device", seen.device, seen.release, self._shares["device"], len(seen.row))
            stream.began = seen.at
            self.streams[key] = stream
        if stream.bank is None and (lender := self._lender(seen.device)) is not None:
            borrow(stream, lender, self.settings, seen.at)
        stream.last = max(stream.last, seen.at)
        stream.windows += 1
        self.touched.add(key)
        return stream

    def _learn(self, stream: Stream, seen: SeenWindow) -> None:
        if stream.history is None:
            return
        had = stream.own
        moved = learn(stream, seen.row, stream.last, seen.count, self.settings)
        if not stream.own or (had and moved is None):
            return
        assert stream.bank is not None
        mean, scale = stream.bank.mean[0], float(stream.bank.scale[0])
        for group in self._groups_of(seen.device, len(seen.row)):
            if moved is None or group.level is None:
                level = mean if group.level is None else group.level
                group.members += 1
                group.level = level + (mean - level) / group.members
            else:
                group.level = group.level + moved / group.members
                _correct(group, moved)
            group.apart += (min(float(np.linalg.norm(mean - group.level)), FARTHEST) - group.apart) / group.members
            group.usual += (min(scale, FARTHEST) - group.usual) / group.members

    def _join_groups(self, stream: Stream, seen: SeenWindow) -> None:
        """Let a device's window count in the open slot of its groups."""
        if not stream.own or stream.bank is None or stream.alarm or stream.evidence >= stream.limit(self.settings):
            return
        deviation = seen.row - stream.bank.mean[0]
        length = float(np.linalg.norm(deviation))
        far = float(stream.bank.far[0])
        if stream.in_first_period(self.settings):  # its first windows do not say yet how far its nights lie
            far = max(far, FARTHEST)
        deviation = deviation * min(1.0, far / max(length, 1e-12))
        slot = int(stream.last // self.slot_s)
        if slot <= stream.slot:
            return
        stream.slot = slot
        for group in self._groups_of(seen.device, len(seen.row)):
            if slot < group.slot:  # late: what the others showed then is closed
                continue
            if slot > group.slot:
                self._close_slot(group)
                group.slot, group.open_sum, group.open_devices = slot, np.zeros(len(deviation)), 0
            assert group.open_sum is not None
            group.open_sum = group.open_sum + deviation
            group.open_devices += 1

    def _close_slot(self, group: Stream) -> None:
        # Of one device, its own stream says more; of slots before the clock was set back nobody knows when they were.
        if group.slot < 0 or group.open_sum is None or group.open_devices < 2:
            return
        row, at = group.open_sum / group.open_devices, (group.slot + 1) * self.slot_s
        middle = (group.slot + 0.5) * self.slot_s
        if not group.windows:
            group.began = at
        group.last = max(group.last, at)
        group.windows += 1
        if group.bank is not None:
            counts, times = np.array([float(group.open_devices)]), np.array([group.last])
            offset, doubt = expected_at(group, middle)
            settings, rows = self.settings, (row - offset)[None]
            signed.step(group.bank, settings.weights, rows, counts, times, doubt, settings.least)
        if group.history is not None:
            learn(group, row, group.last, group.open_devices, self.settings)
        learn_week(group, row, middle, self.settings)

    def _groups_of(self, device: str, dims: int) -> Iterator[Stream]:
        for kind, name in (("group", name) for name in self.groups.get(device, ())):
            yield self._group(kind, name, dims)
        yield self._group(*FLEET, dims)

    def _group(self, kind: str, name: str, dims: int) -> Stream:
        stream = self.streams.get((kind, name))
        if stream is None or stream.release != self.release:
            stream = new_stream("fleet" if kind == "fleet" else "group", name, self.release, self._shares[kind], dims)
            self.streams[(kind, name)] = stream
        self.touched.add((kind, name))
        return stream

    def _lender(self, device: str) -> Stream | None:
        """The smallest group of the device that has baselines to lend, else the fleet."""
        keys = [("group", name) for name in self.groups.get(device, ())]
        groups = [self.streams[key] for key in [*keys, FLEET] if key in self.streams]
        able = [group for group in groups if group.members >= 2 and group.release == self.release]
        return min(able, key=lambda group: group.members, default=None)


def _set_back(stream: Stream, now: float) -> None:
    """The hub's clock ran ahead and was set back: a stream whose time lies ahead would wait until that day comes."""
    stream.last, stream.slot, stream.began = now, -1, min(stream.began, now)
    stream.based = min(stream.based, now)
    if stream.bank is not None:
        stream.bank.open_part[:] = 0.0
    for week in (stream.week, stream.aside):
        if week is not None:
            week.drop_open()


def _visits(stream: Stream) -> list[float]:
    """Return when the open visits of its weeks begin (Unix seconds)."""
    return [float(week.open[0]) * SLOT_S for week in (stream.week, stream.aside) if week is not None and week.open[1]]


def _correct(group: Stream, moved: Floats) -> None:
    """A device's baseline has become a better one: its part of the group's deviations moves along."""
    counts = [group.bank.count[0]] if group.bank is not None else []
    if group.history is not None:
        counts.append(group.history.count)
        group.history.rows = group.history.rows - moved / max(group.history.count, 1.0)
    if group.bank is not None:
        group.bank.mean = group.bank.mean - moved / max(float(counts[0]), 1.0)


def _step(streams: Sequence[Stream], windows: Sequence[SeenWindow], settings: Settings) -> None:
    """Count one window of each stream that has a baseline, all at once."""
    pairs = [(stream, seen) for stream, seen in zip(streams, windows, strict=True) if stream.bank is not None]
    if not pairs:
        return
    bank = Bank.stack([stream.bank for stream, _ in pairs if stream.bank is not None])
    expected = [expected_at(stream, seen.at) for stream, seen in pairs]
    rows = np.stack([seen.row - offset for (_, seen), (offset, _) in zip(pairs, expected, strict=True)])
    counts, at = np.array([float(seen.count) for _, seen in pairs]), np.array([stream.last for stream, _ in pairs])
    signed.step(bank, settings.weights, rows, counts, at, np.array([doubt for _, doubt in expected]), settings.least)
    for (stream, _), part in zip(pairs, bank.split(), strict=True):
        stream.bank = part


def _rounds(windows: Sequence[SeenWindow]) -> Iterator[list[SeenWindow]]:
    """Windows in their order, cut wherever a device comes again."""
    now: dict[str, SeenWindow] = {}
    for seen in windows:
        if seen.device in now:
            yield list(now.values())
            now = {}
        now[seen.device] = seen
    if now:
        yield list(now.values())
