"""The other devices' moves while one moves: a season or the weather moves all of them, a sensor that ages moves alone.
Pure.

A count for people, and no test: it raises no alarm and holds none back.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from cloud_hub.drift.streams import Stream

Floats = npt.NDArray[np.float64]
AS_FAR = 0.5  # of a device's move along its own way, from which on another has moved as well


class Company(Struct, frozen=True, kw_only=True):
    """The number of `others` that a device was compared with, and of those that `moved` as well."""

    others: int = 0
    moved: int = 0


def company_of(device: Stream, streams: Iterable[Stream], weights: Floats) -> Company:
    """Count the devices that have moved the same way as one, at least half as far, by the same running mean.

    Args:
        device: the one that an alarm names.
        streams: of devices. Those without a steady baseline of their own, and those that have sent nothing since
            `device` began to move, say nothing.
        weights: (K,) of the coordinates.

    Returns:
        Nobody, where the device has no baseline yet.
    """
    if device.bank is None or device.since is None:
        return Company()
    bet, since = device.leading_bet, device.since
    way = device.gone(bet) * weights**2  # the bets weight both sides
    far = float(device.gone(bet) @ way)
    able = [one for one in streams if one.key != device.key and one.state == "steady" and one.last >= since]
    moved = sum(float(one.gone(bet) @ way) >= AS_FAR * far > 0 for one in able)
    return Company(others=len(able), moved=moved)
