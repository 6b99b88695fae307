"""The releases of a model that are watched: each that is some channel's default, and each that devices serve or are
pinned to, as in a staged rollout or a fleet that is half upgraded.

    watched ⇄ unused → ended, or left out

A release is watched from when it comes into use until for `PATIENCE_S` no device serves it any more and no channel
names it: one report without it, as of a device that rolls back and comes again, ends nothing, and closes no alarm. A
device that was not heard of for `QUIET_S` serves nothing. What it showed before it became a default is no part of its
baseline. At most `MOST` releases of a model are watched, defaults first, then those that most devices serve; who is
left out, and what ended, is kept and said: neither is a healthy release.

Who serves what is looked up once in a while, and when a channel's default changes: it costs by the fleet.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime

import msgspec
from msgspec import Struct
from sqlmodel import Session, col, select

from cloud_hub.context import Hub
from cloud_hub.drift import groups, records
from cloud_hub.store.engine import lock_name
from cloud_hub.store.tables import (
    Alarm,
    ChannelRow,
    Device,
    DeviceModel,
    DriftMonitor,
    DriftScope,
    InputMonitor,
    MeaningMonitor,
    Model,
    Release,
)
from fleet.protocol.channel import decode_channel

LOOKED_S = 600.0  # how old what is known of the fleet may be
QUIET_S = 30 * 86_400.0
LEFT_S = 7 * 86_400.0  # after which what was watched of a device that left the release is forgotten
MOST = 16
PATIENCE_S = 86_400.0  # a device that is off at night, or fails and comes again, is back by then
NOBODY = "no channel has it as its default, and no device that was heard of in 30 days serves it"
KEPT, KEPT_S = 8, 30 * 86_400.0  # releases that ended: the latest ones, and how long they are spoken of


class ServedRelease(Struct, frozen=True, kw_only=True):
    """A release that is watched: how many `devices` serve it, the names of their `groups`, the largest first, and
    `since` when it is watched, or is a default (Unix seconds; 0.0 of those of the first look). `unused` is since when
    it is neither a default nor served, 0.0 of one that is."""

    release: int
    default: bool = False
    devices: int = 0
    groups: tuple[str, ...] = ()
    since: float = 0.0
    unused: float = 0.0


class Ended(Struct, frozen=True):
    """A release that is not watched any more, and since when."""

    release: int
    at: float


class Scope(Struct, frozen=True, kw_only=True):
    """The releases of a model that are watched, and those that are not; `devices` run it in all, `at` is when that
    was looked up. `defaults` are those of all channels, watched or left out."""

    at: float = 0.0
    defaults: tuple[int, ...] = ()
    devices: int = 0
    watched: tuple[ServedRelease, ...] = ()
    left_out: tuple[int, ...] = ()
    ended: tuple[Ended, ...] = ()

    def unwatched(self) -> dict[int, str]:
        """The releases that are not watched, with the reason in words."""
        left = f"not watched: {MOST} other releases of the model are in use that come first"
        found = dict.fromkeys(self.left_out, left)
        for one in self.ended:
            found[one.release] = f"not watched any more since {when(one.at)}: {NOBODY}"
        return found


def when(moment: float) -> str:
    """Unix seconds for people."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M UTC")


class CheckedRelease(Struct, frozen=True, kw_only=True):
    """A release that is looked at now: `scope` says what else there is, `upto` which window is the last to count."""

    model: str
    served: ServedRelease
    scope: Scope
    upto: int

    @property
    def release(self) -> int:
        """Its number."""
        return self.served.release


def defaults_of(session: Session) -> dict[str, frozenset[int]]:
    """By model, the releases that channels have as their defaults; also of models that are still watched."""
    found: defaultdict[str, set[int]] = defaultdict(set)
    for row in session.exec(select(ChannelRow)):
        for model, entry in decode_channel(row.document).models.items():
            found[model].add(entry.release)
    for model in session.exec(select(DriftScope.model)):
        found[model] |= set()
    return {model: frozenset(releases) for model, releases in sorted(found.items())}


def read(session: Session, model: str) -> Scope | None:
    """Read the scope of a model, as it was looked up; None before the first look."""
    row = session.get(DriftScope, model)
    return msgspec.convert(row.document, Scope) if row is not None else None


def read_all(session: Session, model: str = "") -> dict[str, Scope]:
    """The same of every model, or of one."""
    rows = select(DriftScope).where(DriftScope.model == model) if model else select(DriftScope)
    return {row.model: msgspec.convert(row.document, Scope) for row in session.exec(rows)}


def look(hub: Hub, model: str, defaults: Collection[int]) -> Scope:
    """Look up the scope of a model now, and close releases that have ended meanwhile."""
    now = hub.clock()
    with hub.reading() as session:
        known = read(session, model)
    if known is not None and 0 <= now - known.at < LOOKED_S and set(known.defaults) == set(defaults):
        return known
    with hub.session() as session:
        lock_name(session, f"drift:{model}")
        if session.get(Model, model) is None:  # it was deleted meanwhile
            return Scope()
        before = read(session, model)
        found = _found(session, model, defaults, before, now)
        watched = {one.release for one in found.watched}
        gone = {one.release for one in before.watched} - watched if before is not None else set()
        for release in sorted(gone | _with_rows(session, model) - watched):
            why = f"release {release} is not watched any more: "
            _end(session, model, release, why + ("too many are in use" if release in found.left_out else NOBODY))
        records.forget_revoked(session, model)
        records.forget_left(session, model, now - LEFT_S)
        again = gone | watched | set(found.left_out)
        ended = [one for one in (before.ended if before is not None else ()) if one.release not in again]
        ended += [Ended(release, now) for release in sorted(gone) if release not in found.left_out]
        recent = [one for one in ended if now - one.at < KEPT_S]
        found = msgspec.structs.replace(found, ended=tuple(recent[-KEPT:]))
        session.merge(DriftScope(model=model, document=msgspec.to_builtins(found), updated_at=now))
    return found


def _found(session: Session, model: str, defaults: Collection[int], before: Scope | None, now: float) -> Scope:
    """Find the releases that devices serve; reads the reports of all devices that run the model."""
    query = select(Device.labels, Device.pins, Device.last_seen_at, DeviceModel.active)
    running = query.join(DeviceModel, col(DeviceModel.device_id) == col(Device.id))
    devices = session.exec(running.where(DeviceModel.model == model, col(Device.revoked_at).is_(None))).all()
    labels: defaultdict[int, list[Mapping[str, str]]] = defaultdict(list)
    used = set[int]()
    for given, pins, heard, active in devices:
        if heard is None or now - heard < QUIET_S:
            used |= {pins[model]} if model in pins else set()
            if active is not None:
                labels[active].append(given)
    # Of what devices say, only what was published.
    published = set(session.exec(select(Release.number).where(Release.model == model)))
    others = (used | labels.keys()) & (published - set(defaults))
    order = [*sorted(defaults, reverse=True), *sorted(others, key=lambda number: (-len(labels[number]), -number))]
    known = {one.release: one for one in before.watched} if before is not None else {}
    unused = _unused(known.values(), {*order}, now)
    order += sorted(unused, reverse=True)  # behind all that are in use
    return Scope(
        at=now,
        defaults=tuple(sorted(defaults)),
        devices=len(devices),
        watched=tuple(
            ServedRelease(
                release=release,
                default=release in defaults,
                devices=len(labels[release]),
                groups=groups.among(labels[release]),
                since=_since(known.get(release), release in defaults, 0.0 if before is None else now),
                unused=unused.get(release, 0.0),
            )
            for release in order[:MOST]
        ),
        left_out=tuple(release for release in order[MOST:] if release not in unused),
    )


def _unused(known: Iterable[ServedRelease], used: Collection[int], now: float) -> dict[int, float]:
    """The releases that were watched, that nobody uses now, and that may be used again; and since when."""
    since = {one.release: min(one.unused or now, now) for one in known if one.release not in used}
    return {release: at for release, at in since.items() if now - at < PATIENCE_S}


def _since(known: ServedRelease | None, default: bool, now: float) -> float:
    return now if known is None or (default and not known.default) else known.since


def _with_rows(session: Session, model: str) -> set[int]:
    """The releases of which something is kept."""
    found = set[int]()
    for monitor in (DriftMonitor, MeaningMonitor, InputMonitor):
        found |= set(session.exec(select(monitor.release).where(monitor.model == model)))
    return found


def _end(session: Session, model: str, release: int, why: str) -> None:
    """Forget what was watched of a release, and close its alarms: nobody can say any more whether they still hold."""
    records.forget_release(session, model, release)
    ours = (Alarm.model == model, Alarm.release == release, Alarm.status != "closed")
    for alarm in session.exec(select(Alarm).where(*ours)):
        alarm.status, alarm.detail = "closed", {**alarm.detail, "closed": why}
        session.add(alarm)
