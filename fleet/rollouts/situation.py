"""The facts before a rollout: its channel's devices, their traffic, and the devices that cannot follow."""

from __future__ import annotations

from msgspec import Struct

from fleet.protocol.channel import Audit


class ReportedTraffic(Struct, frozen=True, kw_only=True):
    """The traffic that the channel's devices reported of the model in the last `hours` hours (0: nothing).

    Per device and day: `requests`, and `audited` of them. `distinct` is the share of audited inputs that were new in
    the model's last rollout, None when there was none that told. `windows`: those that had enough requests to say
    something by themselves (`signals`). `labelled`: randomly drawn samples that got a label in the last week, per day
    and all devices together.
    """

    hours: int = 0
    requests: float = 0.0
    audited: float = 0.0
    distinct: float | None = None
    windows: float = 0.0
    labelled: float = 0.0


class CannotFollow(Struct, frozen=True, kw_only=True):
    """A device whose agent lacks what the release requires."""

    device: str
    lacks: tuple[str, ...]


class Scope(Struct, frozen=True, kw_only=True):
    """The channel's devices: `free` can belong to a cohort; the others are pinned, follow a rule, are outside of the
    rollout's groups, or cannot follow. Of the free ones, `hardware` says how many are of each class, and the agents of
    `unnamed` do not name the inputs of their pairs, which prove nothing then."""

    free: int = 0
    pinned: int = 0
    ruled: int = 0
    outside: int = 0
    unable: tuple[CannotFollow, ...] = ()
    unnamed: int = 0
    hardware: dict[str, int] = {}

    @property
    def total(self) -> int:
        """All devices of the channel."""
        return self.free + self.pinned + self.ruled + self.outside + len(self.unable)

    @property
    def left(self) -> str:
        """Those that cannot belong to a cohort, by reason, in words."""
        counts = (
            (self.pinned, "pinned"),
            (self.ruled, "on a rule's release"),
            (self.outside, "outside of the groups"),
            (len(self.unable), "lacking what the release requires"),
        )
        return ", ".join(f"{count} {what}" for count, what in counts if count)


class Situation(Struct, frozen=True, kw_only=True):
    """The facts before a rollout: its place, the auditor there, how many distinct inputs one device can bring at most,
    and the time (Unix seconds). `labels`: whether a label tells by itself if an answer is right, and `samples` whether
    the channel draws samples at random. `mute`: why the auditor can answer nothing; `partial`: why it can compare
    nothing; `unproven`: why it is open whether it can. Each is empty where there is nothing to say."""

    model: str
    channel: str
    scope: Scope
    traffic: ReportedTraffic
    audit: Audit
    most_per_device: int
    now: float = 0.0
    labels: bool = False
    samples: bool = False
    mute: str = ""
    partial: str = ""
    unproven: str = ""
