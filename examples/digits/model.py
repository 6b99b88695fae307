"""Two small convolutional networks for 8 × 8 digits: the teacher, and the student that it distils into."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class DigitNet(nn.Module):
    """Two convolutions and two dense layers; (n, 1, 8, 8) to logits (n, 10)."""

    def __init__(self, channels: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, 2 * channels, 3, padding=1)
        self.dense = nn.Linear(2 * channels * 4, hidden)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 1, 8, 8) float32 to (n, 10) logits."""
        x = functional.max_pool2d(functional.relu(self.first(x)), 2)
        x = functional.max_pool2d(functional.relu(self.second(x)), 2)
        x = functional.relu(self.dense(torch.flatten(x, 1)))
        return self.head(self.dropout(x))


def teacher() -> DigitNet:
    """The cloud model: about 80,000 weights."""
    return DigitNet(channels=32, hidden=128, dropout=0.3)


def student() -> DigitNet:
    """The edge model: about 13,000 weights."""
    return DigitNet(channels=16, hidden=48)
