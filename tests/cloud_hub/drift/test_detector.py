"""The drift test holds its false-alarm rate, also when inputs repeat, and sees a turned camera soon."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.ndimage import rotate
from sklearn.datasets import load_digits

from cloud_hub.drift.detector import Baseline, Detector, DeviceWindow, bet, make_baseline, threshold
from fleet.protocol.messages import SketchData
from fleet.protocol.sketch import Sketcher, fit_encoder, fit_margin, sketch
from tests.support.size import sized

N = 50  # requests in a window
BASELINE = 24
DEVICES = ("d-0", "d-1", "d-2")


@pytest.fixture(scope="module")
def features():
    """Encoder, margin, and the random features of plain and of turned images (n, features)."""
    x = (load_digits().images / 16.0).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(x))
    fit, held, traffic = x[order[:200]], x[order[200:400]], x[order[400:]]
    encoder = fit_encoder(fit)
    margin = fit_margin(encoder, sketch(encoder, fit), held, window=N)
    random = np.random.default_rng(1)
    turned = np.stack([np.clip(rotate(i, random.uniform(15, 20), reshape=False, order=1), 0, 1) for i in traffic])
    sketcher = Sketcher(encoder)
    return sketcher.data().sketch_id, margin, sketcher.features(traffic), sketcher.features(turned.astype(np.float32))


def window(sketch_id: str, rows: np.ndarray, device: str) -> DeviceWindow:
    data = SketchData(sketch_id=sketch_id, count=len(rows), sums=rows.sum(axis=0).astype("<f4").tobytes())
    return DeviceWindow(device_id=device, sketch=data)


def stream(sketch_id, phi, random, count, distinct):
    """Windows of the devices in turn; each draws `distinct` inputs and repeats them (None: all independent)."""
    for number in range(count):
        rows = random.integers(0, len(phi), distinct or N)
        yield window(sketch_id, phi[random.choice(rows, N) if distinct else rows], DEVICES[number % 3])


def start(features, random, distinct) -> Baseline:
    sketch_id, margin, plain, _ = features
    return make_baseline(list(stream(sketch_id, plain, random, BASELINE, distinct)), margin)


@pytest.mark.parametrize("distinct", [None, 10, 3])
def test_the_false_alarm_rate_holds_also_when_inputs_repeat(features, distinct):
    """A mean of 500 windows to a false alarm is promised; 40 runs of 200 windows may then hold about 16."""
    sketch_id, _, plain, _ = features
    alarms, runs = 0, sized(40, 400)
    for run in range(runs):
        random = np.random.default_rng([run, distinct or 0])
        baseline, detector = start(features, random, distinct), Detector()
        for item in stream(sketch_id, plain, random, 200, distinct):
            detector, result = bet(baseline, detector, item)
            if result.log_e >= math.log(500):
                alarms += 1
                break
    assert alarms <= 0.4 * runs  # 1 - exp(-200/500) is 0.33; 0.4 is three standard errors more in 400 runs


def test_a_turned_camera_is_seen_within_a_few_windows(features):
    sketch_id, _, plain, turned = features
    delays, runs = [], sized(10, 100)
    for run in range(runs):
        random = np.random.default_rng([run, 99])
        baseline, detector = start(features, random, None), Detector()
        for item in stream(sketch_id, plain, random, 30, None):
            detector, _ = bet(baseline, detector, item)
        for delay, item in enumerate(stream(sketch_id, turned, random, 60, None), start=1):
            detector, result = bet(baseline, detector, item)
            if result.log_e >= threshold(1000, 50_000):
                delays.append(delay)
                break
    assert len(delays) == runs
    assert np.median(delays) * N <= 900


def test_a_quiet_stream_cannot_bank_credit_against_a_later_change(features):
    _, _, plain, _ = features
    random = np.random.default_rng(5)
    baseline, detector = start(features, random, None), Detector()
    for item in stream(features[0], plain, random, 300, None):
        detector, _ = bet(baseline, detector, item)
    assert min(detector.logs) > math.log(0.05)


def test_an_odd_device_gets_a_margin_of_its_own(features):
    sketch_id, margin, plain, turned = features
    random = np.random.default_rng(6)
    windows = list(stream(sketch_id, plain, random, 24, None))
    windows += [window(sketch_id, turned[random.integers(0, len(turned), N)], "odd") for _ in range(6)]
    baseline = make_baseline(windows, margin)
    assert baseline.margins["odd"] > baseline.margins["d-0"] >= margin
