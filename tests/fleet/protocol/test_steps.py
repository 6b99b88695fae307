"""Preprocessing steps: what each makes, that a batch gets the bits of its rows, and what is refused, and when."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fleet.protocol import steps as kinds
from fleet.protocol.errors import MalformedError
from fleet.protocol.manifest import decode_manifest
from fleet.protocol.preprocessing import MAX_STEPS, Pipeline, digest, kinds_of, required_by
from fleet.protocol.steps import Clip, Concat, Impute, Normalise, OneHot, Ordinal, Scale, Window
from fleet.protocol.tensor_spec import Tensor
from tests.support.manifests import small_release


def spec(name: str = "x", datatype: str = "FP32", shape: tuple[int, ...] = (-1, 3), *, finite: bool = True) -> Tensor:
    return Tensor(name=name, datatype=datatype, shape=shape, finite=finite)


def words(*items: str) -> np.ndarray:
    found = np.empty(len(items), object)
    found[:] = [item.encode() for item in items]
    return found


def made(step: Any, tensor: Tensor, values: np.ndarray) -> np.ndarray:
    """The tensor that a lone step makes; the tensor that it announces is the one that comes."""
    pipeline = Pipeline([step], [tensor])
    (ready,) = pipeline.ready
    found = pipeline.run({tensor.name: values})[ready.name]
    assert len(found.shape) == len(ready.shape)
    assert all(want in (-1, have) for want, have in zip(ready.shape, found.shape, strict=True))
    assert found.dtype == kinds.numbers.dtype_of(ready.datatype)
    return found


X = np.array([[1, 2, 4], [0, -2, 8]], np.float32)


def test_scale_and_normalise_work_on_every_feature() -> None:
    np.testing.assert_array_equal(
        made(Scale(input="x", factor=(1, 2, 0.5), offset=(1,)), spec(), X), [[2, 5, 3], [1, -3, 5]]
    )
    np.testing.assert_array_equal(
        made(Normalise(input="x", mean=(1, 2, 0), std=(2,)), spec(), X), [[0, 0, 2], [-0.5, -2, 4]]
    )


def test_constants_may_lie_along_any_axis() -> None:
    images = np.arange(2 * 2 * 3, dtype=np.uint8).reshape(1, 2, 2, 3)
    found = made(
        Scale(input="x", factor=(1, 10), offset=(0,), axis=-3), spec(datatype="UINT8", shape=(-1, 2, 2, 3)), images
    )
    np.testing.assert_array_equal(found, images * np.array([1, 10]).reshape(2, 1, 1))


def test_wide_numbers_are_computed_in_double_precision() -> None:
    """A timestamp has more digits than single precision holds."""
    stamps = np.array([[1_800_000_001], [1_800_000_003]], np.int64)
    found = made(Normalise(input="x", mean=(1_800_000_000,), std=(1,)), spec(datatype="INT64", shape=(-1, 1)), stamps)
    assert found.dtype == np.float32 and found.ravel().tolist() == [1, 3]


def test_nan_is_imputed_and_an_infinity_is_refused() -> None:
    loose = spec(finite=False)
    step = Impute(input="x", value=(7, 8, 9))
    found = made(step, loose, np.array([[np.nan, 2, np.nan]], np.float32))
    np.testing.assert_array_equal(found, [[7, 2, 9]])
    with pytest.raises(MalformedError, match=r"prepared input 'x' is infinite at \[0, 1\]"):
        made(step, loose, np.array([[1, np.inf, 3]], np.float32))
    with pytest.raises(MalformedError, match="must be finite"):
        Pipeline([step], [spec()])


def test_clip_leaves_nan_to_impute() -> None:
    steps = [Clip(input="x", low=(-1,), high=(1,)), Impute(input="x", value=(0,))]
    found = Pipeline(steps, [spec(finite=False)]).run({"x": np.array([[np.nan, -np.inf, 0.5]], np.float32)})["x"]
    np.testing.assert_array_equal(found, [[0, -1, 0.5]])


def test_words_become_columns_and_numbers() -> None:
    known = ("high", "löw")
    tensor, asked = spec(datatype="BYTES", shape=(-1,)), words("löw", "high", "none")
    np.testing.assert_array_equal(
        made(OneHot(input="x", vocabulary=known, unknown="zeros"), tensor, asked), [[0, 1], [1, 0], [0, 0]]
    )
    np.testing.assert_array_equal(made(Ordinal(input="x", vocabulary=known, unknown="last"), tensor, asked), [1, 0, 2])
    whole = made(Ordinal(input="x", vocabulary=known, datatype="INT64"), tensor, asked[:2])
    assert whole.dtype == np.int64 and whole.tolist() == [1, 0]
    for step in (OneHot(input="x", vocabulary=known), Ordinal(input="x", vocabulary=known)):
        with pytest.raises(MalformedError, match=r"input 'x' is 'none' at \[2\], which the release's vocabulary"):
            made(step, tensor, asked)


def test_columns_of_several_numbers_lie_side_by_side() -> None:
    tensor = spec(datatype="INT64", shape=(-1, 2))
    found = made(OneHot(input="x", vocabulary=(5, -1, 3)), tensor, np.array([[3, 5], [-1, -1]]))
    np.testing.assert_array_equal(found, [[0, 0, 1, 1, 0, 0], [0, 1, 0, 0, 1, 0]])


def test_a_series_becomes_overlapping_pieces() -> None:
    found = made(
        Window(input="x", size=3, hop=2), spec(shape=(-1, -1, 1)), np.arange(8, dtype=np.float32).reshape(1, 8, 1)
    )
    np.testing.assert_array_equal(found[0, :, :, 0], [[0, 1, 2], [2, 3, 4], [4, 5, 6]])
    with pytest.raises(MalformedError, match="has 2 elements, a piece has 3"):
        made(Window(input="x", size=3, hop=2), spec(shape=(-1, -1)), np.zeros((1, 2), np.float32))


def test_several_inputs_become_one_table() -> None:
    steps = [
        Impute(input="sensors", value=(0,)),
        Normalise(input="sensors", mean=(1,), std=(2,)),
        OneHot(input="type", vocabulary=("H", "L")),
        Scale(input="age", factor=(1,), offset=(0,)),
        Concat(inputs=("sensors", "type", "age"), output="features"),
    ]
    raw = [
        spec("type", "BYTES", (-1,)),
        spec("sensors", shape=(-1, 2), finite=False),
        spec("age", "INT32", (-1,)),
        spec("other"),
    ]
    pipeline = Pipeline(steps, raw)
    assert pipeline.ready == (spec("other"), spec("features", shape=(-1, 5)))
    found = pipeline.run(
        {
            "sensors": np.array([[3, np.nan]], np.float32),
            "type": words("L"),
            "age": np.array([4], np.int32),
            "other": X[:1],
        }
    )
    np.testing.assert_array_equal(found["features"], [[1, -0.5, 0, 1, 4]])
    assert set(found) == {"other", "features"}


def test_a_model_without_a_batch_has_its_steps_too() -> None:
    pipeline = Pipeline(
        [Scale(input="x", factor=(2, 3), offset=(0,)), Window(input="x", size=1, hop=1)], [spec(shape=(2,))]
    )
    assert pipeline.ready == (spec(shape=(2, 1)),)
    np.testing.assert_array_equal(pipeline.run({"x": np.array([1, 1], np.float32)})["x"], [[2], [3]])


NUMBERS = st.floats(-1e6, 1e6, width=32)
CHAINS = st.lists(
    st.one_of(
        st.builds(lambda f, o: Scale(input="x", factor=f, offset=(o,)), st.tuples(NUMBERS, NUMBERS, NUMBERS), NUMBERS),
        st.builds(lambda m, s: Normalise(input="x", mean=(m,), std=s), NUMBERS, st.tuples(*[st.floats(0.5, 9)] * 3)),
        st.builds(lambda a, b: Clip(input="x", low=(min(a, b),), high=(max(a, b),)), NUMBERS, NUMBERS),
        st.just(Impute(input="x", value=(1, 2, 3))),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=60, deadline=None)
@given(CHAINS, arrays(np.float32, st.tuples(st.integers(1, 5), st.just(3)), elements=NUMBERS | st.just(float("nan"))))
def test_a_batch_gets_the_bits_of_its_rows(chain: list[Any], x: np.ndarray) -> None:
    chain = [Impute(input="x", value=(0,)), *[step for step in chain if step.kind != "impute"]]
    pipeline = Pipeline([*chain, Window(input="x", size=2, hop=1)], [spec(finite=False)])
    try:
        together = pipeline.run({"x": x})["x"]
    except MalformedError:  # too large for single precision: then one of the rows is, too
        with pytest.raises(MalformedError):
            for row in x:
                pipeline.run({"x": row[None]})
        return
    alone = np.concatenate([pipeline.run({"x": row[None]})["x"] for row in x])
    assert together.tobytes() == alone.tobytes()


@settings(max_examples=60, deadline=None)
@given(CHAINS)
def test_steps_are_written_and_read_to_the_same_bits(chain: list[Any]) -> None:
    read = msgspec.json.decode(msgspec.json.encode(chain), type=list[kinds.AnyStep])
    assert read == chain and digest(read) == digest(chain)


BAD = {
    "a step that is not fitted": ([Scale(input="x")], "factor has 0 numbers"),
    "constants of another width": ([Scale(input="x", factor=(1, 2), offset=(0,))], "give 1 or 3"),
    "an axis that is not there": ([Scale(input="x", factor=(1,), offset=(0,), axis=-2)], "axis -2"),
    "an axis from the front": ([Scale(input="x", factor=(1,), offset=(0,), axis=0)], "axis 0"),
    "no deviation": ([Normalise(input="x", mean=(0,), std=(0,))], "std must be above 0"),
    "a deviation that single precision takes for 0": ([Normalise(input="x", mean=(0,), std=(1e-60,))], "above 0"),
    "a number beyond single precision": ([Scale(input="x", factor=(1e300,), offset=(0,))], "cannot hold"),
    "infinity": ([Clip(input="x", low=(float("-inf"),), high=(1,))], "or NaN"),
    "bounds the wrong way round": ([Clip(input="x", low=(2,), high=(1,))], "low must not be above high"),
    "no such tensor": ([Scale(input="z", factor=(1,), offset=(0,))], "there is no 'z'"),
    "a tensor that was used up": (
        [Concat(inputs=("x",), output="y"), Scale(input="x", factor=(1,), offset=(0,))],
        "there is no 'x'",
    ),
    "words of numbers": ([OneHot(input="x", vocabulary=("a",))], "takes BYTES, whole numbers or BOOL"),
    "a vocabulary of words for numbers": ([OneHot(input="ids", vocabulary=("a",))], "no list of different numbers"),
    "a word twice": ([OneHot(input="ids", vocabulary=(1, 1))], "no list of different numbers"),
    "a number beyond 64 bits": ([OneHot(input="ids", vocabulary=(1 << 70,))], "64 bits"),
    "a long word": ([OneHot(input="text", vocabulary=("a" * 300,))], "more than 256 bytes"),
    "text that is added": ([Scale(input="text", factor=(1,), offset=(0,))], "holds text"),
    "pieces of nothing": ([Window(input="x", size=0, hop=1)], "at least 1"),
    "no way forward": ([Window(input="x", size=1, hop=0)], "at least 1"),
    "too short a series": ([Window(input="x", size=4, hop=1)], "shorter than a piece"),
    "side by side of two kinds": ([Concat(inputs=("x", "ids"), output="y")], "only the last axis"),
    "nothing side by side": ([Concat(inputs=(), output="y")], "at least one"),
    "the same side by side": ([Concat(inputs=("x", "x"), output="y")], "different tensors"),
    "a name that is taken": ([Concat(inputs=("x",), output="ids")], "there is 'ids' already"),
    "too many steps": ([Scale(input="x", factor=(1,), offset=(0,))] * (MAX_STEPS + 1), "at most 64"),
    "too many constants": ([OneHot(input="ids", vocabulary=tuple(range(kinds.MAX_CONSTANTS + 1)))], "at most 16384"),
    "too large a row": ([OneHot(input="many", vocabulary=tuple(range(16_000)))], "a row of"),
    "too large pieces": ([Window(input="many", size=4000, hop=1), Window(input="many", size=90, hop=1)], "a row of"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_work_is_refused_before_any_data_is_there(case: str) -> None:
    steps, words_ = BAD[case]
    raw = [spec(), spec("ids", "INT64", (-1, 2)), spec("text", "BYTES", (-1,)), spec("many", "INT64", (-1, 5000))]
    with pytest.raises(MalformedError) as refused:
        Pipeline(steps, raw)
    assert words_ in f"{refused.value}; {refused.value.hint}"


def test_what_a_request_would_make_too_much_of_is_refused_before_it_is_made() -> None:
    """At 5,000 rows it would be 5 GB."""
    step = OneHot(input="x", vocabulary=tuple(range(1000)))
    pipeline = Pipeline([step], [spec(datatype="UINT8", shape=(-1, -1))])
    with pytest.raises(MalformedError, match="at most 16777216"):
        pipeline.run({"x": np.zeros((5000, 300), np.uint8)})
    series = Pipeline([Window(input="x", size=1000, hop=1)], [spec(datatype="UINT8", shape=(-1, -1))])
    with pytest.raises(MalformedError, match="at most 16777216"):
        series.run({"x": np.zeros((1, 1_000_000), np.uint8)})


def test_a_value_that_overflows_is_refused_with_its_place() -> None:
    pipeline = Pipeline([Scale(input="x", factor=(1e30,), offset=(0,))], [spec()])
    with pytest.raises(MalformedError, match=r"infinite at \[0, 2\]"):
        pipeline.run({"x": np.array([[1, 1, 1e30]], np.float32)})


def test_what_the_interface_and_the_agents_hear_of_steps() -> None:
    one = [Normalise(input="x", mean=(0,), std=(1,)), OneHot(input="ids", vocabulary=(1,))]
    other = [Normalise(input="x", mean=(5,), std=(2,)), OneHot(input="ids", vocabulary=(1, 2))]
    assert kinds_of(one) == kinds_of(other) == ("normalise x", "one-hot ids")
    assert digest(one) != digest(other)
    assert required_by(one) == ("step:normalise", "step:one-hot")


def test_a_manifest_says_its_steps_and_none_where_there_are_none() -> None:
    """The bytes of a release without steps are those of 0.1."""
    assert b"preprocess" not in small_release()[0]
    steps = (Normalise(input="x", mean=(0.5,), std=(0.1,)),)
    manifest = decode_manifest(small_release(preprocess=steps)[0])
    assert manifest.steps == steps and manifest.ready == manifest.inputs


@pytest.mark.parametrize("case", BAD)
def test_a_manifest_whose_steps_cannot_work_is_malformed(case: str) -> None:
    raw = (spec(), spec("ids", "INT64", (-1, 2)), spec("text", "BYTES", (-1,)), spec("many", "INT64", (-1, 5000)))
    with pytest.raises(MalformedError):
        decode_manifest(small_release(inputs=raw, preprocess=tuple(BAD[case][0]))[0])


@pytest.mark.parametrize(
    "step",
    [
        {"kind": "logarithm", "input": "x"},
        {"kind": "scale"},
        {"kind": "scale", "input": "x", "factor": ["1"], "offset": [0]},
        {"kind": "scale", "input": "x", "factor": None, "offset": [0]},
        {"kind": "one-hot", "input": "x", "vocabulary": [1.5]},
        {"kind": "one-hot", "input": "x", "vocabulary": [[1]]},
        {"kind": "window", "input": "x", "size": 1e99, "hop": 1},
        {"kind": "window", "input": "x", "size": 10**40, "hop": 1},
        {"input": "x"},
        "scale",
        None,
    ],
)
def test_a_hostile_step_is_malformed(step: Any) -> None:
    document = msgspec.json.decode(small_release()[0])
    with pytest.raises(MalformedError):
        decode_manifest(msgspec.json.encode({**document, "preprocess": [step]}))
