"""A network that full int8 breaks: half its channels are a thousand times the others, which hold the answer."""

from __future__ import annotations

import torch
from torch import nn

SCALE = 1000.0


class Stubborn(nn.Module):
    """(n, 1, 8, 8) to logits (n, 3). Features are joined by SCALE times themselves, which the next layer
    all but ignores: in float nothing changes, on one 8-bit scale the features themselves are lost."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, channels, 3, padding=1)
        self.narrow = nn.Conv2d(2 * channels, channels, 1, bias=False)
        self.hidden = nn.Linear(channels * 16, 96)
        self.dense = nn.Linear(96, 3)
        eye = torch.eye(channels).reshape(channels, channels, 1, 1)
        self.narrow.weight = nn.Parameter(torch.cat([eye, 1e-7 * eye], dim=1), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.max_pool2d(nn.functional.relu(self.conv(x)), 2)
        x = self.narrow(torch.cat([x, SCALE * x], dim=1))
        return self.dense(nn.functional.relu(self.hidden(torch.flatten(x, 1))))


def fitted(x: torch.Tensor, y: torch.Tensor, steps: int = 60) -> Stubborn:
    """One that has learned x (n, 1, 8, 8) → y (n,)."""
    torch.manual_seed(0)
    net = Stubborn()
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=0.005)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net.eval()
