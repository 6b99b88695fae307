"""Quantization-aware fine-tuning: what it rounds is what runtimes round, and it heals what rounding breaks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from model_compiler import qat
from model_compiler.build import litert, onnx
from model_compiler.errors import DataError, TargetError
from tests.model_compiler.conftest import answers, stripes
from tests.support import stubborn

EXAMPLE = torch.zeros(1, 1, 8, 8)


@pytest.fixture(scope="module")
def net() -> stubborn.Stubborn:
    data = stripes(300, seed=1)
    return stubborn.fitted(torch.from_numpy(data.x), torch.from_numpy(data.labels))


@pytest.fixture(scope="module")
def tuned(net) -> nn.Module:
    data = stripes(300, seed=1)
    return qat.finetune(net, data.inputs, data.labels, epochs=30)


def classes(module: nn.Module, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return module(torch.from_numpy(x)).numpy().argmax(1)


def rounded(module: nn.Module, calibration: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The answers of an int8 runtime as `Rounding` foresees them."""
    rounding = qat.Rounding()
    with torch.no_grad():
        for rounding.watching, data in ((True, calibration), (False, x)):
            with rounding:
                found = module(torch.from_numpy(data))
            (found,) = rounding.output((found,))
    return found.numpy()


def int8(runtime: str, module: nn.Module, calibration: np.ndarray, x: np.ndarray) -> np.ndarray:
    kind, make = (onnx, onnx.export) if runtime == "onnx" else (litert, litert.convert)
    example = torch.zeros(1, *x.shape[1:])
    return answers("int8", runtime, kind.quantize(make(module, example), "int8", calibration), x)


@pytest.mark.parametrize("runtime", ["onnx", "litert"])
def test_a_network_that_int8_breaks_agrees_with_itself_after_fine_tuning(net, tuned, runtime):
    calibration, x = stripes(150, seed=2).x, stripes(300, seed=3).x
    expected = classes(net, x)
    broken = int8(runtime, net, calibration, x).argmax(1)
    healed = int8(runtime, tuned, calibration, x).argmax(1)
    assert np.mean(broken == expected) < 0.6
    assert np.mean(healed == expected) > 0.9


class Residual(nn.Module):
    """Convolutions with batch norms, a depthwise one, an addition and a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.depth, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8)
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(x + self.norm2(self.depth(x)))
        return self.head(self.drop(x.mean(dim=(2, 3))))


@pytest.fixture(scope="module")
def residual() -> Residual:
    torch.manual_seed(0)
    module = Residual()
    with torch.no_grad():
        module(torch.from_numpy(stripes(200, seed=1).x))  # the norms learn their statistics
        module.norm.weight.copy_(torch.tensor([1.0, 8.0, 0.2, 1.0, 3.0, 1.0, 0.5, 1.0]))
    return module.eval()


@pytest.mark.parametrize("runtime", ["onnx", "litert"])
def test_what_is_rounded_is_what_the_runtime_rounds(residual, runtime):
    calibration, x = stripes(100, seed=2).x, stripes(100, seed=3).x
    with torch.no_grad():
        expected = residual(torch.from_numpy(x)).numpy()
    simulated, found = rounded(residual, calibration, x), int8(runtime, residual, calibration, x)
    error = np.abs(found - expected).mean()
    assert error > 0 and np.abs(simulated - found).mean() < 0.6 * error


def test_an_exported_program_is_rounded_like_its_module(residual):
    calibration, x = stripes(60, seed=2).x, stripes(60, seed=3).x
    batch = torch.export.Dim("batch")
    program = torch.export.export(residual, (torch.zeros(2, 1, 8, 8),), dynamic_shapes=({0: batch},)).module()
    same = rounded(program, calibration, x) == rounded(residual, calibration, x)
    assert same.mean() > 0.99  # a sum in another order may fall on the other side of a step


def test_fine_tuning_leaves_the_module_alone_and_repeats_itself(residual):
    data = stripes(100, seed=1)
    before = {name: tensor.clone() for name, tensor in residual.state_dict().items()}
    said: list[str] = []
    one, two = (qat.finetune(residual, data.x, epochs=2, seed=7, progress=said.append) for _ in range(2))
    assert all(torch.equal(tensor, before[name]) for name, tensor in residual.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    assert torch.equal(one.norm.running_mean, residual.norm.running_mean) and not one.training
    assert any(not torch.equal(tensor, before[name]) for name, tensor in one.state_dict().items())
    assert said[0].startswith("quantization-aware fine-tuning, epoch 1 of 2: error ")


def test_the_rounded_error_never_grows():
    """Steps of this size overshoot, even a hundredth of it: what came in is given back."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    found = qat.finetune(module, x, epochs=2, lr=2000.0)
    assert all(
        torch.equal(a, b) for a, b in zip(found.state_dict().values(), module.state_dict().values(), strict=True)
    )


class Two(nn.Module):
    """Two inputs, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 8), nn.Linear(3, 8)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        joined = torch.cat([self.left(a), self.right(b)], dim=1)
        return joined @ joined.transpose(0, 1).detach().sum(dim=1, keepdim=True), torch.tanh(joined)


def test_several_inputs_and_outputs():
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    x = {name: random.normal(size=(50, width)).astype(np.float32) for name, width in (("a", 4), ("b", 3))}
    said: list[tuple[float, float]] = []
    qat.finetune(
        Two(), x, epochs=6, progress=lambda words: said.append((float(words.split()[-3]), float(words.split()[-1])))
    )
    assert min(error for error, _ in said) < said[0][1]


def test_inputs_without_labels_count_by_the_answers_alone(residual):
    data = stripes(60, seed=1)
    none = qat.finetune(residual, data.x, np.full(60, -1), epochs=1)
    alone = qat.finetune(residual, data.x, epochs=1)
    assert all(torch.equal(tensor, none.state_dict()[name]) for name, tensor in alone.state_dict().items())
    some = qat.finetune(residual, data.x, np.where(np.arange(60) < 30, data.labels, -1), epochs=1)
    assert not torch.equal(some.head.weight, alone.head.weight)


def test_bad_data_is_said():
    module = nn.Linear(4, 2)
    with pytest.raises(DataError, match="more than none"):
        qat.finetune(module, np.zeros((0, 4), np.float32))
    with pytest.raises(DataError, match="equal numbers"):
        qat.finetune(module, np.zeros((3, 4), np.float32), np.zeros(2, np.int64))
    with pytest.raises(DataError, match="classes 0 to 1"):
        qat.finetune(module, np.zeros((3, 4), np.float32), np.array([0, 1, 2]))
    broken = nn.Linear(4, 2)
    nn.init.constant_(broken.weight, float("nan"))
    with pytest.raises(TargetError, match="diverged"):
        qat.finetune(broken, np.ones((3, 4), np.float32))
