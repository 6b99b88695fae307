"""One small trained-enough model, compiled once for the whole folder: conversion takes seconds.

Variants are run in the tests' process, but for this model's own, and in the files whose matter those processes are.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from fleet.protocol.manifest import Gate
from model_compiler.build import onnx
from model_compiler.inputs.dataset import Dataset, make_dataset
from model_compiler.inputs.deferral_target import DeferTarget
from model_compiler.inputs.request import CompileRequest
from model_compiler.pipeline import compile_release
from model_compiler.report.document import CompileReport
from model_compiler.running import runner
from tests.support.children import keep_children_here


class Net(nn.Module):
    """One convolution and one dense layer; (n, 1, 8, 8) to logits (n, 3)."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, channels, 3, padding=1)
        self.dense = nn.Linear(channels * 16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.max_pool2d(nn.functional.relu(self.conv(x)), 2)
        return self.dense(torch.flatten(x, 1))


def stripes(count: int, seed: int) -> Dataset:
    """Images with a horizontal, a vertical or a diagonal stripe, and noise."""
    random = np.random.default_rng(seed)
    x = 0.45 * random.random((count, 1, 8, 8), dtype=np.float32)
    y = random.integers(0, 3, count)
    for image, label in zip(x, y, strict=True):
        at = int(random.integers(1, 7))
        if label == 0:
            image[0, at, :] += 0.7
        elif label == 1:
            image[0, :, at] += 0.7
        else:
            image[0, np.arange(8), np.arange(8)] += 0.7
    return make_dataset(x, y, "stripes")


def fitted(channels: int, seed: int = 0, steps: int = 150) -> Net:
    """A network that has learned the stripes."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    net, data = Net(channels), stripes(300, seed=1)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    x, y = torch.from_numpy(data.x), torch.from_numpy(data.y)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net.eval()


def answers(name: str, runtime: str, model: bytes, x: np.ndarray) -> np.ndarray:
    """The first output of a model file, (n, classes)."""
    return runner.run(name, runtime, model, make_dataset(x, None, "x")).outputs[0]


@pytest.fixture(scope="module", autouse=True)
def children_here() -> Iterator[None]:
    """A process for each run of a variant costs a second of imports; a file that is about them overrides this."""
    with pytest.MonkeyPatch.context() as patch:
        keep_children_here(patch)
        yield


@pytest.fixture(scope="session")
def student() -> Net:
    return fitted(channels=4, steps=60)


@pytest.fixture(scope="session")
def teacher() -> bytes:
    return onnx.export(fitted(channels=12), torch.zeros(1, 1, 8, 8))


@pytest.fixture(scope="session")
def request_(student: Net, teacher: bytes, tmp_path_factory: pytest.TempPathFactory) -> CompileRequest:
    """Every target, a teacher, and a gate that a good int8 model meets."""
    return CompileRequest(
        module=student,
        cloud=teacher,
        calibration=stripes(100, seed=2),
        validation=stripes(200, seed=3),
        targets=("litert-int8", "litert-fp32", "litert-int8-dynamic", "onnx-fp32", "onnx-int8"),
        labels=("horizontal", "vertical", "diagonal"),
        gate=Gate(max_drop_points=5.0, min_agreement=0.9),
        defer=DeferTarget(cloud=0.1),
        out=tmp_path_factory.mktemp("compiled") / "release",
    )


@pytest.fixture(scope="session")
def compiled(request_: CompileRequest) -> CompileReport:
    return compile_release(request_)
