"""Drift sketches: identity, merging, an unbiased distance, and power."""

from __future__ import annotations

import hashlib

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.protocol import drift_encoder, sketch
from fleet.protocol.errors import MalformedError, TooLargeError
from fleet.protocol.telemetry import SketchData
from tests.support.size import examples


def data(seed: int, n: int = 400, shift: float = 0.0) -> np.ndarray:
    """Correlated 8×8 images."""
    random = np.random.default_rng(seed)
    basis = np.random.default_rng(99).normal(size=(5, 64))
    return (random.normal(size=(n, 5)) @ basis + 0.3 * random.normal(size=(n, 64)) + shift).reshape(n, 8, 8)


ENCODER = drift_encoder.fit_encoder(data(0), dims=6, features=256, seed=3)


def test_the_same_arguments_give_the_same_encoder_and_identity() -> None:
    again = drift_encoder.fit_encoder(data(0), dims=6, features=256, seed=3)
    assert again == ENCODER and drift_encoder.sketch_id(again) == drift_encoder.sketch_id(ENCODER)
    other = drift_encoder.fit_encoder(data(0), dims=6, features=256, seed=4)
    assert drift_encoder.sketch_id(other) != drift_encoder.sketch_id(ENCODER)


def test_identity_is_the_hash_of_the_blob() -> None:
    blob = drift_encoder.encode_encoder(ENCODER)
    assert drift_encoder.sketch_id(ENCODER) == hashlib.sha256(blob).hexdigest()
    assert drift_encoder.decode_encoder(blob) == ENCODER
    assert len(blob) < 2500


def test_frequencies_never_change() -> None:
    """Hub and devices run different numpy versions: these bytes are part of the contract."""
    frequencies = drift_encoder._frequencies(ENCODER) * ENCODER.bandwidth
    np.testing.assert_allclose(frequencies[0, :3], [-1.52204, 0.60121, 0.44700], atol=1e-3)


def test_features_have_length_one() -> None:
    lengths = np.linalg.norm(sketch.Sketcher(ENCODER).features(data(1)), axis=1)
    np.testing.assert_allclose(lengths, 1.0, atol=1e-5)


@given(st.integers(1, 60), st.integers(0, 60))
@settings(max_examples=examples(25), deadline=None)
def test_merging_windows_is_one_large_window(first: int, second: int) -> None:
    x = data(2, 120)[: first + second]
    whole = sketch.sketch(ENCODER, x)
    merged = sketch.merge(sketch.sketch(ENCODER, x[:first]), sketch.sketch(ENCODER, x[first:]))
    assert merged.count == whole.count
    np.testing.assert_allclose(sketch.mean(merged), sketch.mean(whole), atol=1e-5)


def test_the_distance_of_equal_distributions_is_zero_on_average_whatever_the_counts() -> None:
    distances = [
        sketch.distance(sketch.sketch(ENCODER, data(10 + i, 12)), sketch.sketch(ENCODER, data(900 + i, 90)))
        for i in range(200)
    ]
    assert abs(np.mean(distances)) < 3 * np.std(distances) / np.sqrt(len(distances))
    assert min(distances) < 0 < max(distances)


def test_frequencies_are_standard_normal() -> None:
    values = drift_encoder._frequencies(ENCODER).ravel() * ENCODER.bandwidth
    assert abs(values.mean()) < 0.1 and abs(values.std() - 1) < 0.1


def test_a_shift_lies_far_beyond_the_margin() -> None:
    reference = sketch.sketch(ENCODER, data(0))
    margin = sketch.fit_margin(ENCODER, reference, data(4), window=100)
    same = [sketch.distance(reference, sketch.sketch(ENCODER, data(20 + i, 100))) for i in range(40)]
    moved = [sketch.distance(reference, sketch.sketch(ENCODER, data(20 + i, 100, 1.0))) for i in range(40)]
    assert np.mean(np.array(same) > margin) <= 0.2
    assert min(moved) > margin > 0


def test_broken_inputs_are_skipped_and_counted() -> None:
    x = data(5, 10)
    x[3, 0, 0], x[7, 1, 1] = np.nan, np.inf
    sketcher = sketch.Sketcher(ENCODER)
    sketcher.add(x)
    assert (sketcher.count, sketcher.skipped) == (8, 2)
    assert np.isfinite(sketch.mean(sketcher.data())).all()
    sketcher.reset()
    assert (sketcher.count, sketcher.skipped, sketcher.data().count) == (0, 0, 0)


def test_inputs_of_another_size_are_refused() -> None:
    with pytest.raises(MalformedError, match="reads 64 values per example"):
        sketch.Sketcher(ENCODER).add(np.zeros((2, 63)))
    with pytest.raises(MalformedError, match="reads 64"):
        sketch.Sketcher(ENCODER).add(np.zeros(64))


def test_wide_inputs_make_a_small_encoder() -> None:
    wide = np.random.default_rng(6).normal(size=(10, 100, 100, 3))
    encoder = drift_encoder.fit_encoder(wide, dims=4, features=64)
    assert encoder.pool == 8
    assert len(drift_encoder.encode_encoder(encoder)) < 100_000
    assert sketch.sketch(encoder, wide).count == 10


def test_constant_inputs_still_make_an_encoder() -> None:
    encoder = drift_encoder.fit_encoder(np.ones((20, 4)), dims=4, features=16)
    assert sketch.distance(*[sketch.sketch(encoder, np.ones((5, 4)))] * 2) == pytest.approx(0.0, abs=1e-6)


def test_sketches_of_different_encoders_do_not_mix() -> None:
    other = drift_encoder.fit_encoder(data(0), dims=6, features=256, seed=4)
    a, b = sketch.sketch(ENCODER, data(1)), sketch.sketch(other, data(1))
    for combine in (sketch.merge, sketch.distance):
        with pytest.raises(MalformedError, match="different encoders"):
            combine(a, b)


def test_a_distance_needs_two_inputs_and_a_mean_one() -> None:
    one, many = sketch.sketch(ENCODER, data(1, 1)), sketch.sketch(ENCODER, data(1))
    with pytest.raises(MalformedError, match="two inputs"):
        sketch.distance(one, many)
    with pytest.raises(MalformedError, match="empty"):
        sketch.mean(sketch.Sketcher(ENCODER).data())


def test_sums_that_no_encoder_can_make_are_refused() -> None:
    good = sketch.sketch(ENCODER, data(1, 10))
    assert sketch.decode_sketch(sketch.encode_sketch(good)) == good
    forged = [
        SketchData(sketch_id=good.sketch_id, count=3, sums=good.sums),
        SketchData(sketch_id=good.sketch_id, count=10, sums=np.full(256, np.nan, "<f4").tobytes()),
        SketchData(sketch_id=good.sketch_id, count=-1, sums=good.sums),
        SketchData(sketch_id=good.sketch_id, count=10, sums=good.sums[:-3]),
    ]
    for bad in forged:
        with pytest.raises(MalformedError):
            sketch.decode_sketch(sketch.encode_sketch(bad))


@pytest.mark.parametrize(
    "changes",
    [
        {"dims": 7},
        {"features": 255},
        {"features": 1 << 20},
        {"bandwidth": 0.0},
        {"pool": 0},
        {"inputs": 0},
        {"schema": 3},
    ],
)
def test_encoders_whose_sizes_disagree_are_refused(changes: dict) -> None:
    blob = drift_encoder.encode_encoder(msgspec.structs.replace(ENCODER, **changes))
    with pytest.raises(MalformedError, match="sizes do not agree"):
        drift_encoder.decode_encoder(blob)


def test_large_blobs_are_refused_before_decoding() -> None:
    with pytest.raises(TooLargeError):
        drift_encoder.decode_encoder(b"x" * (drift_encoder.ENCODER_LIMIT + 1))
    with pytest.raises(TooLargeError):
        sketch.decode_sketch(b"x" * (sketch.SKETCH_LIMIT + 1))


def test_encoders_need_two_finite_rows() -> None:
    for bad in (np.zeros((1, 4)), np.zeros(4), np.full((5, 4), np.nan)):
        with pytest.raises(MalformedError):
            drift_encoder.fit_encoder(bad)


def gappy(count: int, seed: int, *, share: float = 0.1, shift: float = 0.0, width: int = 6) -> np.ndarray:
    random = np.random.default_rng(seed)
    x = (random.normal(size=(count, width)) + shift).astype(np.float32)
    x[random.random(x.shape) < share] = np.nan
    return x


@pytest.mark.parametrize("width", [6, 9000])  # the latter is averaged over neighbours
def test_rows_with_gaps_count_and_a_shift_of_the_others_is_seen(width: int) -> None:
    encoder = drift_encoder.fit_encoder(gappy(300, 1, width=width), gaps=True)
    assert (
        drift_encoder.decode_encoder(drift_encoder.encode_encoder(encoder)) == encoder
        and encoder.schema == drift_encoder.GAPS
    )
    reference = sketch.sketch(encoder, gappy(300, 2, width=width))
    assert reference.count == 300  # without gaps nearly every row would be left out
    same, moved = (sketch.sketch(encoder, gappy(300, seed, shift=by, width=width)) for seed, by in ((3, 0.0), (4, 1.0)))
    assert sketch.distance(reference, moved) > 20 * abs(sketch.distance(reference, same))
    assert not sketch.outlying(encoder, gappy(300, 5, width=width)).all()


def test_an_infinity_is_a_gap_and_a_row_of_gaps_is_the_mean() -> None:
    encoder = drift_encoder.fit_encoder(gappy(300, 1), gaps=True)
    mean = np.frombuffer(encoder.mean, "<f4")[None]
    for row in (np.full((1, 6), np.nan, np.float32), np.full((1, 6), -np.inf, np.float32)):
        np.testing.assert_array_equal(sketch.Sketcher(encoder).features(row), sketch.Sketcher(encoder).features(mean))
        assert not sketch.outlying(encoder, row).any()


def test_an_encoder_without_gaps_reads_finite_rows_only_as_before() -> None:
    whole = gappy(300, 1, share=0.0)
    encoder = drift_encoder.fit_encoder(whole)
    assert encoder.schema == drift_encoder.SCHEMA
    assert sketch.sketch(encoder, gappy(300, 2)).count < 300
    with pytest.raises(MalformedError, match="NaN"):
        drift_encoder.fit_encoder(gappy(300, 1))
    finite = msgspec.structs.replace(encoder, schema=drift_encoder.GAPS)
    np.testing.assert_array_equal(sketch.Sketcher(finite).features(whole), sketch.Sketcher(encoder).features(whole))
    assert drift_encoder.sketch_id(finite) != drift_encoder.sketch_id(encoder)  # never merged
