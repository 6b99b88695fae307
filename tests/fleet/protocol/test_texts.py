"""Text in drift sketches: bounded, the same everywhere, and it sees what people would see."""

from __future__ import annotations

import numpy as np
import pytest

from fleet.protocol import drift_encoder, sketch
from fleet.protocol.errors import MalformedError
from fleet.protocol.interface import unfit
from fleet.protocol.tensor_spec import Tensor
from fleet.protocol.texts import BUCKETS, NUMBERS, ROW_BYTES, text_numbers

WORDS = {
    "en": ["pump", "valve", "leaks", "under", "pressure", "noise", "from", "bearing", "shaft", "hot", "stopped"],
    "de": ["Pumpe", "Ventil", "undicht", "unter", "Druck", "Geräusch", "am", "Lager", "Welle", "heiß", "hält"],
}


def messages(words: str, seed: int, n: int = 400) -> np.ndarray:
    """(n, 1) texts of five words."""
    random = np.random.default_rng(seed)
    found = np.empty((n, 1), object)
    found[:, 0] = [" ".join(random.choice(WORDS[words], 5)).encode() for _ in range(n)]
    return found


ENCODER = drift_encoder.fit_encoder(messages("en", 0), tensor="note", dims=12, features=256)


def test_numbers_never_change() -> None:
    """Hub and devices must agree: these values are part of the contract."""
    found = text_numbers(np.array([["abc"], ["abcabc"], [""], ["é"]], object))
    assert found.shape == (4, NUMBERS) and found.dtype == np.float32
    places = [np.flatnonzero(row[:BUCKETS]).tolist() for row in found]
    assert places == [[9, 15, 136, 150], [9, 15, 136, 150, 165, 252], [], [81, 85, 180]]
    np.testing.assert_allclose((found[:, :BUCKETS] ** 2).sum(axis=1), [1, 1, 0, 1], atol=1e-6)
    np.testing.assert_allclose(found[:, BUCKETS], np.log2([4, 7, 1, 3]) / 16, atol=1e-6)


def test_an_example_costs_no_more_than_its_bound_whatever_its_length() -> None:
    same = b"x" * ROW_BYTES
    found = text_numbers(np.array([[same + b"y" * 9], [same + b"z" * 9]], object))
    np.testing.assert_array_equal(found[0], found[1])


def test_a_text_is_the_same_however_numpy_holds_it() -> None:
    """Texts that are padded to a length lose their zero bytes in numpy's own strings, which a device's rows may be."""
    padded = np.array([b"pump\0\0"], object)
    wanted = text_numbers(np.array([b"pump"], object))
    for held in (padded, padded[:, np.newaxis], padded.astype("S"), np.array(["pump\0"], object)):
        np.testing.assert_array_equal(text_numbers(held), wanted)
        np.testing.assert_array_equal(drift_encoder.encodable_rows(ENCODER, held), wanted)
    assert text_numbers(np.array(["\ud800"], object)).any()  # no text of UTF-8, and yet one that Python may hold


def test_the_same_text_is_not_drift_and_another_language_is() -> None:
    reference = sketch.sketch(ENCODER, messages("en", 1))
    margin = sketch.fit_margin(ENCODER, reference, messages("en", 2), window=100)
    assert sketch.distance(reference, sketch.sketch(ENCODER, messages("en", 3))) < 2 * margin
    assert sketch.distance(reference, sketch.sketch(ENCODER, messages("de", 3))) > 4 * margin
    assert sketch.outlying(ENCODER, messages("de", 3)).sum() > sketch.outlying(ENCODER, messages("en", 3)).sum()


def test_rows_of_any_shape_are_read_and_numbers_are_not() -> None:
    ragged = [np.array(b"pump", object), np.array([b"a", b"b"], object), np.zeros(NUMBERS - 1)]
    assert drift_encoder.encodable_rows(ENCODER, ragged).shape == (2, NUMBERS)
    other = drift_encoder.fit_encoder(np.random.default_rng(0).normal(size=(9, 4)))
    assert drift_encoder.encodable_rows(other, ragged).shape == (0, 4)
    with pytest.raises(MalformedError, match="reads 4 values"):
        sketch.sketch(other, messages("en", 0, 3))


def test_an_encoder_of_text_watches_text_alone() -> None:
    text = Tensor(name="note", datatype="BYTES", shape=(-1, 1))
    assert unfit(ENCODER, [text]) == ""
    numbers = drift_encoder.fit_encoder(np.random.default_rng(0).normal(size=(9, 1)), tensor="note")
    assert "input 'note' is text" in unfit(numbers, [text])
