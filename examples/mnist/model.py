"""Convolutional networks for 28 × 28 digits."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class DigitNet(nn.Module):
    """Three convolutions and two dense layers; (n, 1, 28, 28) to logits (n, 10)."""

    def __init__(self, channels: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, channels, 5, stride=2, padding=2)
        self.second = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1)
        self.third = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1)
        self.dense = nn.Linear(2 * channels * 9, hidden)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 1, 28, 28) float32 to (n, 10) logits."""
        x = functional.relu(self.first(x))
        x = functional.relu(self.second(x))
        x = functional.max_pool2d(functional.relu(self.third(x)), 2)
        x = functional.relu(self.dense(torch.flatten(x, 1)))
        return self.head(self.dropout(x))


def teacher() -> DigitNet:
    """The cloud model: about 500,000 weights."""
    return DigitNet(channels=32, hidden=256, dropout=0.3)


def student() -> DigitNet:
    """The edge model: about 85,000 weights."""
    return DigitNet(channels=24, hidden=96)
