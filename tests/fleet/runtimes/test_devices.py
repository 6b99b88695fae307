"""The place where a model runs: on the device that was asked for, or not at all."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fleet import runtimes
from fleet.runtimes.models import Options
from fleet.runtimes.onnx import OnnxRuntime
from tests.support import models

NAMES = ["CUDAExecutionProvider", "CPUExecutionProvider"]


class Provided:
    """ONNX Runtime's module with CUDA in it; `works` is whether the device can be used."""

    def __init__(self, works: bool) -> None:
        import onnxruntime

        self._real, self._works = onnxruntime, works
        self.SessionOptions = onnxruntime.SessionOptions
        self.asked: list[Any] = []

    def get_available_providers(self) -> list[str]:
        return NAMES

    def InferenceSession(self, data: bytes, settings: Any, providers: list[Any]) -> Any:
        self.asked.append(providers)
        session = self._real.InferenceSession(data, settings, providers=["CPUExecutionProvider"])
        if not self._works:
            return session
        reads = {"get_inputs": session.get_inputs, "get_outputs": session.get_outputs, "run": session.run}
        return SimpleNamespace(get_providers=lambda: NAMES, **reads)


def runtime(works: bool) -> tuple[OnnxRuntime, Provided]:
    found, module = OnnxRuntime(), Provided(works)
    found._ort = module
    return found, module


def test_a_device_is_asked_for_by_its_number() -> None:
    found, module = runtime(works=True)
    found.open(models.onnx_bytes(), Options(device="cuda:1"))
    assert module.asked == [[("CUDAExecutionProvider", {"device_id": 1}), "CPUExecutionProvider"]]


def test_a_silent_fall_back_to_the_cpu_is_refused() -> None:
    found, _ = runtime(works=False)
    with pytest.raises(runtimes.ModelLoadError, match="does not run on cuda:0"):
        found.open(models.onnx_bytes(), Options(device="cuda:0"))


@pytest.mark.parametrize("device", ["cuda", "cuda:x", "tpu:0"])
def test_devices_that_are_none(device: str) -> None:
    found, _ = runtime(works=True)
    with pytest.raises(runtimes.ModelLoadError, match="not known"):
        found.open(models.onnx_bytes(), Options(device=device))


def test_a_runtime_without_the_device_says_so() -> None:
    for name, data in (("onnxruntime", models.onnx_bytes()), ("ai-edge-litert", models.litert_bytes())):
        with pytest.raises(runtimes.ModelLoadError, match="cuda:0"):
            runtimes.named(name).open(data, Options(device="cuda:0"))
