"""Squares and bars on images of 32 × 32: `fleet recipe check examples/detector/recipe.py`.

The network divides the image into 8 × 8 cells and says of each where the box around its shape is, and how probable each
class is: one output (n, 4 + classes, cells), the layout `grid`; overlapping boxes are suppressed by the task.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from cloud_hub.training.losses import Batch
from cloud_hub.training.recipe import Examples, Hyper, Recipe, Sets

SIZE, CELLS, MOST = 32, 8, 2
STEP = SIZE // CELLS
CLASSES = ("square", "bar")


class Detector(nn.Module):
    """(n, 1, 32, 32) to (n, 6, 64): centre, width and height in pixels, then a probability for each class."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, channels, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(2 * channels, 2 * channels, 3, padding=1),
            nn.ReLU(),
        )
        self.head = nn.Conv2d(2 * channels, 4 + len(CLASSES), 1)
        nn.init.constant_(self.head.bias[4:], -4.0)  # almost every cell is empty
        cells = torch.arange(CELLS) * STEP + STEP / 2
        self.register_buffer("places", torch.stack(torch.meshgrid(cells, cells, indexing="xy")).reshape(2, -1))

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Images to boxes."""
        found = self.head(self.body(image)).flatten(2)
        centre = self.places + STEP * torch.tanh(found[:, :2])
        size = SIZE * torch.sigmoid(found[:, 2:4])
        return {"boxes": torch.cat([centre, size, torch.sigmoid(found[:, 4:])], dim=1)}


def loss(answer: Mapping[str, torch.Tensor], batch: Batch) -> torch.Tensor:
    """Binary cross-entropy of every cell's classes, and the distance of the box in cells that hold a shape's centre."""
    found, labels = answer["boxes"], batch.y[batch.known]
    found = found[batch.known]
    wanted = torch.zeros_like(found[:, 4:])
    image, place = torch.nonzero(labels[:, :, 4] >= 0, as_tuple=True)
    boxes, kinds = labels[image, place, :4], labels[image, place, 4].long()
    centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    column, row = (centre / STEP).long().clamp(0, CELLS - 1).T
    cell = row * CELLS + column
    wanted[image, kinds, cell] = 1.0
    presence = functional.binary_cross_entropy(found[:, 4:].clamp(1e-6, 1 - 1e-6), wanted, reduction="sum")
    apart = functional.smooth_l1_loss(found[image, :4, cell], torch.cat([centre, size], dim=1), reduction="sum")
    return (presence + 0.2 * apart) / max(len(labels), 1)


def rows(count: int, seed: int) -> Examples:
    """Images with one or two shapes that do not touch, on a noisy ground."""
    random = np.random.default_rng(seed)
    x = 0.1 * random.random((count, 1, SIZE, SIZE)).astype(np.float32)
    y = np.full((count, MOST, 5), -1, np.float32)
    for image in range(count):
        halves = random.permutation(2)[: random.integers(1, MOST + 1)]
        for place, half in enumerate(halves.tolist()):
            kind = int(random.integers(2))
            width, height = (8, 8) if kind == 0 else (14, 5)
            left = int(random.integers(0, SIZE - width))
            top = half * SIZE // 2 + int(random.integers(0, SIZE // 2 - height))
            x[image, 0, top : top + height, left : left + width] += 0.8
            y[image, place] = (left, top, left + width, top + height, kind)
    return Examples({"image": x}, y)


def sets() -> Sets:
    """Disjoint by their seeds."""
    return Sets(rows(400, 1), rows(40, 2), rows(60, 3), rows(60, 4))


RECIPE = Recipe(
    data=sets,
    task="detection:layout=grid,box=cxcywh,threshold=0.4",
    labels=CLASSES,
    student=Detector,
    loss=loss,
    hyper=Hyper(student_epochs=30, student_rate=0.01, batch=32),
    targets=("litert-fp32",),
)
