"""A number of two inputs: `fleet recipe check examples/regression/recipe.py`.

The data is generated: wear in hundredths of a millimetre, of the torque (n, 3) and the speed (n, 2) of three seconds.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from cloud_hub.training.recipe import Examples, Hyper, Recipe, Sets

NOISE = 0.05


class Wear(nn.Module):
    """(n, 3) and (n, 2) to (n, 1); the parameters' names are the model's inputs, the dict's the output."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, torque: torch.Tensor, speed: torch.Tensor) -> dict[str, torch.Tensor]:
        """Readings to wear."""
        return {"wear": self.layers(torch.cat([torque, speed], dim=1))}


def rows(count: int, seed: int) -> Examples:
    """Readings with the wear that belongs to them."""
    random = np.random.default_rng(seed)
    torque, speed = random.normal(size=(count, 3)), random.normal(size=(count, 2))
    wear = 2 * torque.mean(axis=1) - speed[:, 0] + 0.5 * torque[:, 0] * speed[:, 1] + NOISE * random.normal(size=count)
    inputs = {"torque": torque.astype(np.float32), "speed": speed.astype(np.float32)}
    return Examples(inputs, wear.astype(np.float32))


def sets() -> Sets:
    """Disjoint by their seeds."""
    return Sets(rows(600, 1), rows(100, 2), rows(200, 3), rows(200, 4))


RECIPE = Recipe(
    data=sets,
    task="regression:tolerance=0.5",
    teacher=lambda: Wear(64),
    student=lambda: Wear(16),
    hyper=Hyper(teacher_epochs=40, student_epochs=40, teacher_rate=0.01, student_rate=0.01),
    warm=True,
)
