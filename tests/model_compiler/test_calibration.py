"""Full-integer quantization keeps the whole range that calibration showed."""

from __future__ import annotations

import numpy as np
import torch

from model_compiler import sources
from model_compiler.variants import litert
from tests.model_compiler.conftest import answers, stripes


def test_the_row_that_reaches_furthest_is_not_clipped(student):
    calibration = stripes(60, seed=4).x
    calibration[0] *= 5.0
    model = litert.convert(student, sources.example_of(calibration))
    quantized = litert.quantize(model, "int8", calibration)
    found = answers("litert-int8", "litert", quantized, calibration[:1])
    with torch.no_grad():
        expected = student(torch.from_numpy(calibration[:1])).numpy()
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()
