"""The accuracy of a model's answers, by the hub's evidence: audits in windows, and labels of randomly drawn samples.

A sample that was kept because it was uncertain, disagreeing or outlying says nothing about the usual request, so only
those that were drawn at random count. Labels outrank the auditor: both are shown, each held to its own record. Another
auditor is another judge: each has a record of its own, and comes back to it, so that a change of the auditor, or two at
once on two channels, is no change of the devices. A device can name any release as its auditor: only those count that a
channel names, or has named. Groups of devices by their labels are watched beside the whole; all share one budget of
false alarms.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from sqlmodel import Session, col, func, select

from cloud_hub.context import Hub
from cloud_hub.drift import budget, groups, meaning
from cloud_hub.drift.intake import Times
from cloud_hub.drift.meaning import Track, Unit
from cloud_hub.drift.policy import DriftPolicy
from cloud_hub.drift.scope import CheckedRelease
from cloud_hub.drift.telling import tell
from cloud_hub.drift.truth_evidence import BATCH, BATCHES, OTHERS, Judged, right_by, uncounted_labels, uncounted_windows
from cloud_hub.store.engine import lock_name
from cloud_hub.store.tables import Alarm, ChannelRow, Device, MeaningMonitor, SampleRow, WindowRow
from cloud_hub.store.windows import newest_window
from fleet.protocol.channel import decode_channel
from fleet.protocol.manifest import Manifest
from fleet.tasks import of_manifest

log = logging.getLogger(__name__)
AUDITORS = 8  # that are remembered
GROUPS = 16  # of a release: the largest
MOST_AUDITS = 1_000_000  # of a window that are believed
KIND = "meaning"  # in an alarm's detail


class Watched(Struct, frozen=True, kw_only=True):
    """A monitor's document: `auditor` is the release that `audits` compares with; `alarmed` names the source.

    `others` are other auditors' audits and `grouped` groups, by `Name` as text. `groups` are the names of those that
    are counted; `named` the auditors that a channel names or has named, the latest last.
    """

    auditor: int = 0
    audits: Track = Track()
    labels: Track = Track()
    alarmed: str = ""
    others: dict[str, Track] = {}
    grouped: dict[str, Track] = {}
    groups: tuple[str, ...] = ()
    named: tuple[int, ...] = ()


class Name(NamedTuple):
    """The subject of a track: `auditor` is 0 of labels, `group` empty of all devices."""

    source: str
    auditor: int
    group: str = ""

    @property
    def text(self) -> str:
        """As a document has it."""
        return f"{self.source}:{self.auditor}:{self.group}"


class News(Struct, frozen=True, kw_only=True):
    """The evidence about a release since its monitor was last stepped: `labels` stand after the place `after`."""

    target: CheckedRelease
    after: tuple[float, str]
    labels: tuple[Judged, ...]


def look(hub: Hub, target: CheckedRelease, manifest: Manifest) -> News | None:
    """Gather the evidence to count; None where there is none. Samples are fetched here, where no transaction waits."""
    if manifest.named_task is None:
        return None
    with hub.reading() as session:
        monitor = _current(session, target, 0.0)
        rows = uncounted_labels(session, monitor)
        passed = newest_window(session, target.model, target.upto) <= monitor.last_window  # other releases, too
        if read(monitor).alarmed or (passed and not rows):
            return None
    shares = right_by(hub, rows, of_manifest(manifest))
    judged = tuple(
        Judged(at=row.labelled_at or 0.0, sample=row.id, device_id=row.device_id, share=share)
        for row, share in zip(rows, shares, strict=True)
    )
    after = (monitor.last_label_at, monitor.last_label)
    return News(target=target, after=after, labels=judged)


def step(hub: Hub, session: Session, news: News, policy: DriftPolicy) -> Alarm | None:
    """Count the news about a release; return a new alarm, if one is raised."""
    target = news.target
    lock_name(session, f"drift:{target.model}")
    monitor = _current(session, target, hub.clock())
    watched = read(monitor)
    alarm = None
    if not watched.alarmed:
        watched = _with_auditors(session, monitor.model, watched)
        watched = replace(watched, groups=target.served.groups[:GROUPS])
        for _ in range(BATCHES):
            rows = uncounted_windows(session, monitor, target.upto, BATCH)
            watched = _count_audits(session, monitor, rows, watched, policy, hub.clock())
            if len(rows) < BATCH:  # windows of other releases are passed: whoever waits for this monitor goes on
                monitor.last_window = max(newest_window(session, target.model, target.upto), monitor.last_window)
                break
        watched = _count_labels(session, monitor, watched, news, policy)
        days = budget_of(watched, policy, len(target.scope.watched))
        over = {name: track for name, track in tracks_of(watched).items() if track.log_e >= track.limit(days)}
        if over:
            name = max(over, key=lambda name: over[name].log_e - over[name].limit(days))
            watched = replace(watched, alarmed=name.source)
            alarm = _alarm(hub, session, monitor, name, over[name].held(policy.margin), days)
    monitor.document = msgspec.to_builtins(watched)
    monitor.updated_at = hub.clock()
    session.add(monitor)
    session.flush()
    return alarm


def _counted(track: Track, unit: Unit, policy: DriftPolicy) -> Track:
    return meaning.count(track, unit, policy.baseline_windows, policy.margin)


def read(monitor: MeaningMonitor) -> Watched:
    """A monitor's document."""
    watched = msgspec.convert(monitor.document, Watched)
    of_groups = {text: track for text, track in watched.others.items() if text.split(":", 2)[2]}  # an earlier version's
    if not of_groups:
        return watched
    others = {text: track for text, track in watched.others.items() if text not in of_groups}
    return replace(watched, others=others, grouped={**of_groups, **watched.grouped})


def budget_of(watched: Watched, policy: DriftPolicy, releases: int) -> float:
    """Return in how many days each track may raise one false alarm, where so many releases are watched."""
    tracks = 2 + len(watched.others) + len(watched.grouped)
    return budget.days_of(policy.budget_days, budget.ANSWERS, releases) * tracks


def tracks_of(watched: Watched) -> dict[Name, Track]:
    """Everything that is watched."""
    found = {Name("labels", 0): watched.labels, Name("audits", watched.auditor): watched.audits}
    for text, track in (watched.others | watched.grouped).items():
        source, auditor, group = text.split(":", 2)
        found[Name(source, int(auditor), group)] = track
    return found


def watch_again(session: Session, model: str, release: int) -> None:
    """Go on after an alarm was closed: the same record, no evidence yet."""
    monitor = session.get(MeaningMonitor, (model, release))
    if monitor is not None:
        watched = read(monitor)
        _skip_what_came(session, monitor)
        kept = replace(
            watched,
            alarmed="",
            audits=meaning.again(watched.audits),
            labels=meaning.again(watched.labels),
            others={name: meaning.again(track) for name, track in watched.others.items()},
            grouped={name: meaning.again(track) for name, track in watched.grouped.items()},
        )
        monitor.document = msgspec.to_builtins(kept)
        session.add(monitor)


def _skip_what_came(session: Session, monitor: MeaningMonitor) -> None:
    """Skip the evidence that came while the alarm was open: it belongs to that alarm, and raises no other."""
    windows = select(func.max(WindowRow.id)).where(
        WindowRow.model == monitor.model, WindowRow.release == monitor.release
    )
    monitor.last_window = session.exec(windows).one() or monitor.last_window
    newest = session.exec(
        select(SampleRow.labelled_at, SampleRow.id)
        .where(SampleRow.model == monitor.model, SampleRow.release == monitor.release)
        .where(col(SampleRow.labelled_at).is_not(None))
        .order_by(col(SampleRow.labelled_at).desc(), col(SampleRow.id).desc())
        .limit(1)
    ).first()
    if newest is not None:
        monitor.last_label_at, monitor.last_label = newest[0] or 0.0, newest[1]


def _current(session: Session, target: CheckedRelease, now: float) -> MeaningMonitor:
    """The release's monitor: a record is a release's own, from its first windows and labels on."""
    found = session.get(MeaningMonitor, (target.model, target.release))
    return found or MeaningMonitor(model=target.model, release=target.release, document={}, updated_at=now)


def _with_auditors(session: Session, model: str, watched: Watched) -> Watched:
    """Take the auditors that channels name; results of any other, by a device's own word, are dropped."""
    entries = [decode_channel(row.document).models.get(model) for row in session.exec(select(ChannelRow))]
    now = sorted({entry.audit.auditor for entry in entries if entry is not None and entry.audit.auditor is not None})
    kept = [number for number in watched.named if number not in now][-AUDITORS:]
    named = (*kept, *now)
    known = {str(number) for number in (0, *named)}
    return replace(
        watched,
        named=named,
        others={text: track for text, track in watched.others.items() if text.split(":", 2)[1] in known},
        grouped={text: track for text, track in watched.grouped.items() if text.split(":", 2)[1] in known},
    )


def _count_audits(
    session: Session, monitor: MeaningMonitor, rows: Sequence[Any], watched: Watched, policy: DriftPolicy, now: float
) -> Watched:
    if rows:
        monitor.last_window = rows[-1].id
    known = {0, *watched.named}
    rows = [row for row in rows if row.body.get("counters", {}).get("audited", 0)]
    rows = [row for row in rows if (row.body.get("auditor") or 0) in known]
    devices = select(Device.id, Device.enrolled_at).where(col(Device.id).in_(sorted({row.device_id for row in rows})))
    times = Times(now=now, earliest=dict(session.exec(devices).all()) if rows else {})
    belongs = groups.of_devices(session, (row.device_id for row in rows), watched.groups) if watched.groups else {}
    for row in rows:
        counters, auditor = row.body["counters"], row.body.get("auditor") or 0
        if auditor != watched.auditor:  # another judge, another record: the former one's is kept
            watched = _judged_by(watched, auditor)
        share = min(counters.get("audit_agree", 0) / counters["audited"], 1.0)
        audits = min(counters["audited"], MOST_AUDITS)
        unit = Unit(device_id=row.device_id, at=times.of(row), share=share, audits=audits)
        watched = replace(watched, audits=_counted(watched.audits, unit, policy))
        watched = _count_groups(watched, Name("audits", auditor), belongs.get(row.device_id, ()), unit, policy)
    return watched


def _judged_by(watched: Watched, auditor: int) -> Watched:
    others = dict(watched.others)
    if watched.audits.counted:
        others[Name("audits", watched.auditor).text] = watched.audits
    audits = others.pop(Name("audits", auditor).text, Track())
    return replace(watched, auditor=auditor, audits=audits, others=others)


def _count_groups(watched: Watched, whole: Name, names: Iterable[str], unit: Unit, policy: DriftPolicy) -> Watched:
    grouped = watched.grouped
    for group in names:
        text = whole._replace(group=group).text
        if text in grouped or len(grouped) < OTHERS:
            grouped = {**grouped, text: _counted(grouped.get(text, Track()), unit, policy)}
    return replace(watched, grouped=grouped) if grouped is not watched.grouped else watched


def _count_labels(
    session: Session, monitor: MeaningMonitor, watched: Watched, news: News, policy: DriftPolicy
) -> Watched:
    if news.after != (monitor.last_label_at, monitor.last_label):  # another hub has counted them meanwhile
        return watched
    devices = (label.device_id for label in news.labels)
    belongs = groups.of_devices(session, devices, watched.groups) if watched.groups and news.labels else {}
    for label in news.labels:
        monitor.last_label_at, monitor.last_label = label.at, label.sample
        if label.share is not None:
            unit = Unit(device_id=label.device_id, at=label.at, share=label.share)
            watched = replace(watched, labels=_counted(watched.labels, unit, policy))
            watched = _count_groups(watched, Name("labels", 0), belongs.get(label.device_id, ()), unit, policy)
    return watched


def _alarm(hub: Hub, session: Session, monitor: MeaningMonitor, name: Name, track: Track, budget_days: float) -> Alarm:
    assert track.record is not None and track.now is not None
    judge, unit = ("labels", "labelled samples")
    if name.source == "audits":
        judge, unit = f"the auditor (release {name.auditor})" if name.auditor else "the auditor", "windows"
    devices = Counter(item.device_id for item in track.recent if item.share < track.record.least)
    reason = (
        f"answers agree with {judge} in {100 * track.now:.0f} % over the last {len(track.recent)} {unit}"
        f"{f' of {name.group}' if name.group else ''}, "
        f"the release's own record is {100 * track.record.mean:.0f} %; lower on {len(devices)} devices"
    )
    detail = {
        "kind": KIND,
        "reason": reason,
        "source": name.source,
        "group": name.group,
        "auditor": name.auditor,
        "agreement": track.now,
        "record": track.record.mean,
        "margin": track.record.margin,
        "devices": sorted(devices),
        "windows": len(track.recent),
        "evidence": track.log_e,
        "limit": track.limit(budget_days),
    }
    alarm = Alarm(model=monitor.model, release=monitor.release, at=hub.clock(), status="open", detail=detail)
    session.add(alarm)
    tell(hub, session, alarm, new=True)
    log.warning("drift of %s, release %d: %s", monitor.model, monitor.release, reason)
    return alarm
