"""A sample's inputs that are sound, as WAV files that a browser plays. Pure.

No tensor says that it is sound; the model's policy does (`fleet.api.models.SamplePolicy`).
"""

from __future__ import annotations

import io
import wave
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from cloud_hub.samples import series
from fleet.api.models import SamplePolicy
from fleet.protocol.messages import Array

LONGEST_S = 60  # of a sound; what comes after is not played
MOST_BYTES = 8 << 20
CHANNELS = 2
FULL = 32_767  # the loudest value of 16 bits


def policy_of(policy: Mapping[str, Any]) -> SamplePolicy:
    """Return the settings by which a model's samples are shown; the defaults for a setting that cannot be read."""
    try:
        return SamplePolicy.model_validate(policy.get("samples", {}))
    except ValidationError:
        return SamplePolicy()


def sounds_in(inputs: Sequence[Array], rates: Mapping[str, int]) -> dict[str, tuple[float, float]]:
    """The names of the inputs that can be played, each with its length and how much of it is played, in seconds."""
    found = {}
    for array in inputs:
        if array.name in rates and (table := _table(array)) is not None:
            rate = rates[array.name]
            found[array.name] = len(table) / rate, min(len(table), _most(table, rate)) / rate
    return found


def sound_of(inputs: Sequence[Array], name: str, rates: Mapping[str, int]) -> bytes | None:
    """Return one input as WAV, 16 bits, in its own one or two channels; None where it is no sound.

    Real numbers are full scale at 1.0, integers at the end of their type. A louder sound is made quieter as a whole, so
    that it is not cut off; NaN and infinity are silence.
    """
    for array in inputs:
        if array.name == name and name in rates and (table := _table(array)) is not None:
            rate = rates[name]
            return _wav(_levels(table[: _most(table, rate)], array.datatype), rate)
    return None


def _most(table: npt.NDArray[np.float64], rate: int) -> int:
    """Values of each channel that are played."""
    channels: int = table.shape[1]
    return min(LONGEST_S * rate, MOST_BYTES // (2 * channels))


def _table(array: Array) -> npt.NDArray[np.float64] | None:
    table = series.over_time(array)
    return table if table is not None and table.shape[1] <= CHANNELS else None


def _levels(table: npt.NDArray[np.float64], datatype: str) -> npt.NDArray[np.float64]:
    """Values within [-1, 1]; unsigned integers are silent in their middle."""
    if datatype.startswith(("INT", "UINT")):
        half = 2.0 ** (int(datatype.removeprefix("U").removeprefix("INT")) - 1)
        table = (table - half if datatype.startswith("U") else table) / half
    table = np.nan_to_num(table, nan=0.0, posinf=0.0, neginf=0.0)
    loudest = float(np.abs(table).max(initial=0.0))
    return table / loudest if loudest > 1.0 else table


def _wav(levels: npt.NDArray[np.float64], rate: int) -> bytes:
    written = io.BytesIO()
    with wave.open(written, "wb") as file:
        file.setnchannels(levels.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.round(levels * FULL).astype("<i2").tobytes())
    return written.getvalue()
