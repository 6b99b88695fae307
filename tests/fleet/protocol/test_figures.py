"""The figures of inputs: the same on the device, in the compiler and on the hub, bounded, and honest about NaN."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from msgspec.structs import replace

from fleet.protocol import figures
from fleet.protocol.errors import MalformedError
from fleet.protocol.figures import (
    COLUMNS,
    FINITE,
    HIGH,
    LOW,
    MEAN,
    MEDIAN,
    MOST_FIGURES,
    TrainingProfile,
    check_summaries,
    check_summary,
    decode_profile,
    encode_profile,
    figures_of,
    planned_figures,
    summarize_input,
)
from fleet.protocol.manifest import Tensor
from fleet.protocol.telemetry import InputSummary


def tensor(*shape: int, name: str = "x", datatype: str = "FP32") -> Tensor:
    return Tensor(name=name, datatype=datatype, shape=(-1, *shape))


@pytest.mark.parametrize(
    ("shape", "kind", "count"),
    [
        ((), "values", 1),
        ((5,), "values", 5),
        ((8, 8, 1), "values", 64),
        ((28, 28), "image", 3),
        ((32, 32, 3), "image", 3),
        ((3, 32, 32), "image", 3),
        ((16000,), "signal", 11),
        ((2, 4000), "signal", 11),
        ((65,), "whole", 4),
        ((49, 10, 7), "whole", 4),
        ((-1, 5), "whole", 4),
    ],
)
def test_each_kind_of_input_is_told_in_its_words(shape, kind, count) -> None:
    (told,) = planned_figures((tensor(*shape),))
    assert (told.kind, len(told.names)) == (kind, count)


def test_text_is_told_by_its_length_and_all_inputs_together_are_bounded() -> None:
    inputs = (
        tensor(1, name="note", datatype="BYTES"),
        tensor(40, name="a"),
        tensor(40, name="b"),
        tensor(40, name="c"),
    )
    told = planned_figures(inputs)
    assert [(one.tensor, one.kind) for one in told] == [
        ("note", "text"),
        ("a", "values"),
        ("b", "whole"),
        ("c", "whole"),
    ]
    assert (
        sum(len(one.names) for one in planned_figures(tuple(tensor(64, name=str(n)) for n in range(40))))
        <= MOST_FIGURES
    )
    rows = [np.asarray([word], object) for word in (b"", b"four")]
    assert figures_of(summarize_input(told[0], rows))[0, MEAN] == 2.0
    alone = np.asarray([b"", b"four"], object)  # an input of one text without an axis of its own
    assert figures_of(summarize_input(told[0], [np.asarray(row) for row in alone]))[0, MEAN] == 2.0


def test_numbers_are_told_feature_by_feature_and_nan_by_its_share() -> None:
    (told,) = planned_figures((tensor(3),))
    rows = [np.asarray([place, np.nan if place < 3 else 7.0, np.inf], np.float32) for place in range(10)]
    found = summarize_input(told, rows)
    table = figures_of(found)
    assert (found.rows, found.nan, found.infinite) == (10, 3, 10)
    assert table[:, FINITE] == pytest.approx([1.0, 0.7, 0.0])
    assert (table[0, MEAN], table[0, MEDIAN], table[0, LOW], table[0, HIGH]) == (4.5, 4.5, 0.0, 9.0)
    assert np.isnan(table[2, MEAN:]).all()
    check_summary(found)


def test_images_and_signals_say_what_changed_in_them() -> None:
    rng = np.random.default_rng(0)
    (image,) = planned_figures((tensor(28, 28, 1),))
    plain = [rng.uniform(0.2, 0.8, (28, 28, 1)).astype(np.float32) for _ in range(9)]
    before = figures_of(summarize_input(image, plain))
    darker = figures_of(summarize_input(image, [row * 0.5 for row in plain]))
    assert darker[:, MEAN] == pytest.approx(before[:, MEAN] * 0.5)
    planes = figures_of(
        summarize_input(planned_figures((tensor(3, 28, 28),))[0], [np.repeat(row[None, ..., 0], 3, 0) for row in plain])
    )
    assert planes[:, MEAN] == pytest.approx(before[:, MEAN], rel=1e-5)
    (signal,) = planned_figures((tensor(4096),))
    time = np.arange(4096) / 4096
    low, high = (
        figures_of(summarize_input(signal, [np.sin(2 * np.pi * f * time).astype(np.float32)])) for f in (40, 1900)
    )
    assert signal.names[0] == "level" and low[0, MEAN] == pytest.approx(0.5**0.5, abs=0.01)
    assert signal.names[int(np.argmax(low[3:, MEAN])) + 3] == "band 3 of 8"
    assert signal.names[int(np.argmax(high[3:, MEAN])) + 3] == "band 8 of 8"


ROWS = arrays.arrays(np.float64, st.tuples(st.integers(0, 12), st.just(4)), elements=st.floats(width=64))


@given(ROWS)
def test_whatever_a_device_sees_the_hub_takes(rows) -> None:
    """NaN, infinity and what overflows as well: one bad row must not cost the window."""
    for told in (planned_figures((tensor(4, datatype="FP64"),))[0], planned_figures((tensor(-1, datatype="FP64"),))[0]):
        found = summarize_input(told, list(rows), {"": 3})
        check_summary(found)
        assert len(found.figures) == 4 * len(COLUMNS) * len(told.names)


GOOD = summarize_input(
    planned_figures((tensor(2),))[0], [np.asarray([1.0, 2.0], np.float32), np.asarray([3.0, 5.0], np.float32)]
)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": ""},
        {"name": "a\0"},
        {"rows": -1},
        {"nan": 3},
        {"infinite": 1 << 40},
        {"refused": {"x": 1}},
        {"refused": {"0": -1}},
        {"refused": {str(n): 1 for n in range(70)}},
        {"figures": b"123"},
        {"figures": bytes(32) * 65},
        {"figures": np.full(8, np.inf, "<f4").tobytes()},
        {"figures": np.asarray([2, 0, 0, 0, 0, 0, 0, 0], "<f4").tobytes()},
        {"figures": np.asarray([1, 0, 0, 5, 4, 3, 2, 1], "<f4").tobytes()},
    ],
)
def test_what_no_device_can_have_made_is_refused(changes) -> None:
    check_summary(GOOD)
    with pytest.raises(MalformedError):
        check_summary(replace(GOOD, **changes))


def test_summaries_are_bounded_together() -> None:
    many = tuple(replace(GOOD, name=str(n), figures=bytes(32) * 40) for n in range(2))
    for wrong in (many, (GOOD, GOOD), tuple(replace(GOOD, name=str(n), figures=b"") for n in range(17))):
        with pytest.raises(MalformedError):
            check_summaries(wrong)


def test_a_profile_is_read_as_it_was_written() -> None:
    profile = TrainingProfile(inputs=(GOOD,), names={"x": ("temperature", "humidity")})
    assert decode_profile(encode_profile(profile)) == profile
    with pytest.raises(MalformedError):
        decode_profile(encode_profile(replace(profile, names={"x": ("",)})))
    assert figures.figures_of(InputSummary(name="x", rows=0)).shape == (0, len(COLUMNS))
