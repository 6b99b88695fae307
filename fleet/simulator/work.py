"""The messages between the processes of a simulation, as JSON lines."""

from __future__ import annotations

from msgspec import Struct


class Member(Struct, frozen=True, kw_only=True):
    """A device to simulate: its name, its profile, whether its agent can shadow, and the claim token that it enrols
    with (empty: it is enrolled)."""

    name: str
    profile: str
    shadows: bool = True
    token: str = ""


class Work(Struct, frozen=True, kw_only=True):
    """A process's share. `seconds` counts from when its devices are enrolled; then they measure nothing more, and have
    `drain_s` to bring what is under way to its end. Times are Unix seconds."""

    number: int
    hub: str
    channel: str
    directory: str
    seed: int
    started_at: float
    seconds: float
    drain_s: float
    members: tuple[Member, ...]


class ProcessProgress(Struct, frozen=True, kw_only=True):
    """The progress of a process: sums since its start, but for `delays` (seconds from records to receipts).

    `releases` counts devices by `MODEL@NUMBER` that serves; `troubles` counts faults, by their words.

    `releases` counts devices by `MODEL@NUMBER` that serves; `troubles` what went wrong, by its words.
    """

    enrolled: int
    online: int
    waiting: int
    records: int
    sent: int
    receipted: int
    hostile: int
    lost: int
    commands: int
    refused: int
    looks: int
    releases: dict[str, int]
    delays: list[float]
    troubles: dict[str, int]
    memory_bytes: int
    done: bool = False
