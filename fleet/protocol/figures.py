"""The description of a model's inputs besides their sketch: a few figures of each row, and summaries of many rows.

Devices summarise windows, the compiler summarises the training data, and the hub reads both, so all three compute them
here. An input of few numbers is described number by number; images by brightness, contrast and detail, signals by
level, offset, peak and the shares of eight frequency bands, anything else by mean, spread, least and largest, text by
its length. At most `MOST_FIGURES` figures describe all inputs together: inputs come in the manifest's order, and one of
many numbers that finds no room is described by its four.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from fleet.protocol.bounds import check_count, check_word
from fleet.protocol.codec import decode_msgpack, encode_msgpack
from fleet.protocol.errors import MalformedError
from fleet.protocol.telemetry import InputSummary
from fleet.protocol.tensor_spec import Tensor

Floats = npt.NDArray[np.float64]
Kind = Literal["values", "image", "signal", "whole", "text"]

MOST_FIGURES = 64  # of a window: about 2 KiB
MOST_INPUTS = 16
MOST_ROWS = 1 << 20  # that a summary from elsewhere may stand for; devices draw 256
MOST_REFUSED = 1 << 50
PROFILE_LIMIT = 64 << 10  # bytes of a release's profile
BANDS = 8
SIDE = 8  # pixels: a smaller array is no image
SIGNAL = 256  # samples: a shorter row is no signal
COLUMNS = ("finite", "mean", "spread", "low", "q05", "median", "q95", "high")
FINITE, MEAN, SPREAD, LOW, Q05, MEDIAN, Q95, HIGH = range(len(COLUMNS))
SHARES = (0.0, 0.05, 0.5, 0.95, 1.0)  # of the last five columns
DETAILED = 64  # rows of a window whose images and signals are looked at: a drawn part, as the window itself
LARGEST = 3e38  # that float32 holds


class Told(NamedTuple):
    """The figures of one input: its kind and their names."""

    tensor: str
    kind: Kind
    names: tuple[str, ...]


class TrainingProfile(Struct, frozen=True, kw_only=True):
    """A summary of the data that a release was trained on: a blob that its manifest lists, which only the hub reads.

    `names` are the features' own names by input, where the data has them.
    """

    inputs: tuple[InputSummary, ...]
    names: dict[str, tuple[str, ...]] = {}


def planned_figures(inputs: Sequence[Tensor]) -> tuple[Told, ...]:
    """Return the figures that describe each of a manifest's inputs, in order, as far as there is room."""
    found: list[Told] = []
    left = MOST_FIGURES
    for tensor in inputs[:MOST_INPUTS]:
        kind, names = _kind(tensor, left)
        if len(names) > left:
            break
        left -= len(names)
        found.append(Told(tensor.name, kind, names))
    return tuple(found)


def summarize_input(
    told: Told, rows: Sequence[npt.NDArray[Any]], refused: Mapping[str, int] | None = None, *, every: bool = False
) -> InputSummary:
    """Sum up rows of one input, each without its batch axis.

    Args:
        told: how.
        rows: the rows; of images, signals and whole inputs the first `DETAILED` are looked at, unless `every`.
        refused: requests that were refused for what they held, by the place of the figure ("" where it is not known).
    """
    with np.errstate(all="ignore"):  # NaN and what overflows is left out of the figures
        told_rows = rows if every or told.kind == "values" else rows[:DETAILED]
        table = _TABLES[told.kind](told_rows) if rows else np.empty((0, len(told.names)))
        figures = np.clip(columns(table), -LARGEST, LARGEST).astype("<f4")
    real = told.kind != "text" and bool(rows) and rows[0].dtype.kind == "f"
    return InputSummary(
        name=told.tensor,
        rows=len(rows),
        nan=sum(bool(np.isnan(row).any()) for row in rows) if real else 0,
        infinite=sum(bool(np.isinf(row).any()) for row in rows) if real else 0,
        refused=dict(refused or {}),
        figures=figures.tobytes(),
    )


def columns(table: Floats) -> Floats:
    """The summary of figures: (n, f) → (f, 8), see `COLUMNS`; NaN where no row has a finite value."""
    found = np.full((table.shape[1], len(COLUMNS)), np.nan)
    good = np.isfinite(table)
    found[:, FINITE] = good.mean(axis=0) if len(table) else np.nan
    for place in range(table.shape[1]):
        values = table[good[:, place], place]
        if len(values):
            found[place, MEAN], found[place, SPREAD] = values.mean(), values.std()
            found[place, LOW:] = np.quantile(values, SHARES)
    return found


def figures_of(summary: InputSummary) -> Floats:
    """A summary's figures: (f, 8) float64."""
    return np.frombuffer(summary.figures, "<f4").astype(np.float64).reshape(-1, len(COLUMNS))


def check_summary(summary: InputSummary) -> None:
    """Raise MalformedError for a summary from elsewhere that no device can have made."""
    check_word(summary.name, "input", 256)
    check_count(summary.rows, "rows of an input", MOST_ROWS)
    check_count(summary.nan, "rows with NaN", summary.rows)
    check_count(summary.infinite, "rows with infinity", summary.rows)
    check_count(len(summary.refused), "places of refusals", MOST_FIGURES + 1)
    for place, count in summary.refused.items():
        if place and not (place.isdecimal() and len(place) <= 3):
            raise MalformedError(f"input {summary.name!r}: {place[:16]!r} is no place", subject=summary.name)
        check_count(count, "refused requests", MOST_REFUSED)
    row = 4 * len(COLUMNS)
    if len(summary.figures) % row or len(summary.figures) > row * MOST_FIGURES:
        raise MalformedError(f"input {summary.name!r}: {len(summary.figures)} bytes of figures", subject=summary.name)
    table = figures_of(summary)
    if np.isinf(table).any() or (table[:, FINITE] < 0).any() or (table[:, FINITE] > 1.0001).any():
        raise MalformedError(f"input {summary.name!r}: figures that no rows have", subject=summary.name)
    with np.errstate(invalid="ignore", over="ignore"):
        steps = np.diff(table[:, LOW:], axis=1)
        # Rows of one value have steps of zero, up to the rounding of float32.
        if (steps < -1e-5 * np.abs(table[:, LOW : HIGH + 1]).max(axis=1, initial=0)[:, None]).any():
            raise MalformedError(f"input {summary.name!r}: quantiles that do not rise", subject=summary.name)


def check_summaries(summaries: Sequence[InputSummary]) -> None:
    """Check all summaries of a window or profile, which are bounded together.

    Raises:
        MalformedError: one is out of its bounds, all are too large together, or two are of one input.
    """
    check_count(len(summaries), "inputs", MOST_INPUTS)
    for summary in summaries:
        check_summary(summary)
    size = sum(len(summary.figures) for summary in summaries)
    check_count(size, "bytes of figures", 4 * len(COLUMNS) * MOST_FIGURES)
    if len({summary.name for summary in summaries}) < len(summaries):
        raise MalformedError("two summaries of one input", subject="inputs")


def encode_profile(profile: TrainingProfile) -> bytes:
    """The bytes of a release's profile."""
    return encode_msgpack(profile)


def decode_profile(data: bytes) -> TrainingProfile:
    """Decode and check a profile; raises TooLargeError or MalformedError."""
    profile = decode_msgpack(data, TrainingProfile, limit=PROFILE_LIMIT, subject="profile")
    check_summaries(profile.inputs)
    for names in profile.names.values():
        check_count(len(names), "names of features", MOST_FIGURES)
        for name in names:
            check_word(name, "feature", 128)
    return profile


def _kind(tensor: Tensor, left: int) -> tuple[Kind, tuple[str, ...]]:
    shape = tensor.shape[1:] if tensor.shape[:1] == (-1,) else tensor.shape
    if tensor.datatype == "BYTES":
        return "text", ("length",)
    if -1 in shape:
        return "whole", WHOLE
    width = math.prod(shape)
    if width <= left:
        return "values", tuple(str(place) for place in range(width))
    if channels(shape) is not None:
        return "image", IMAGE
    if max(shape) >= SIGNAL and width <= 2 * max(shape):
        return "signal", SIGNAL_NAMES
    return "whole", WHOLE


def channels(shape: Sequence[int]) -> int | None:
    """The axis of an image's channels, -1 or 0; 2 of an image without any; None of what is no image. `shape` has no
    batch."""
    if len(shape) == 2 and min(shape) >= SIDE:
        return 2
    if len(shape) == 3 and min(shape[:2]) >= SIDE and shape[2] <= 4:
        return -1
    if len(shape) == 3 and min(shape[1:]) >= SIDE and shape[0] <= 4:
        return 0
    return None


WHOLE = ("mean", "spread", "least", "largest")
IMAGE = ("brightness", "contrast", "detail")
SIGNAL_NAMES = ("level", "offset", "peak", *(f"band {number + 1} of {BANDS}" for number in range(BANDS)))


def _values(rows: Sequence[npt.NDArray[Any]]) -> Floats:
    return np.stack([np.asarray(row, np.float64).ravel() for row in rows])


def _whole(rows: Sequence[npt.NDArray[Any]]) -> Floats:
    found = np.full((len(rows), len(WHOLE)), np.nan)
    for place, row in enumerate(rows):
        values = np.asarray(row, np.float64).ravel()
        if values.size:
            found[place] = values.mean(), values.std(), values.min(), values.max()
    return found


def _image(rows: Sequence[npt.NDArray[Any]]) -> Floats:
    found = np.empty((len(rows), len(IMAGE)))
    for place, row in enumerate(rows):
        pixels = np.asarray(row, np.float64)
        axis = channels(pixels.shape)
        grey = pixels if axis == 2 else pixels.mean(axis=-1 if axis is None else axis)
        detail = (np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean()) / 2
        found[place] = grey.mean(), grey.std(), detail
    return found


def _signal(rows: Sequence[npt.NDArray[Any]]) -> Floats:
    """Level is the root mean square; bands are shares of the power without the offset, each twice as wide as the one
    below, up to half the sampling rate."""
    found = np.empty((len(rows), len(SIGNAL_NAMES)))
    for place, row in enumerate(rows):
        wave = np.asarray(row, np.float64)
        wave = wave.reshape(-1) if wave.size == max(wave.shape) else wave.mean(axis=int(np.argmin(wave.shape)))
        offset = wave.mean()
        power = np.abs(np.fft.rfft(wave - offset)[1:]) ** 2
        edges = len(power) // 2 ** np.arange(BANDS - 1, 0, -1)
        bands = np.asarray([part.sum() for part in np.split(power, edges)])
        total = bands.sum()
        shares = bands / total if total > 0 else np.zeros(BANDS)
        found[place] = math.sqrt(np.mean(wave * wave)), offset, np.abs(wave).max(), *shares
    return found


def _text(rows: Sequence[npt.NDArray[Any]]) -> Floats:
    lengths = [[len(item) for item in np.asarray(row, object).ravel()] for row in rows]
    return np.asarray([[float(np.mean(row)) if row else np.nan] for row in lengths])


_TABLES: dict[Kind, Callable[[Sequence[npt.NDArray[Any]]], Floats]] = {
    "values": _values,
    "whole": _whole,
    "image": _image,
    "signal": _signal,
    "text": _text,
}
