"""The troubles anywhere, in the order in which somebody should look at them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from urllib.parse import urlencode

from msgspec import Struct
from sqlmodel import Session, col, func, select

from cloud_hub.context import Hub
from cloud_hub.dashboard.views.rollouts import awaits_approval
from cloud_hub.dashboard.words import counted, share
from cloud_hub.devices import finding
from cloud_hub.drift.monitors import list_alarms
from cloud_hub.ingest import traffic
from cloud_hub.jobs import queue
from cloud_hub.ports import Part
from cloud_hub.rollouts.orders import list_troubled
from cloud_hub.store.tables import DriftTrouble, EventDelivery, Release
from fleet.api.drift import AlarmInfo
from fleet.protocol.durations import DAY_S

LATELY_S = 7 * 86_400.0
MOST = 20  # of each kind
FAILING = 0.01  # of a model's requests that nobody answers are told as a trouble


class Trouble(Struct, frozen=True, kw_only=True):
    """`what` is wrong, since when, and `why` or what to do; `href` leads to more, `example` to one device of many.

    `level`: bad (something fails) or warn (it will, or waits for somebody).
    """

    kind: str
    what: str
    href: str
    why: str = ""
    todo: str = ""
    since: float | None = None
    level: str = "bad"
    example: str = ""


def troubles(hub: Hub, parts: Mapping[str, Part]) -> list[Trouble]:
    """Everything that is wrong; `parts` is how the hub itself stands."""
    now = hub.clock()
    found = [*_hub(parts), *_rollouts(hub, now)]
    with hub.reading() as session:
        found += [*_drift(session), *_alarms(list_alarms(hub, unclosed=True, most=MOST)), *_devices(session, now)]
        found += [*_requests(session, now), *_waiting(session), *_untold(session, hub.config.events.targets, now)]
    for job in queue.failed_lately(hub, now - LATELY_S, MOST):
        what = f"{job.kind} of {job.model} failed" if job.model else f"{job.kind} failed"
        found.append(Trouble(kind="job", what=what, why=job.error, href=f"/jobs/{job.id}", since=job.ended_at))
    for role, end in hub.publisher.expiring(within_days=hub.config.expiry.warn_days).items():
        todo = "cloud-hub keys renew DIR --offline-keys DIR2"
        found.append(
            Trouble(kind="hub", what=f"signed role {role} ends", href="/access", todo=todo, since=end, level="warn")
        )
    return sorted(found, key=lambda one: one.level != "bad")


def _hub(parts: Mapping[str, Part]) -> Iterator[Trouble]:
    for name, part in parts.items():
        if part.state == "failed":
            yield Trouble(kind="hub", what=f"the hub's {name}", why=part.reason, href="/healthz")


def _rollouts(hub: Hub, now: float) -> Iterator[Trouble]:
    for rollout in list_troubled(hub, now - LATELY_S, MOST):
        what = f"{rollout.model} {rollout.from_release} → {rollout.release} on {rollout.channel}"
        href = f"/rollouts/{rollout.id}"
        if rollout.state == "halted":
            yield Trouble(kind="rollout", what=f"{what} halted", why=rollout.reason, href=href, since=rollout.ended_at)
        elif awaits_approval(rollout):
            yield Trouble(kind="rollout", what=f"{what} waits for an approval", href=href, level="warn")
        elif rollout.state == "paused":
            why = rollout.reason
            yield Trouble(kind="rollout", what=f"{what} is paused", why=why, href=href, level="warn")


def _drift(session: Session) -> Iterator[Trouble]:
    for row in session.exec(select(DriftTrouble).order_by(col(DriftTrouble.since)).limit(MOST)):
        of = f"{row.model}, release {row.release}" if row.release else row.model
        yield Trouble(kind="drift", what=f"drift of {of} is not watched", why=row.words, href="/drift", since=row.since)


def _alarms(alarms: list[AlarmInfo]) -> Iterator[Trouble]:
    for alarm in alarms:
        what = f"{alarm.model}, release {alarm.release}: {where(alarm)}"
        since = alarm.detail.since or alarm.at
        example = alarm.detail.devices[0] if alarm.detail.devices else ""
        yield Trouble(
            kind="alarm",
            what=what,
            why=alarm.detail.reason,
            href=f"/drift#alarm-{alarm.id}",
            since=since,
            example=example,
        )


def where(alarm: AlarmInfo) -> str:
    """`inputs have moved on 12 of 40 devices, in site=berlin, in the fleet as a whole`."""
    detail = alarm.detail
    words = {
        "inputs": "inputs have moved",
        "meaning": "answers are right less often",
        "quality": "data is broken",
        "outliers": "inputs lie outside of the training data",
    }
    told = words.get(detail.kind, detail.kind)
    count = detail.device_count or len(detail.devices) or len({one.device for one in detail.findings})
    if count:
        told += f" on {count:,}" + (f" of {detail.of_devices:,}" if detail.of_devices else "")
        told += " device" + ("s" if count != 1 or detail.of_devices > 1 else "")
    if detail.groups:
        told += f", in {', '.join(detail.groups[:3])}"
    return told + (", in the fleet as a whole" if detail.fleet else "")


def _devices(session: Session, now: float) -> Iterator[Trouble]:
    for one in finding.reasons(session, now)[:MOST]:
        of = f" ({one.model})" if one.model else ""
        href = "/devices?" + urlencode({"reason": one.reason} | ({"model": one.model} if one.model else {}))
        level = "warn" if one.reason in (finding.ENDS, finding.ASIDE) else "bad"
        what = f"{counted(one.devices, 'device')}: {one.reason}{of}"
        yield Trouble(kind="device", what=what, href=href, todo=one.hint, level=level, example=one.example)


def _requests(session: Session, now: float) -> Iterator[Trouble]:
    found: dict[str, Counter[str]] = {}
    for row in traffic.hours(session, now - DAY_S):
        counts = {"requests": row.requests, "failed": row.failed, "refused": row.refused}
        found.setdefault(row.model, Counter()).update(counts)
    for model, counts in sorted(found.items()):
        if counts["failed"] > FAILING * counts["requests"]:
            part = share(counts["failed"], counts["requests"])
            what = f"{model}: {counts['failed']:,} requests ({part}) were answered by nobody in a day"
            why = f"{counts['refused']:,} of them the release refused" if counts["refused"] else ""
            yield Trouble(kind="requests", what=what, why=why, href=f"/models/{model}")


def _untold(session: Session, targets: Collection[str], now: float) -> Iterator[Trouble]:
    """Events that were given up lately; of the targets that there are, by whose name and state there is an index."""
    target = col(EventDelivery.target)
    dead = select(target, func.count(), func.max(EventDelivery.updated_at)).group_by(target).order_by(target)
    dead = dead.where(target.in_(targets), EventDelivery.state == "dead", EventDelivery.updated_at >= now - LATELY_S)
    for target_name, count, since in session.exec(dead) if targets else ():
        what = f"{counted(count, 'event')} did not reach {target_name}"
        yield Trouble(kind="event", what=what, href="/events?state=dead", since=since, level="warn")


def _waiting(session: Session) -> Iterator[Trouble]:
    wanted = select(Release).where(Release.status == "awaiting-signature").order_by(col(Release.created_at).desc())
    for row in session.exec(wanted.limit(MOST)):
        todo = f"fleet release sign {row.model} {row.number} --key FILE"
        what = f"{row.model} {row.number} waits for its signature"
        href, since = f"/models/{row.model}", row.created_at
        yield Trouble(kind="release", what=what, todo=todo, href=href, since=since, level="warn")
