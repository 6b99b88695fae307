"""The lineage of releases and their places: snapshots, releases, channels and devices as a graph in four columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct
from sqlmodel import Session, col, func, select

from cloud_hub.dashboard.words import counted
from cloud_hub.store.tables import ChannelRow, Device, DeviceModel, Release
from fleet.protocol.channel import decode_channel
from fleet.protocol.manifest import decode_manifest

HEADS = ("snapshots", "releases", "channels", "devices")
RELEASES = 8  # of a model: those in use, and the newest
ACROSS, DOWN = 240, 54  # from node to node
WIDE, TALL = 170, 38
TOP = 30
SHOWN = 22  # characters of a text


class Node(Struct, frozen=True, kw_only=True):
    """A box: `kind` is its column's name; `href` leads to its page, empty without one."""

    kind: str
    text: str
    note: str
    x: int
    y: int
    href: str = ""


class Edge(Struct, frozen=True, kw_only=True):
    """A curve from the right side of one box to the left side of another."""

    path: str
    kind: str = ""


class Lineage(Struct, frozen=True, kw_only=True):
    """The drawing, and the same in sentences."""

    nodes: list[Node]
    edges: list[Edge]
    heads: list[tuple[int, str]]
    sentences: list[str]
    width: int
    height: int


class Origin(Struct, frozen=True, kw_only=True):
    """A release: what it was made of, what channels use it for, how many devices of each channel serve it."""

    number: int
    status: str
    snapshot: str
    recipe: str
    parents: tuple[str, ...]
    uses: tuple[tuple[str, str], ...]
    serving: tuple[tuple[str, int], ...]


def origins(session: Session, model: str) -> list[Origin]:
    """The releases of a model that are in use, and the newest, in order."""
    serving = _serving(session, model)
    uses = _uses(session, model)
    rows = select(Release).where(Release.model == model, Release.status != "reserved")
    newest = session.exec(rows.order_by(col(Release.number).desc()).limit(RELEASES)).all()
    used = sorted({*serving, *uses}, reverse=True)[:RELEASES]
    older = session.exec(rows.where(col(Release.number).in_(used))).all()
    known = {row.number: row for row in (*newest, *older)}
    chosen = sorted(known, key=lambda number: (number not in used, -number))[:RELEASES]
    found = []
    for row in (known[number] for number in sorted(chosen)):
        lineage = decode_manifest(row.manifest).lineage if row.manifest else None
        origin = Origin(
            number=row.number,
            status=row.status,
            snapshot=lineage.snapshot if lineage is not None else "",
            recipe=lineage.recipe if lineage is not None else "",
            parents=lineage.parents if lineage is not None else (),
            uses=tuple(uses.get(row.number, ())),
            serving=tuple(serving.get(row.number, ())),
        )
        found.append(origin)
    return found


def _serving(session: Session, model: str) -> dict[int, list[tuple[str, int]]]:
    """By release the channels whose devices serve it, with how many do."""
    found: dict[int, list[tuple[str, int]]] = {}
    columns: Any = (DeviceModel.active, Device.channel, func.count())
    rows: Any = select(*columns).join(Device, col(Device.id) == DeviceModel.device_id)
    rows = rows.where(
        DeviceModel.model == model, col(DeviceModel.active).is_not(None), col(Device.revoked_at).is_(None)
    )
    for number, channel, count in session.exec(rows.group_by(col(DeviceModel.active), col(Device.channel))).all():
        found.setdefault(number or 0, []).append((channel, count))
    return found


def _uses(session: Session, model: str) -> dict[int, list[tuple[str, str]]]:
    found: dict[int, list[tuple[str, str]]] = {}
    for row in session.exec(select(ChannelRow).order_by(col(ChannelRow.name))):
        entry = decode_channel(row.document).models.get(model)
        if entry is None:
            continue
        found.setdefault(entry.release, []).append((row.name, "default"))
        if entry.rollout is not None:
            found.setdefault(entry.rollout.release, []).append((row.name, "rollout"))
        if entry.audit.auditor is not None:
            found.setdefault(entry.audit.auditor, []).append((row.name, "auditor"))
    return found


def draw(model: str, found: Sequence[Origin]) -> Lineage:
    """The graph of some releases of a model."""
    snapshots = list(dict.fromkeys(one.snapshot for one in found if one.snapshot))
    channels = sorted({name for one in found for name, _ in (*one.uses, *one.serving)})
    groups = [(channel, one.number) for channel in channels for one in found if channel in dict(one.serving)]
    tallest = max(len(snapshots), len(found), len(channels), len(groups), 1)
    places = {
        "snapshot": _spread(snapshots, tallest),
        "release": _spread([one.number for one in found], tallest),
        "channel": _spread(channels, tallest),
        "devices": _spread([f"{channel}/{number}" for channel, number in groups], tallest),
    }
    return Lineage(
        nodes=list(_nodes(model, found, places)),
        edges=list(_edges(model, found, places)),
        heads=[(place * ACROSS + WIDE // 2, name) for place, name in enumerate(HEADS)],
        sentences=[_sentence(one) for one in found],
        width=3 * ACROSS + WIDE,
        height=TOP + tallest * DOWN,
    )


def _spread(names: Iterable[str | int], tallest: int) -> dict[str | int, int]:
    """Return the height of each node: its column in the middle of the tallest one."""
    known = list(names)
    first = TOP + (tallest - len(known)) * DOWN // 2
    return {name: first + place * DOWN for place, name in enumerate(known)}


Places = Mapping[str, Mapping[str | int, int]]


def _nodes(model: str, found: Sequence[Origin], places: Places) -> Iterable[Node]:
    for name, y in places["snapshot"].items():
        yield Node(kind="snapshot", text=str(name)[:12], note="", x=0, y=y)
    for one in found:
        y = places["release"][one.number]
        note = _cut(one.status if one.status != "published" else one.recipe.rsplit(".", 1)[-1])
        yield Node(kind="release", text=f"{model[:14]} {one.number}", note=note, x=ACROSS, y=y, href=f"/models/{model}")
        for channel, count in one.serving:
            y, text = places["devices"][f"{channel}/{one.number}"], counted(count, "device")
            href = f"/devices?model={model}&release={one.number}&channel={channel}"
            yield Node(kind="devices", text=text, note=f"on release {one.number}", x=3 * ACROSS, y=y, href=href)
    for name, y in places["channel"].items():
        yield Node(kind="channel", text=_cut(str(name)), note="", x=2 * ACROSS, y=y, href=f"/devices?channel={name}")


def _edges(model: str, found: Sequence[Origin], places: Places) -> Iterable[Edge]:
    for one in found:
        y = places["release"][one.number]
        if one.snapshot:
            yield _edge(0, places["snapshot"][one.snapshot], ACROSS, y)
        for name, use in one.uses:
            yield _edge(ACROSS, y, 2 * ACROSS, places["channel"][name], use)
        for channel, _ in one.serving:
            group = places["devices"][f"{channel}/{one.number}"]
            yield _edge(2 * ACROSS, places["channel"][channel], 3 * ACROSS, group, "serves")
        for parent in one.parents:
            number = parent.rpartition("/")[2]
            if number.isdigit() and int(number) in places["release"] and parent.startswith(f"{model}/"):
                above = places["release"][int(number)]
                x = ACROSS + 12
                yield Edge(path=f"M{x} {above + TALL} L{x} {y}", kind="parent")


def _edge(x0: int, y0: int, x1: int, y1: int, kind: str = "") -> Edge:
    left, right, down0, down1 = x0 + WIDE, x1, y0 + TALL // 2, y1 + TALL // 2
    bend = (right - left) // 2
    return Edge(path=f"M{left} {down0} C{left + bend} {down0} {right - bend} {down1} {right} {down1}", kind=kind)


def _sentence(one: Origin) -> str:
    made = f" of snapshot {one.snapshot[:12]}" if one.snapshot else ""
    made += f" by {one.recipe}" if one.recipe else ""
    uses = ", ".join(f"{name}'s {use}" for name, use in one.uses) or "used by no channel"
    where = ", ".join(f"{counted(count, 'device')} of {name}" for name, count in one.serving) or "no device"
    return f"Release {one.number} ({one.status}){made}: {uses}; served by {where}."


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
