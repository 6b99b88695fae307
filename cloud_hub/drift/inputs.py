"""From windows to what is wrong with inputs: data quality and outliers, device by device, and their alarms.

A release has one monitor, which says what it has counted, and each device that serves it one row: what is bet on of it.
Windows of other releases are passed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
from msgspec import Struct
from sqlmodel import Session, col, select

from cloud_hub.context import Hub
from cloud_hub.drift import bets, budget, growth, input_alarms, outliers, quality
from cloud_hub.drift.baseline import BLOCKS
from cloud_hub.drift.input_alarms import OUTLIERS, QUALITY
from cloud_hub.drift.input_state import DeviceInputs, InputMonitorState, Track, feature_text, key_of, text_of
from cloud_hub.drift.policy import DriftPolicy
from cloud_hub.drift.profiles import profile_of
from cloud_hub.drift.records import revoked_devices
from cloud_hub.drift.scope import CheckedRelease
from cloud_hub.store.engine import lock_name
from cloud_hub.store.tables import InputMonitor, InputWatch, WindowRow
from cloud_hub.store.windows import newest_window
from fleet.protocol.durations import DAY_S
from fleet.protocol.figures import MEAN, Told, TrainingProfile, figures_of, planned_figures
from fleet.protocol.manifest import Manifest
from fleet.protocol.telemetry import InputSummary

BATCH = 500  # windows per transaction
BATCHES = 20  # per look and model
TRACKS = 256  # of one device that something may be held against


def step(hub: Hub, target: CheckedRelease, manifest: Manifest, policy: DriftPolicy) -> list[int]:
    """Count the release's new windows; return the numbers of new alarms."""
    model, release, upto = target.model, target.release, target.upto
    with hub.reading() as session:
        known = session.get(InputMonitor, (model, release))
        if known is not None and newest_window(session, model, upto) <= known.last_window:
            return []
    profile = profile_of(hub, manifest)
    shared = Shared(policy=policy, releases=len(target.scope.watched))
    raised: list[int] = []
    for _ in range(BATCHES):
        with hub.session() as session:
            lock_name(session, f"drift:{model}")  # also the operator who closes an alarm
            monitor = session.get(InputMonitor, (model, release))
            monitor = monitor or InputMonitor(model=model, release=release, updated_at=hub.clock())
            rows = _new_windows(session, monitor, upto, BATCH)
            counted = Counted(session, monitor, planned_figures(manifest.inputs), profile, shared, hub.clock())
            for row in rows:
                counted.window(row)
            if len(rows) < BATCH:  # windows of other releases are passed: whoever waits for this monitor goes on
                monitor.last_window = max(newest_window(session, model, upto), monitor.last_window)
            raised += counted.alarms(hub)
            counted.keep()
        if len(rows) < BATCH:
            break
    return raised


def _new_windows(session: Session, monitor: InputMonitor, upto: int, most: int) -> list[WindowRow]:
    rows = (
        select(WindowRow)
        .where(WindowRow.model == monitor.model, WindowRow.release == monitor.release)
        .where(col(WindowRow.id) > monitor.last_window, col(WindowRow.id) <= upto)
        .where(col(WindowRow.device_id).not_in(revoked_devices()))
        .order_by(col(WindowRow.id))
        .limit(most)
    )
    return list(session.exec(rows))


class Shared(Struct, frozen=True, kw_only=True):
    """The settings that the releases of a model share: their policy, and how many of them share its budget."""

    policy: DriftPolicy
    releases: int


class Counted:
    """One step over a release's windows, within a transaction."""

    def __init__(
        self,
        session: Session,
        monitor: InputMonitor,
        told: Sequence[Told],
        profile: TrainingProfile | None,
        shared: Shared,
        now: float,
    ) -> None:
        self._session = session
        self._monitor = monitor
        self._facts = msgspec.convert(monitor.document, InputMonitorState)
        self._facts.profiled = profile is not None
        self._plan = told
        self._profile = profile
        self._policy, self._releases = shared.policy, shared.releases
        self._devices: dict[str, DeviceInputs] = {}
        self._now = now  # the hub's: those of devices may be wrong
        self._facts.begun = self._facts.begun or now

    def window(self, row: WindowRow) -> None:
        """Count one window."""
        facts, body = self._facts, row.body
        self._monitor.last_window = row.id or 0
        facts.windows += 1
        summaries = msgspec.convert(body.get("inputs", ()), tuple[InputSummary, ...])
        far = body.get("outlying", -1)
        if summaries:
            facts.told += 1
            self._quality(row, summaries)
            self._growth(row, summaries)
        if facts.left_out:  # what only grows leaves the training data in the end, and takes the whole input with it
            return
        if far >= 0 and row.sketch_count >= self._policy.min_count:
            facts.sketched += 1
            device = self._device(row.device_id)
            device.outliers = outliers.count(
                device.outliers,
                far / row.sketch_count,
                row.started_at,
                row.ended_at,
                first=self._policy.baseline_windows,
                period_s=self._policy.baseline_s,
            )

    def _quality(self, row: WindowRow, summaries: tuple[InputSummary, ...]) -> None:
        device, facts = self._device(row.device_id), self._facts
        device.begun = self._now if device.begun is None else device.begun
        hour = int(row.ended_at % DAY_S // 3600.0)
        learning, own = self._learns(facts.begun, facts.told - 1), self._learns(device.begun, device.learnt)
        facts.hours[hour] += learning
        device.learnt += own
        seen = quality.seen_in(summaries, row.body.get("counters", {}).get("requests", 0), self._plan, self._profile)
        for key, found in seen.items():
            name = text_of(key)
            if found.normal is not None:
                margin = quality.margin_of(key, found.normal)
            elif learning or own:
                if found.share and learning:
                    sums = facts.usual.setdefault(name, {})
                    sums[str(hour)] = sums.get(str(hour), 0.0) + found.share
                if found.share and own:
                    device.own[name] = device.own.get(name, 0.0) + found.share
                continue
            else:
                margin = quality.margin_of(key, *self._habit(device, name))
            if margin is not None:
                self._track(device, name, margin, found.share, row.started_at)

    def _growth(self, row: WindowRow, summaries: tuple[InputSummary, ...]) -> None:
        """Follow the features that may only grow; once the device's first period is over, and has
        windows enough, the monitor counts them."""
        device, facts = self._device(row.device_id), self._facts
        first = device.climbing is None
        device.climbing = row.ended_at if device.climbing is None else device.climbing
        for name, mean in _means(summaries, self._plan):
            known = device.climbs.get(name)
            if known is not None:
                device.climbs[name] = growth.followed(known, mean)
            elif first and len(device.climbs) < growth.FEATURES:
                device.climbs[name] = growth.begun(mean)
        over = row.ended_at - device.climbing >= self._policy.baseline_s
        # Long windows may be too few in the first period: a feature is looked at until they say enough of it.
        said = {name for name, one in device.climbs.items() if over and one.steps >= BLOCKS and not one.grows}
        kept = {name: one for name, one in device.climbs.items() if not one.hopeless and name not in said}
        steps = max((one.steps for one in device.climbs.values()), default=0.0)
        device.climbs = kept
        if not device.seen and (steps >= BLOCKS or not kept):
            device.seen, facts.watched = True, facts.watched + 1
        grown = sorted(name for name, one in kept.items() if one.grows) if over and device.seen else device.grown
        for name in {*grown} ^ {*device.grown}:
            facts.growing[name] = facts.growing.get(name, 0) + (1 if name in grown else -1)
        device.grown = grown
        facts.left_out = sorted(growth.left_out(facts.growing, facts.watched, facts.left_out))

    def _learns(self, begun: float, windows: int) -> bool:
        return windows < self._policy.baseline_windows or self._now - begun < self._policy.baseline_s

    def _habit(self, device: DeviceInputs, name: str) -> tuple[float, int]:
        """Return the usual share, by the device's own first windows or the worst hour of all, and the windows that
        tell it."""
        habits = [(device.own.get(name, 0.0) / max(device.learnt, 1), device.learnt)]
        for hour, total in self._facts.usual.get(name, {}).items():
            habits.append((total / max(self._facts.hours[int(hour)], 1), self._facts.hours[int(hour)]))
        share, windows = max(habits)
        return min(share, 1.0), max(windows, 1)

    def _track(self, device: DeviceInputs, name: str, margin: float, share: float, at: float) -> None:
        track = device.tracks.get(name)
        if track is None:
            if share <= margin or len(device.tracks) >= TRACKS:  # nothing is held against it
                return
            track = Track(since=at, now=share)
        logs = bets.bet(track.logs, share, min(margin + track.accepted, quality.MOST))
        if max(logs) <= 0 and not track.alarm and not track.accepted:
            device.tracks.pop(name, None)
            return
        since = at if bets.evidence(track.logs) <= 0 else track.since
        now = track.now + outliers.LAST * (share - track.now)
        device.tracks[name] = msgspec.structs.replace(track, logs=logs, since=since, now=now)

    def alarms(self, hub: Hub) -> list[int]:
        """Raise alarms, or add to open ones, for what has come over its limit; returns the numbers of new ones."""
        limit = self.limit
        bad = [
            (name, key, track)
            for name, device in sorted(self._devices.items())
            for key, track in device.tracks.items()
            if not track.alarm and bets.evidence(track.logs) >= limit
        ]
        far = [
            name
            for name, device in sorted(self._devices.items())
            if not device.outliers.alarm and bets.evidence(device.outliers.logs) >= limit
        ]
        told, names = {one.tensor: one for one in self._plan}, self._profile.names if self._profile is not None else {}
        found = [input_alarms.broken(name, key_of(key), track, names, told) for name, key, track in bad]
        alarm, raised = input_alarms.raise_or_extend(hub, self._session, self._monitor, QUALITY, found, limit)
        for name, key, track in bad:
            self._devices[name].tracks[key] = msgspec.structs.replace(track, alarm=alarm)
        found = [input_alarms.outlying(name, self._devices[name].outliers) for name in far]
        alarm, more = input_alarms.raise_or_extend(hub, self._session, self._monitor, OUTLIERS, found, limit)
        for name in far:
            device = self._devices[name]
            device.outliers = msgspec.structs.replace(device.outliers, alarm=alarm)
        return [*raised, *more]

    @property
    def limit(self) -> float:
        """The evidence that raises an alarm, of any device."""
        facts = self._facts
        span = max(self._now - facts.begun, 3600.0)
        tests = (1 + sum(len(told.names) for told in self._plan)) * len(quality.PROBLEMS)
        days = budget.days_of(self._policy.budget_days, budget.DATA, self._releases)
        return bets.limit(days, facts.windows * DAY_S / span, tests)

    def keep(self) -> None:
        """Write down what was counted."""
        now = self._now
        self._monitor.document = msgspec.to_builtins(self._facts)
        self._monitor.updated_at = now
        self._session.add(self._monitor)
        for name, device in self._devices.items():
            row = self._session.get(InputWatch, self._key(name))
            if row is None:
                row = InputWatch(
                    model=self._monitor.model, release=self._monitor.release, device_id=name, updated_at=now
                )
            row.document, row.updated_at = msgspec.to_builtins(device), now
            self._session.add(row)
        self._session.flush()

    def _device(self, name: str) -> DeviceInputs:
        found = self._devices.get(name)
        if found is None:
            row = self._session.get(InputWatch, self._key(name))
            found = self._devices[name] = (
                msgspec.convert(row.document, DeviceInputs) if row is not None else DeviceInputs()
            )
        return found

    def _key(self, name: str) -> tuple[str, int, str]:
        return self._monitor.model, self._monitor.release, name


def _means(summaries: Sequence[InputSummary], told: Sequence[Told]) -> Iterator[tuple[str, float]]:
    """The means of a window's numbers, by feature; those of images, sounds and texts are no counters."""
    known = {one.tensor: one for one in told if one.kind == "values"}
    for summary in summaries:
        table = figures_of(summary)
        if summary.rows and summary.name in known and len(table) == len(known[summary.name].names):
            for place in np.flatnonzero(np.isfinite(table[:, MEAN])):
                yield feature_text(summary.name, int(place)), float(table[place, MEAN])
