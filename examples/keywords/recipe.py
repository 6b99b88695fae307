"""Three spoken-like patterns in half a second of sound at 4 kHz: `fleet recipe check examples/keywords/recipe.py`.

Applications send the samples as the microphone gives them. The spectrogram is a front: a model file before the model,
two fixed convolutions (the real and the imaginary part of a windowed Fourier transform), signed with the release, so
that device, cloud and training compute it alike, and quantization leaves it alone. Its bands are normalised by what
they are in the training data. Who has spectrograms already sends these (`docs/preprocessing.md`).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

from cloud_hub.training.recipe import Examples, Hyper, Recipe, Sets
from fleet.protocol.steps import Normalise

RATE, SAMPLES = 4000, 2000
WINDOW, HOP, BANDS = 128, 64, 32
WORDS = ("rising", "falling", "steady")


class Spectrogram(nn.Module):
    """(n, samples) to log magnitudes (n, bands, frames)."""

    def __init__(self) -> None:
        super().__init__()
        time = torch.arange(WINDOW) / WINDOW
        window = 0.5 - 0.5 * torch.cos(2 * math.pi * time)  # Hann's
        phase = 2 * math.pi * torch.arange(1, BANDS + 1)[:, None] * time[None]
        waves = torch.cat([torch.cos(phase), torch.sin(phase)]) * window
        self.register_buffer("waves", waves[:, None, :])

    def forward(self, sound: torch.Tensor) -> dict[str, torch.Tensor]:
        """Samples to a picture of them."""
        both = nn.functional.conv1d(sound[:, None, :], self.waves, stride=HOP)
        real, imaginary = both[:, :BANDS], both[:, BANDS:]
        return {"bands": torch.log(real * real + imaginary * imaginary + 1e-3)}


class Keywords(nn.Module):
    """Spectrograms (n, bands, frames) to logits (n, 3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(BANDS, channels, 5, stride=2), nn.ReLU(), nn.Conv1d(channels, channels, 5, stride=2), nn.ReLU()
        )
        frames = ((SAMPLES - WINDOW) // HOP + 1 - 5) // 2 + 1
        self.head = nn.Linear(channels * ((frames - 5) // 2 + 1), len(WORDS))

    def forward(self, bands: torch.Tensor) -> dict[str, torch.Tensor]:
        """Pictures of sound to words."""
        return {"logits": self.head(torch.flatten(self.body(bands), 1))}


def rows(count: int, seed: int) -> Examples:
    """Tones whose pitch rises, falls or stays, each from its own pitch and loudness, in noise."""
    random = np.random.default_rng(seed)
    y = random.integers(0, len(WORDS), count)
    time = np.arange(SAMPLES) / RATE
    slope = np.choose(y, [600.0, -600.0, 0.0]) * random.uniform(0.7, 1.3, count)
    start = np.where(y == 1, 900.0, 500.0) + random.uniform(-100, 100, count)
    phase = 2 * np.pi * (start[:, None] * time + 0.5 * slope[:, None] * time**2)
    loud = random.uniform(0.3, 0.8, count)[:, None]
    sound = loud * np.sin(phase + random.uniform(0, 6.28, count)[:, None]) + 0.05 * random.normal(size=phase.shape)
    return Examples({"sound": sound.astype(np.float32)}, y.astype(np.int64))


def sets() -> Sets:
    """Disjoint by their seeds."""
    return Sets(rows(300, 1), rows(60, 2), rows(90, 3), rows(90, 4))


RECIPE = Recipe(
    data=sets,
    teacher=lambda: Keywords(32),
    student=lambda: Keywords(12),
    labels=WORDS,
    front=Spectrogram,
    preprocess=(Normalise(input="bands", axis=-2),),
    hyper=Hyper(teacher_epochs=8, student_epochs=12, teacher_rate=5e-3, student_rate=1e-2, batch=32),
)
