"""A sample's inputs as people see them: as a small picture where they are one, and in words."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fleet.protocol.errors import MalformedError
from fleet.protocol.figures import MEAN, channels, figures_of, planned_figures, summarize_input
from fleet.protocol.manifest import Tensor
from fleet.protocol.messages import Array
from fleet.protocol.tensors import from_array

SIDE = 256  # pixels of a picture; larger ones lose rows and columns
LARGE = 1024  # of one that boxes are drawn on
NUMBERS = 4  # of an input that is told number by number
SHOWN = 200  # characters


class Extent(NamedTuple):
    """A picture's width and height in pixels of the input, and how much of the plane its PNG of `LARGE` covers: what
    loses rows and columns may stand for some beyond the edge."""

    width: int
    height: int
    covered: tuple[int, int]


def extent_of(inputs: Sequence[Array]) -> Extent | None:
    """The extent of the input that `picture_of` shows; looks at shapes alone."""
    for array in inputs:
        if is_pictured((array,)):
            shape = array.shape[1:]
            axis = channels(shape)
            height, width = shape[1:] if axis == 0 else shape[:2]
            covered = [-(-size // (step := _step(size, LARGE))) * step for size in (width, height)]
            return Extent(width, height, (covered[0], covered[1]))
    return None


def picture_of(inputs: Sequence[Array], side: int = SIDE) -> bytes | None:
    """The first input that is an image, as PNG, its least value black and its largest white; None without any.

    Args:
        inputs: a sample's.
        side: pixels of the PNG's longer side at most.
    """
    for array in inputs:
        try:
            values = from_array(array)
        except MalformedError:
            continue
        if (
            values.dtype.kind in "fiub"
            and values.ndim > 2
            and len(values) == 1
            and channels(values.shape[1:]) is not None
        ):
            return _png(_pixels(values[0], side))
    return None


def is_pictured(inputs: Sequence[Array]) -> bool:
    """Tell whether `picture_of` has one; looks at shapes alone."""
    return any(
        array.datatype != "BYTES"
        and len(array.shape) > 2
        and array.shape[0] == 1
        and channels(array.shape[1:]) is not None
        for array in inputs
    )


def in_words(inputs: Sequence[Array]) -> str:
    """Each input by its first numbers, or by figures such as brightness."""
    said = []
    for array in inputs:
        try:
            said.append(f"{array.name}: {_one(array)}")
        except MalformedError:
            said.append(f"{array.name}: unreadable")
    text = "; ".join(said)
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def _one(array: Array) -> str:
    values = from_array(array)
    row = values[0] if values.ndim and len(values) == 1 else values
    told = planned_figures((Tensor(name=array.name, datatype=array.datatype, shape=(-1, *row.shape)),))[0]
    if told.kind == "text":
        words = [
            item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item) for item in row.ravel()[:NUMBERS]
        ]
        return ", ".join(words)
    if told.kind == "values":
        numbers = row.ravel()
        return ", ".join(f"{number:.4g}" for number in numbers[:NUMBERS]) + (", …" if numbers.size > NUMBERS else "")
    means = figures_of(summarize_input(told, [row]))[:, MEAN]
    return ", ".join(f"{name} {mean:.3g}" for name, mean in list(zip(told.names, means, strict=True))[:NUMBERS])


def _step(size: int, side: int) -> int:
    return max(1, -(-size // side))


def _pixels(image: npt.NDArray[np.generic], side: int) -> npt.NDArray[np.uint8]:
    """(h, w) or (h, w, 3), 0 to 255; NaN is black."""
    axis = channels(image.shape)
    planes = np.asarray(image, np.float64)
    planes = planes[..., None] if axis == 2 else np.moveaxis(planes, 0, -1) if axis == 0 else planes
    step = [_step(size, side) for size in planes.shape[:2]]
    planes = np.nan_to_num(planes[:: step[0], :: step[1]], posinf=0.0, neginf=0.0)
    low, high = float(planes.min()), float(planes.max())
    scaled = (planes - low) * (255.0 / (high - low) if high > low else 0.0)
    return scaled[..., :3].astype(np.uint8) if scaled.shape[-1] >= 3 else scaled[..., 0].astype(np.uint8)


def _png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """PNG, ISO/IEC 15948: 8 bits a channel, rows unfiltered."""
    height, width = pixels.shape[:2]
    rows = pixels.reshape(height, -1)
    data = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1).tobytes()
    head = struct.pack(">IIBBBBB", width, height, 8, 2 if pixels.ndim == 3 else 0, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(data)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )
