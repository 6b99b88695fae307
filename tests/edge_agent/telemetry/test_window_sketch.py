"""Every window sketches the requests it counted, whoever opened it."""

from __future__ import annotations

import random

import numpy as np
import pytest

from edge_agent.telemetry.samples import is_outlying
from edge_agent.telemetry.windows import Key, Windows
from fleet.protocol.drift_encoder import fit_encoder

KEY = Key("digits", 1, "litert-int8", 1)
X = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)


def test_a_window_that_an_audit_opened_is_sketched_like_any_other():
    windows, encoder = Windows(lambda: 0.5), fit_encoder(X)
    windows.late(KEY, 0.0, 3).audited([True], [])  # the audit of the last window's last request
    builder, _ = windows.open(KEY, 0.1, 3, encoder)
    builder.request(0.001, ("edge",))
    windows.draw(builder, {"x": X[:5]})
    window = builder.close(1.0)
    assert window.counters["audited"] == 1 and window.counters["requests"] == 1
    assert window.sketch is not None and window.sketch.count == 5


def test_a_window_of_audits_alone_has_no_sketch():
    windows = Windows(lambda: 0.5)
    windows.late(KEY, 0.0, 3).audited([True], [])
    (builder,) = windows.take_all()
    assert builder.close(1.0).sketch is None


@pytest.mark.parametrize("shape", [(40,), (40, 1), (20, 2)])
def test_a_window_of_text_is_sketched(shape):
    texts = np.array([f"pump {k} leaks".encode() for k in range(40)], object).reshape(shape)
    windows, encoder = Windows(lambda: 0.5), fit_encoder(texts, tensor="note")
    builder, _ = windows.open(KEY, 0.0, 3, encoder)
    builder.request(0.001, ("edge",))
    windows.draw(builder, {"note": texts[:5]})
    window = builder.close(1.0)
    assert window.sketch is not None and window.sketch.count == 5 and window.outlying >= 0
    assert not is_outlying({"note": texts[:1]}, fit_encoder(X, tensor="note"))
    assert isinstance(is_outlying({"note": texts[:1]}, encoder), bool)


@pytest.mark.parametrize("width", [1, 2])
def test_a_window_holds_so_many_bytes_of_text_at_most_whatever_came_first(width):
    texts = np.empty((41, width), object)
    texts[:] = b"x" * (1 << 20)
    texts[0] = b"x"
    windows = Windows(random.Random(0).random)
    builder, _ = windows.open(KEY, 0.0, 3, fit_encoder(np.array([b"a", b"b"], object), tensor="note"))
    builder.request(0.001, ("edge",))
    for row in range(len(texts)):
        windows.draw(builder, {"note": texts[row : row + 1]})
    window = builder.close(1.0)
    assert window.sketch is not None and 0 < window.sketch.count <= 1 + 8 / width


def test_what_every_row_takes_decides_how_many_a_window_holds():
    rows = np.zeros((1, 1 << 18), np.float32)  # a mebibyte each
    windows = Windows(random.Random(0).random)
    builder, _ = windows.open(KEY, 0.0, 3, fit_encoder(np.arange(8.0).reshape(2, 4), tensor="small"))
    builder.request(0.001, ("edge",))
    for place in range(20):
        windows.draw(builder, {"x": rows, "small": np.full((1, 4), place, np.float32)})
    window = builder.close(1.0)
    assert window.sketch is not None and window.sketch.count == 7  # the eighth has a few bytes too many
