"""The steps that a release may declare before its model: what is signed of each, what it makes, and how.

scale, normalise   numbers to numbers by constants          clip, impute   bounds, and a value where there is none
one-hot, ordinal   words or whole numbers by a vocabulary   concat         several tensors side by side
window             a series in overlapping pieces

A step works on rows: row i of what it makes depends on row i of what it takes and on nothing else, so that a batch
gets the bits that its rows get alone. It adds, multiplies, divides, compares and looks up, which IEEE 754 rounds in one
way only, so that every machine gets the same bits. What needs more than that, a logarithm or a Fourier transform, is a
model file in front of the model.

Arithmetic is done in FP32, and in FP64 where the values come in FP64 or in integers that FP32 cannot hold; what is
made is FP32. Constants are one number, or one for each element along `axis`, which counts from the end: -1 is the last
axis, -3 the channels of (n, channels, height, width). A fitted constant that is empty is yet to be fitted.
"""

from __future__ import annotations

from typing import get_args

from fleet.protocol.steps.base import MAX_CONSTANTS, MAX_ROW_VALUES, MAX_VALUES, MAX_WORD, Bound, Step
from fleet.protocol.steps.encodings import OneHot, Ordinal
from fleet.protocol.steps.numbers import Clip, Impute, Normalise, Scale
from fleet.protocol.steps.shapes import Concat, Window

__all__ = [
    "KINDS",
    "MAX_CONSTANTS",
    "MAX_ROW_VALUES",
    "MAX_VALUES",
    "MAX_WORD",
    "AnyStep",
    "Bound",
    "Clip",
    "Concat",
    "Impute",
    "Normalise",
    "OneHot",
    "Ordinal",
    "Scale",
    "Step",
    "Window",
]

AnyStep = Scale | Normalise | Clip | Impute | OneHot | Ordinal | Window | Concat
KINDS = tuple(str(step.__struct_config__.tag) for step in get_args(AnyStep))
