"""Are there more outliers than there were? Pure: each window's share of outlying inputs, against the device's record.

Devices say how many of a window's drawn inputs lie far from the training data. A device's record is made over a period
(the policy's baseline): the share in each hour of the day. What is normal is the largest of these hours, so that days
with hours are no change; more than `LEAST` above it is bet against (`bets`).
"""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from cloud_hub.drift import bets
from fleet.protocol.durations import HOUR_S

LEAST = 0.05  # of the inputs; less is not worth a look
HOURS = 24
LAST = 0.1  # weight of the newest window in `now`


class Outliers(Struct, frozen=True, kw_only=True):
    """One device's share of outlying inputs. `hours` are sums of shares and windows by the hour of the day (UTC).

    `normal` is None while the record is made; `now` is a running mean, `since` the begin of what is held against it.
    """

    hours: tuple[tuple[float, int], ...] = ((0.0, 0),) * HOURS
    begun: float | None = None
    windows: int = 0
    normal: float | None = None
    now: float | None = None
    logs: tuple[float, ...] = bets.NOTHING
    since: float = 0.0
    alarm: int = 0


def count(found: Outliers, share: float, started: float, ended: float, *, first: int, period_s: float) -> Outliers:
    """Count one window: towards the record until that has `first` windows and `period_s` seconds, then against it.

    Args:
        share: of its inputs that are outlying, in [0, 1].
        started: Unix seconds, like `ended`.
    """
    now = share if found.now is None else found.now + LAST * (share - found.now)
    begun = started if found.begun is None else found.begun
    found = replace(found, now=now, begun=begun, windows=found.windows + 1)
    if found.normal is None:
        hour = int(ended % 86_400.0 // HOUR_S)
        total, windows = found.hours[hour]
        hours = (*found.hours[:hour], (total + share, windows + 1), *found.hours[hour + 1 :])
        if found.windows < first or ended - begun < period_s:
            return replace(found, hours=hours)
        return replace(found, hours=(), normal=max(part / many for part, many in hours if many))
    if (found.normal + LEAST) >= 1:  # a device where everything is outlying shows nothing more
        return found
    logs = bets.bet(found.logs, share, margin(found))
    since = started if bets.evidence(found.logs) <= 0 else found.since
    return replace(found, logs=logs, since=since)


def margin(found: Outliers) -> float:
    """The share under which outliers are as ever."""
    return (found.normal or 0.0) + LEAST


def accept(found: Outliers) -> Outliers:
    """Take as normal from now on the share about which an operator has closed an alarm."""
    return replace(found, normal=max(found.normal or 0.0, found.now or 0.0), logs=bets.NOTHING, alarm=0)
