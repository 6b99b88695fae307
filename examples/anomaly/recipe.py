"""Failing machines by their distance from the usual: `cloud-hub train examples/anomaly/recipe.py --out DIR`.

The score is the Mahalanobis distance (P. C. Mahalanobis, 1936) from the readings of machines that run well, divided by
the distance that 97 % of them have. So the threshold is 1 whatever the data, and stays the interface's in a retrain.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import nn

from cloud_hub.training.recipe import Examples, Fitting, Recipe, Sets
from examples.anomaly import data

USUAL = 0.97  # share of good machines below the threshold


class Distance(nn.Module):
    """(n, readings) to scores (n, 1)."""

    def __init__(self, mean: np.ndarray, whitening: np.ndarray, limit: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(mean.astype(np.float32)))
        self.register_buffer("whitening", torch.from_numpy((whitening / limit).astype(np.float32)))

    def forward(self, readings: torch.Tensor) -> dict[str, torch.Tensor]:
        """Readings to scores."""
        apart = (readings - self.mean) @ self.whitening
        return {"score": torch.sqrt((apart * apart).sum(dim=1, keepdim=True))}


def fit(given: Fitting) -> Distance:
    """Mean and covariance of the rows without a failure; those without a label count as good."""
    x = given.train.inputs["readings"].astype(np.float64)[given.train.y != 1]
    mean, spread = x.mean(axis=0), np.cov(x, rowvar=False) + 1e-6 * np.eye(x.shape[1])
    whitening = np.linalg.cholesky(np.linalg.inv(spread))
    return Distance(mean, whitening, float(np.quantile(np.linalg.norm((x - mean) @ whitening, axis=1), USUAL)))


def sets() -> Sets:
    """Half of the rows to fit to; failures in every set."""
    x, y = data.table()
    bounds = [int(len(x) * share) for share in (0.0, 0.5, 0.6, 0.8, 1.0)]
    parts = [slice(low, high) for low, high in itertools.pairwise(bounds)]
    return Sets(*(Examples({"readings": x[part]}, y[part]) for part in parts))


RECIPE = Recipe(data=sets, fit=fit, task="anomaly-score:threshold=1", targets=("litert-fp32",), sources=(data,))
