"""The model's own share of a training's time: `python benchmarks/training.py [--seconds 5] [--rows 20000]`.

Three loops train the same network on the same rows with the same optimizer: the kit's (`cloud_hub.training.fitting`,
which holds the data where the network is and draws batches there), a plain loop over torch's DataLoader, and the model
alone, one batch again and again. The kit's share of the model alone says how busy its input pipeline keeps the device.
Rounds take turns, so that a busy machine slows all: trust the ratios. The result goes to
`benchmarks/results/training.json` with a description of the machine; on a GPU where there is one.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import machine
from cloud_hub.training.examples import Examples
from cloud_hub.training.fitting import FitSettings, fit_network
from cloud_hub.training.parallel import device

OUT = Path(__file__).parent / "results" / "training.json"
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "table (16 numbers, 2 layers)": (
        lambda: nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4)),
        (16,),
    ),
    "image (1 × 28 × 28, 2 convolutions)": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * 36, 4),
        ),
        (1, 28, 28),
    ),
}
Loop = Callable[[], None]


def data_of(shape: tuple[int, ...], rows: int) -> Examples:
    """Rows of noise and classes."""
    random = np.random.default_rng(0)
    return Examples(random.normal(size=(rows, *shape)).astype(np.float32), random.integers(0, 4, rows))


def kit(network: nn.Module, data: Examples, batch: int) -> Loop:
    """One epoch of the kit's loop; its checks of weights and checkpoints included, without files."""
    settings = FitSettings(1, batch, 1e-3, 0.0, 1, precision="fp32", compiled=False)
    return lambda: void(fit_network(network, data, settings))


def plain(network: nn.Module, data: Examples, batch: int, workers: int = 0) -> Loop:
    """One epoch as tutorials write it."""
    where = device()
    network.to(where).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.0)
    rows = TensorDataset(torch.from_numpy(np.asarray(data.x)), torch.from_numpy(data.y))
    loader = DataLoader(rows, batch_size=batch, shuffle=True, num_workers=workers, pin_memory=where.type == "cuda")

    def epoch() -> None:
        for x, y in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x.to(where, non_blocking=True)), y.to(where)).backward()
            optimizer.step()
        settle(where)

    return epoch


def alone(network: nn.Module, data: Examples, batch: int) -> Loop:
    """As many steps as an epoch has, all on one batch that is there."""
    where = device()
    network.to(where).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.0)
    x, y = torch.from_numpy(np.asarray(data.x)[:batch]).to(where), torch.from_numpy(data.y[:batch]).to(where)

    def epoch() -> None:
        for _ in range(-(-len(data) // batch)):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x), y).backward()
            optimizer.step()
        settle(where)

    return epoch


def void(_: object) -> None:
    """Nothing of it is needed."""


def settle(where: torch.device) -> None:
    """Until the device is done."""
    if where.type == "cuda":
        torch.cuda.synchronize()


def compared(name: str, rows: int, batch: int, seconds: float) -> dict[str, Any]:
    """Rows a second of each loop, the median of rounds that take turns."""
    make, shape = MODELS[name]
    data = data_of(shape, rows)
    loops = {
        "kit": kit(make(), data, batch),
        "dataloader": plain(make(), data, batch),
        "model": alone(make(), data, batch),
    }
    took: dict[str, list[float]] = {loop: [] for loop in loops}
    for epoch in loops.values():
        epoch()  # caches, lazy allocation
    began = time.perf_counter()
    while time.perf_counter() - began < seconds or len(took["model"]) < 3:
        for loop, epoch in loops.items():
            start = time.perf_counter()
            epoch()
            took[loop].append(time.perf_counter() - start)
    speed = {loop: rows / median(times) for loop, times in took.items()}
    return {
        "rows": rows,
        "batch": batch,
        "rounds": len(took["model"]),
        "rows_per_s": {loop: round(value) for loop, value in speed.items()},
        "kit_of_model": round(speed["kit"] / speed["model"], 3),
        "dataloader_of_model": round(speed["dataloader"] / speed["model"], 3),
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each comparison")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = {
        f"{name}, batch {batch}": compared(name, options.rows, batch, options.seconds)
        for name in MODELS
        for batch in (32, 256)
    }
    document = {"machine": machine(), "device": str(device()), "torch": torch.__version__, "loops": found}
    options.out.write_text(json.dumps(document, indent=2) + "\n")
    for name, one in found.items():
        print(
            f"{name}: {one['rows_per_s']} rows/s; kit {one['kit_of_model']:.0%} of the model alone, "
            f"DataLoader {one['dataloader_of_model']:.0%}"
        )


if __name__ == "__main__":
    main()
