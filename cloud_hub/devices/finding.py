"""The devices that are ill, with their reasons, and the search in a large fleet: counts, and pages by id.

A device is ill when it reports a problem, when a model on it has a reason or no release, when messages of it could not
be taken, when its certificate ends soon, or when the hub sees two machines behind its name. For each there is an index
over the devices that it holds for, so that the cost grows with the ill ones and not with the fleet. That a device is
offline is its state, and no illness of its own; a revoked one is neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import ColumnElement, Float, Text, and_, cast, func, not_, or_, text, type_coerce
from sqlmodel import Session, col, select, union

from cloud_hub.context import Hub
from cloud_hub.devices.status import CLONED, SLOWED, carries, describe_devices, is_shown, problem_of
from cloud_hub.ingest.clones import PERIOD_S
from cloud_hub.ingest.slowing import SHOWN_S, TOO_MANY
from cloud_hub.store.tables import Device, DeviceModel
from fleet.api.devices import DeviceInfo, DeviceState
from fleet.api.diagnosis import SOON_S
from fleet.protocol.messages import IN_USE_TWICE

REASONS = 50  # that are listed
SEEN = (IN_USE_TWICE, TOO_MANY)  # by the hub itself; a device that it has told so reports the same word
ENDS, ASIDE, EMPTY = "certificate-ends", "messages-set-aside", "no-release"
ALIVE = col(Device.revoked_at).is_(None)
# In the words of the indexes, which are used only so.
PROBLEM, REASON = text("device.problem != ''"), text("devicemodel.reason != ''")
WORDS = {
    ENDS: "its certificate ends within a week; it should have been renewed at half its life",
    ASIDE: "messages of it could not be taken",
    EMPTY: "no release of a model is active",
    IN_USE_TWICE: CLONED,
    TOO_MANY: SLOWED,
}


class Wanted(Struct, frozen=True, kw_only=True):
    """The properties that devices are searched by; an empty one says nothing. `label` is `key=value`, `text` a part
    of an id."""

    state: DeviceState | Literal["", "ill"] = ""
    channel: str = ""
    label: str = ""
    model: str = ""
    release: int | None = None
    reason: str = ""
    text: str = ""


class Reason(Struct, frozen=True, kw_only=True):
    """The number of devices that are ill for one reason, one of them, and the remedy or the meaning, in words."""

    reason: str
    devices: int
    example: str
    hint: str = ""
    model: str = ""


class DeviceFindings(Struct, frozen=True, kw_only=True):
    """A page of devices, those that are ill first; `next` is where the next page begins, empty at the end."""

    items: list[DeviceInfo]
    count: int
    next: str = ""


def reasons(session: Session, now: float) -> list[Reason]:
    """Return the reasons for which devices are ill, the reason of most devices first."""
    number, one = func.count(), func.min(Device.id)
    said = select(Device.problem, number, one).where(PROBLEM, ALIVE).group_by(Device.problem)
    told = session.exec(said).all()
    found = [Reason(reason=r, devices=n, example=e) for r, n, e in told if r not in SEEN]
    many, first = func.count(), func.min(DeviceModel.device_id)
    columns: Any = (DeviceModel.reason, DeviceModel.model, many, first)
    reported: Any = select(*columns)
    reported = reported.join(Device, col(Device.id) == DeviceModel.device_id).where(REASON, ALIVE)
    for reason, model, count, example in session.exec(reported.group_by(DeviceModel.reason, DeviceModel.model)):
        found.append(Reason(reason=reason, devices=count, example=example, model=model))
    for reason, ids in _who(session, now).items():
        device = ids.subquery().c[0]
        some: Any = select(func.count(device.distinct()), func.min(device))
        count, example = session.exec(some).one()
        found += [Reason(reason=reason, devices=count, example=example)] if count else []
    most = sorted(found, key=lambda one: (-one.devices, one.reason, one.model))[:REASONS]
    return [_explained(session, one, now) for one in most]


def _explained(session: Session, found: Reason, now: float) -> Reason:
    """With what to do: by the hub's own words, else as most of the devices say it, so that no single one of many
    chooses what all operators read."""
    hint = WORDS.get(found.reason, "")
    if found.model:
        alike: Any = select(DeviceModel.hint).join(Device, col(Device.id) == DeviceModel.device_id)
        alike = alike.where(REASON, DeviceModel.reason == found.reason, DeviceModel.model == found.model)
        alike = alike.where(ALIVE).group_by(DeviceModel.hint)
        hint = session.exec(alike.order_by(func.count().desc(), DeviceModel.hint).limit(1)).first() or hint
    elif not hint:
        row = session.get(Device, found.example)
        hint = problem_of(row, now).hint if row is not None else ""
    return replace(found, hint=hint)


def find_devices(hub: Hub, wanted: Wanted, after: str, limit: int) -> DeviceFindings:
    """At most `limit` devices, those that are ill before the others, each by id.

    Args:
        after: the `next` of the page before; empty for the first.
    """
    now, well, after = hub.clock(), after.startswith("+"), after.removeprefix("+")
    with hub.reading() as session:
        rules = _wanted(session, wanted, now, hub.config.offline_after_s)
        count = session.exec(select(func.count()).select_from(Device).where(*rules)).one()
        ill = col(Device.id).in_(_ill(session, now))
        rows = [] if well else _page(session, [*rules, ill, col(Device.id) > after], limit + 1)
        last_ill = len(rows)
        if len(rows) <= limit and wanted.state != "ill":
            start = col(Device.id) > (after if well else "")
            rows += _page(session, [*rules, not_(ill), start], limit + 1 - len(rows))
        shown = describe_devices(hub, session, rows[:limit])
    if len(rows) <= limit:
        return DeviceFindings(items=shown, count=count)
    end = shown[-1].id if last_ill > limit else "+" if last_ill == limit else f"+{shown[-1].id}"
    return DeviceFindings(items=shown, count=count, next=end)


def _page(session: Session, rules: Sequence[Any], most: int) -> list[Device]:
    return list(session.exec(select(Device).where(*rules).order_by(col(Device.id)).limit(most)))


def _who(session: Session, now: float, model: str = "") -> dict[str, Any]:
    """The ids of the devices that something ails beside what they report in a word of their own, by reason; of one
    model if it is named."""
    ids = select(Device.id).where(ALIVE)
    ends = and_(col(Device.certificate_expires_at) > 0, col(Device.certificate_expires_at) < now + SOON_S)
    empty: Any = select(DeviceModel.device_id).join(Device, col(Device.id) == DeviceModel.device_id)
    empty = empty.where(col(DeviceModel.active).is_(None), col(DeviceModel.state).in_(("idle", "rolled_back")), ALIVE)
    empty = empty.where(DeviceModel.model == model) if model else empty
    return {
        ENDS: ids.where(ends),
        EMPTY: empty,
        ASIDE: ids.where(text("device.set_aside > 0")),
        IN_USE_TWICE: _seen(session, ids, "cloned_at", IN_USE_TWICE, (now, PERIOD_S)),
        TOO_MANY: _seen(session, ids, "slowed_at", TOO_MANY, (now, SHOWN_S)),
    }


def _seen(session: Session, ids: Any, word: str, problem: str, lately: tuple[float, float]) -> Any:
    """Those that the hub saw lately, as `clones.still_cloned` and `slowing.still_slowed` have it, or that report it.

    The document of a device's connections says when it did last, and goes on saying so.

    Args:
        word: of that document.
        lately: now, and for how long it counts.
    """
    documents, (now, span) = type_coerce(Device.sessions, Text), lately
    if session.get_bind().dialect.name == "postgresql":
        was = text(f"device.sessions ~ '\"{word}\"'")
        at: ColumnElement[float] = cast(func.substring(documents, f'"{word}":([0-9.e+]+)'), Float)
    else:
        was = text(f"instr(device.sessions, '\"{word}\"') > 0")
        at = func.json_extract(documents, f"$.{word}", type_=Float)
    return union(ids.where(was, at >= now - span, at <= now + span), ids.where(PROBLEM, Device.problem == problem))


def _ill(session: Session, now: float) -> Any:
    """The ids of the devices that are ill."""
    reported: Any = select(DeviceModel.device_id).join(Device, col(Device.id) == DeviceModel.device_id)
    parts = [reported.where(REASON, ALIVE), select(Device.id).where(PROBLEM, ALIVE)]
    return union(*parts, *(select(ids.subquery().c[0]) for ids in _who(session, now).values()))


def _wanted(session: Session, wanted: Wanted, now: float, offline_after_s: float) -> list[Any]:
    rules: list[Any] = [is_shown()]
    if wanted.channel:
        rules.append(Device.channel == wanted.channel)
    if wanted.label:
        key, _, value = wanted.label.partition("=")
        rules += carries(session, {key: value})
    if wanted.text:
        rules.append(col(Device.id).contains(wanted.text.lower(), autoescape=True))
    if wanted.state == "ill":
        rules.append(col(Device.id).in_(_ill(session, now)))
    elif wanted.state:
        rules.append(_stands(wanted.state, now, offline_after_s))
    runs = [DeviceModel.model == wanted.model] if wanted.model else []
    runs += [DeviceModel.active == wanted.release] if wanted.release is not None else []
    if runs:
        rules.append(col(Device.id).in_(select(DeviceModel.device_id).where(*runs)))
    if wanted.reason:
        rules.append(_ails(session, wanted, now))
    return rules


def _stands(state: DeviceState, now: float, offline_after_s: float) -> ColumnElement[bool]:
    """As `status.state_of` has it."""
    if state == "revoked":
        return col(Device.revoked_at).is_not(None)
    heard = and_(col(Device.online), col(Device.last_seen_at) > now - offline_after_s)
    unheard = or_(not_(col(Device.online)), col(Device.last_seen_at).is_(None), not_(heard))
    return and_(col(Device.revoked_at).is_(None), heard if state == "online" else unheard)


def _ails(session: Session, wanted: Wanted, now: float) -> ColumnElement[bool]:
    """Select the devices that are ill for the wanted reason, of the wanted model if one is."""
    reported = select(DeviceModel.device_id).where(REASON, DeviceModel.reason == wanted.reason)
    reported = reported.where(DeviceModel.model == wanted.model) if wanted.model else reported
    told = select(Device.id).where(PROBLEM, Device.problem == wanted.reason)
    who = _who(session, now, wanted.model).get(wanted.reason)
    parts: list[Any] = [reported, told] if who is None else [reported, told, select(who.subquery().c[0])]
    return and_(ALIVE, col(Device.id).in_(union(*parts)))


def ending_certificates(session: Session, before: float, most: int) -> tuple[int, list[tuple[str, float]]]:
    """Count the devices whose certificates end before a moment (Unix seconds); return the first ones with their
    ends.

    Args:
        session: an open one.
        before: Unix seconds.
        most: devices to name.
    """
    ends = col(Device.certificate_expires_at)
    rules = (ALIVE, ends > 0, ends < before)
    count = session.exec(select(func.count()).select_from(Device).where(*rules)).one()
    rows = session.exec(select(Device.id, ends).where(*rules).order_by(ends).limit(most)).all()
    return count, [(name, end) for name, end in rows]
