"""The recipe of the digits example: `cloud-hub train examples.digits.recipe --out DIR`.

`EDGELOOP_DIGITS_SEED` chooses the split of the data (`data.splits`).
"""

from __future__ import annotations

import math
import os

import torch
from torch import Tensor
from torch.nn import functional

from cloud_hub.training.recipe import Examples, Hyper, Recipe, Sets
from examples.digits import data as digits
from examples.digits import model

DEGREES = 4.0  # augmentation: a scan that lies almost straight
SHIFT = 0.12  # of half the width


def sets() -> Sets:
    """The example's own data."""
    parts = {k: Examples(*v) for k, v in digits.splits(int(os.environ.get("EDGELOOP_DIGITS_SEED", "0"))).items()}
    return Sets(parts["train"], parts["calibration"], parts["validation"], parts["exam"])


def augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """Turn and shift each image of (n, 1, 8, 8) a little."""
    n = len(x)
    angle = (torch.rand(n, generator=generator) * 2 - 1) * math.radians(DEGREES)
    shift = (torch.rand(n, 2, generator=generator) * 2 - 1) * SHIFT
    cos, sin = torch.cos(angle), torch.sin(angle)
    rows = [torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)]
    grid = functional.affine_grid(torch.stack(rows, 1).to(x), list(x.shape), align_corners=False)
    return functional.grid_sample(x, grid, align_corners=False)


RECIPE = Recipe(
    data=sets,
    teacher=model.teacher,
    student=model.student,
    labels=tuple("0123456789"),
    augment=augment,
    hyper=Hyper(teacher_epochs=60, student_epochs=140, warm_epochs=60),
    sources=(digits, model),
)
