"""The records of a model's inputs and of each device's: documents of `input_monitor` and `input_watch`. Pure."""

from __future__ import annotations

from typing import cast

from msgspec import Struct, field

from cloud_hub.drift import bets, growth
from cloud_hub.drift.growth import Climb
from cloud_hub.drift.outliers import Outliers
from cloud_hub.drift.quality import Key, Problem


class Track(Struct, frozen=True, kw_only=True):
    """The evidence on one problem of a device. `accepted` is the share that an operator has let pass."""

    logs: tuple[float, ...] = bets.NOTHING
    since: float = 0.0
    now: float = 0.0
    alarm: int = 0
    accepted: float = 0.0


class DeviceInputs(Struct, kw_only=True):
    """A row's document: what is held against a device's inputs, by `Key` as text, and its outliers.

    `own` are sums of shares over its first `learnt` windows, from `begun` on: its habit. `climbs` are the features that
    may only grow, by place and input as text, from the window of the time `climbing` on (Unix seconds); `grown` those
    of them that the monitor counts, `seen` whether it counts the device.
    """

    begun: float | None = None
    learnt: int = 0
    own: dict[str, float] = {}
    tracks: dict[str, Track] = {}
    outliers: Outliers = Outliers()
    climbing: float | None = None
    climbs: dict[str, Climb] = {}
    grown: list[str] = []
    seen: bool = False


class InputMonitorState(Struct, kw_only=True):
    """A monitor's document: windows counted, those with summaries and with outliers, and what the first ones showed:
    sums of shares by the hour of the day (UTC), over as many windows as `hours` says. `growing`: on how many of the
    `watched` devices a feature only grows; `left_out`: those that are therefore nobody's (`growth`)."""

    begun: float = 0.0
    windows: int = 0
    told: int = 0
    sketched: int = 0
    hours: list[int] = field(default_factory=lambda: [0] * 24)
    usual: dict[str, dict[str, float]] = {}
    profiled: bool = False
    growing: dict[str, int] = {}
    watched: int = 0
    left_out: list[str] = []


def without(facts: InputMonitorState, device: DeviceInputs) -> None:
    """Take a device out of the counts of a monitor's document: it is not watched any more."""
    if not device.seen:
        return
    facts.watched = max(0, facts.watched - 1)
    for name in device.grown:
        facts.growing = {**facts.growing, name: max(0, facts.growing.get(name, 0) - 1)}
    facts.left_out = sorted(growth.left_out(facts.growing, facts.watched, facts.left_out))


def feature_text(tensor: str, place: int) -> str:
    """A feature as documents have it."""
    return f"{place}:{tensor}"


def feature_of(text: str) -> tuple[str, int]:
    """The other way round: input and place."""
    place, tensor = text.split(":", 1)
    return tensor, int(place)


def text_of(key: Key) -> str:
    """A key as documents have it."""
    return f"{key.problem}:{key.place}:{key.tensor}"


def key_of(text: str) -> Key:
    """The other way round."""
    problem, place, tensor = text.split(":", 2)
    return Key(tensor, int(place), cast(Problem, problem))
