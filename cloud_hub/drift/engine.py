"""From telemetry windows to monitors and alarms: the streams of each release that is watched, stepped under a lease.

    waiting → baseline → watching ⇄ alarmed
                 ↑___________|________|     when the release becomes a default, or an operator asks for a new baseline

*waiting*: too few windows. *baseline*: none is steady yet, and the test provisional. *alarmed*: an alarm
is open; the streams that it does not name go on being watched, and one that moves later is added to it.

Each release has a monitor, baselines, records and alarms of its own, from its own windows (`scope` says which releases
are watched). So a promotion makes new baselines from what the new release sees, and devices that go on with another
one keep theirs. The coordinates stay: the encoder is the model's.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from functools import partial

from sqlmodel import Session, col, select

from cloud_hub.context import Hub
from cloud_hub.drift import alarms, budget, groups, inputs, intake, left_out, records, scope, silence, trouble, truth
from cloud_hub.drift.basis import Basis, basis_of_encoder, decode_basis, encode_basis
from cloud_hub.drift.epochs import SLOT_S, begun_anew, current
from cloud_hub.drift.left_out import SketchedInput
from cloud_hub.drift.policy import DriftPolicy, policy_of
from cloud_hub.drift.response import follow, respond, unanswered
from cloud_hub.drift.scope import CheckedRelease
from cloud_hub.drift.slots import learn_slot
from cloud_hub.drift.streams import Settings, Stream
from cloud_hub.drift.telling import tell
from cloud_hub.drift.watch import Watch, WatchFacts
from cloud_hub.services.periodic import PeriodicService
from cloud_hub.services.supervisor import Service
from cloud_hub.store import uncounted
from cloud_hub.store.tables import Alarm, Device, DriftMonitor, Model, Release, WindowRow
from cloud_hub.store.windows import newest_window, settled
from fleet.protocol.drift_encoder import decode_encoder
from fleet.protocol.durations import DAY_S
from fleet.protocol.errors import ProtocolError
from fleet.protocol.manifest import Manifest, SketchRef, decode_manifest

log = logging.getLogger(__name__)
BATCH = 500  # windows per transaction
BATCHES = 20  # per look and release
MOST_KNOWN = 64  # releases that leave something out, of which the sketched input is remembered


class DriftEngine(PeriodicService):
    """Steps the monitors of every release that is watched, every `engines.drift_tick_s` seconds."""

    name = "drift"

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub, hub.config.engines.drift_tick_s)
        self._inputs: dict[object, SketchedInput | None] = {}  # by all that they follow from
        self._bases: dict[str, Basis | None] = {}  # by sketch id; None: the encoder cannot be read

    def look(self) -> None:
        """Count the new windows of every release that is watched. The trouble of one is not the others'.

        Raises:
            Exception: the last one, where nothing could be counted of any.
        """
        upto = settled(self._hub.engine)
        with self._hub.reading() as session:
            defaults = scope.defaults_of(session)
        failures = trouble.Failures()
        looked_at: list[trouble.Key] = []
        for model, releases in defaults.items():
            looked_at.append((model, 0))
            if failures.run((model, 0), "releases", partial(scope.look, self._hub, model, releases), counts=False):
                looked_at += self._look_at(model, upto, failures)
        follow(self._hub)
        trouble.note(self._hub, failures.words, looked_at)
        if failures.errors and len(failures.errors) >= failures.tried:
            raise failures.errors[-1]

    def _look_at(self, model: str, upto: int, failures: trouble.Failures) -> list[trouble.Key]:
        """Count what came of one model; returns the releases that were looked at."""
        with self._hub.reading() as session:
            found = scope.read(session, model) or scope.Scope()
        # What inputs hold comes first: it says which features no baseline can hold.
        steps = {"data quality": self._step_inputs, "inputs": self._step_model, "answers": self._step_meaning}
        for served in found.watched:
            target = CheckedRelease(model=model, served=served, scope=found, upto=upto)
            for name, step in steps.items():
                failures.run((model, served.release), name, partial(step, target))
        failures.run((model, 0), "alarms", partial(self._answer, model), counts=False)
        return [(model, served.release) for served in found.watched]

    def _answer(self, model: str) -> None:
        """Let every open alarm be followed that is not yet: a hub may have ended between the two."""
        with self._hub.reading() as session:
            found = unanswered(session, model)
        for alarm in found:
            respond(self._hub, model, alarm)

    def _step_model(self, target: CheckedRelease) -> None:
        """Count what the release's windows say in their sketches."""
        with self._hub.reading() as session:
            row = session.get(Release, (target.model, target.release))
            known = session.get(DriftMonitor, (target.model, target.release))
            manifest = decode_manifest(row.manifest) if row is not None and row.manifest else None
            sketch = manifest.sketch if manifest is not None else None
            fixed = known is not None and sketch is not None and known.sketch_id == sketch.sketch_id and known.basis
            some = left_out.concerns(session, target.model, target.release, _policy(session, target.model))
        if sketch is None or manifest is None:
            return
        features = self._sketched(manifest, sketch) if some else None
        basis = None if fixed and not some else self._basis(sketch)  # features may come back to it
        for _ in range(BATCHES):
            with self._hub.session() as session:
                policy = _policy(session, target.model)
                monitor = current(self._hub, session, target, sketch, policy)
                watched = features is None or left_out.settle(self._hub, session, monitor, features, policy)
                counted = self._count(session, monitor, target, policy, basis) if watched else 0
                monitor.updated_at = self._hub.clock()
                session.add(monitor)
                session.flush()
            if counted < BATCH:
                break

    def _sketched(self, manifest: Manifest, sketch: SketchRef) -> SketchedInput | None:
        """Return what is known of a release's sketched input, which is read once: its files never change.

        Raises:
            HubError: the encoder is not there now.
        """
        key = (manifest.inputs, sketch.encoder, manifest.profile)
        if key in self._inputs:
            return self._inputs[key]
        found = left_out.known_of(self._hub, manifest, sketch)
        if len(self._inputs) >= MOST_KNOWN:
            self._inputs.clear()
        if found is None or found.whole:
            self._inputs[key] = found
        return found

    def _basis(self, sketch: SketchRef) -> Basis | None:
        """The coordinates of an encoder; None where it is none. Read where no transaction waits.

        Raises:
            HubError: it is not there now. The first windows must not choose the coordinates instead, for ever.
        """
        if sketch.sketch_id not in self._bases:
            data = self._hub.objects.get(f"blobs/{sketch.encoder.sha256}").data
            try:
                self._bases[sketch.sketch_id] = basis_of_encoder(decode_encoder(data))
            except ProtocolError as error:
                log.warning("the sketch encoder %s cannot be read: %s", sketch.sketch_id[:12], error)
                self._bases[sketch.sketch_id] = None
        return self._bases[sketch.sketch_id]

    def _step_meaning(self, target: CheckedRelease) -> None:
        """The same for how right the answers are; it needs no sketch."""
        manifest, policy = self._known(target)
        news = truth.look(self._hub, target, manifest) if manifest is not None else None
        if news is not None:
            with self._hub.session() as session:
                truth.step(self._hub, session, news, policy)

    def _step_inputs(self, target: CheckedRelease) -> None:
        """Is the data broken, and are there more outliers? It needs no sketch either."""
        manifest, policy = self._known(target)
        if manifest is not None:
            inputs.step(self._hub, target, manifest, policy)

    def _known(self, target: CheckedRelease) -> tuple[Manifest | None, DriftPolicy]:
        with self._hub.reading() as session:
            row, policy = session.get(Release, (target.model, target.release)), _policy(session, target.model)
            return decode_manifest(row.manifest) if row is not None and row.manifest else None, policy

    def _count(
        self, session: Session, monitor: DriftMonitor, target: CheckedRelease, policy: DriftPolicy, basis: Basis | None
    ) -> int:
        """Count a batch of windows; returns how many."""
        learn_slot(session, monitor, self._hub.clock())
        last = newest_window(session, monitor.model, target.upto)
        new = _new_windows(session, monitor, target.upto, policy.min_count)
        # Windows that do not count, as of other releases, are passed once and not at every look.
        passed = (new[-1].id or 0) if len(new) == BATCH else max(last, monitor.last_window)
        rows = new
        if not monitor.basis:
            rows = [*uncounted.awaits(session, monitor), *new]
            # Where windows are long, the first ones would be put away before many are there.
            long = basis is not None and len(rows) > 1 and rows[-1].ended_at - rows[0].ended_at >= DAY_S
            enough = long or len(rows) >= min(policy.baseline_windows, BATCH)
            basis = (basis or intake.basis_of(rows)) if enough else None
            monitor.document = {**monitor.document, **({silence.HEARD: self._hub.clock()} if new else {})}
            gathered = [] if enough else [row.id for row in rows]  # it is beyond them: nobody else waits for it
            monitor.document = {**monitor.document, uncounted.AWAITED: gathered}
            if basis is None:
                monitor.last_window = passed
                return len(new)
            monitor.basis = encode_basis(basis)
            ends = [(row.device_id, row.started_at, row.ended_at) for row in rows]
            monitor.document = {**monitor.document, "slot_s": intake.slot_of(ends) or SLOT_S}
        if rows:
            self._watch(session, monitor, target, rows, policy)
        monitor.last_window = passed
        return len(new)

    def _watch(
        self,
        session: Session,
        monitor: DriftMonitor,
        target: CheckedRelease,
        rows: list[WindowRow],
        policy: DriftPolicy,
    ) -> None:
        monitor.last_window = max(rows[-1].id or 0, monitor.last_window)
        model, now, basis = monitor.model, self._hub.clock(), decode_basis(monitor.basis)
        settings = settings_of(policy, basis.weights)
        devices = {device.id: device for device in _devices(session, {row.device_id for row in rows})}
        since, anew = monitor.document["since"], begun_anew(monitor.document, devices, now)
        earliest = {name: max(since, anew.get(name, 0.0), device.enrolled_at) for name, device in devices.items()}
        alarm, wanted = alarms.open_alarm(session, model, monitor.release), set(target.served.groups)
        watch = Watch(
            settings,
            _streams(session, monitor, devices, alarm),
            {name: sorted(wanted & set(groups.names_of(device.labels))) for name, device in devices.items()},
            _facts(target, len(devices), monitor.document["slot_s"], now),
        )
        known = [
            row
            for row in rows
            if (device := devices.get(row.device_id)) is not None
            and not intake.late(row, device.enrolled_at, anew.get(row.device_id, 0.0))
        ]
        if known:
            monitor.document = {**monitor.document, silence.HEARD: now}
        times, left = intake.Times(now=now, earliest=earliest), left_out.read(monitor)
        watch.count(
            intake.seen_in(known, basis, times) if left is None else left_out.seen_in(known, left, basis, times)
        )
        records.save(session, model, [watch.streams[key] for key in sorted(watch.touched)], settings, now)
        over = watch.over()
        if over:
            alarm, new = alarms.raise_or_extend(session, monitor, over, settings, now)
            tell(self._hub, session, alarm, new=new)
            log.warning("drift of %s, release %d: %s", model, monitor.release, alarm.detail["reason"])
        steady = any(stream.state == "steady" for stream in watch.streams.values())
        monitor.state = "alarmed" if alarm is not None else "watching" if steady else "baseline"


def _streams(
    session: Session, monitor: DriftMonitor, devices: Collection[str], alarm: Alarm | None
) -> dict[records.Key, Stream]:
    """The streams that windows of these devices touch; `alarm` is the open one."""
    streams = records.load(session, monitor.model, monitor.release, devices)
    for stream in streams.values():
        # Of slots of another length; a group's open one begins after its last window by nature.
        if stream.kind == "device" and stream.slot * monitor.document["slot_s"] > stream.last:
            stream.slot = -1
    alarms.let_go(session, streams.values(), (alarm.id or 0) if alarm is not None else 0)
    return streams


def _facts(target: CheckedRelease, devices: int, slot_s: float, now: float) -> WatchFacts:
    """Return the facts about the fleet that hold for a batch with so many devices."""
    watched = target.scope.watched
    return WatchFacts(
        devices=max(target.scope.devices, devices),
        groups=sum(len(one.groups) for one in watched),
        releases=len(watched),
        release=target.release,
        slot_s=slot_s,
        now=now,
    )


def settings_of(policy: DriftPolicy, weights: intake.Floats) -> Settings:
    """A policy as the streams want it."""
    return Settings(
        period_s=policy.baseline_s,
        first=policy.baseline_windows,
        budget_days=budget.days_of(policy.budget_days, budget.INPUTS),
        weights=weights,
        least=policy.least_effect,
    )


def _policy(session: Session, model: str) -> DriftPolicy:
    owner = session.get(Model, model)
    return policy_of(owner.policy if owner is not None else {})


def _new_windows(session: Session, monitor: DriftMonitor, upto: int, min_count: int) -> list[WindowRow]:
    rows = (
        select(WindowRow)
        .where(WindowRow.model == monitor.model, WindowRow.release == monitor.release)
        .where(col(WindowRow.id) > monitor.last_window, col(WindowRow.id) <= upto)
        .where(WindowRow.sketch_id == monitor.sketch_id, WindowRow.sketch_count >= min_count)
        .order_by(col(WindowRow.id))
        .limit(BATCH)
    )
    return list(session.exec(rows))


def _devices(session: Session, names: set[str]) -> list[Device]:
    """Those of some devices that are not revoked."""
    known = select(Device).where(col(Device.id).in_(sorted(names)), col(Device.revoked_at).is_(None))
    return list(session.exec(known))


def services(hub: Hub) -> list[Service]:
    """The services of this package."""
    return [DriftEngine(hub)]
