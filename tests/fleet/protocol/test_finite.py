"""NaN and infinity, in what is asked and what is answered."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge_agent import CAPABILITIES
from fleet.protocol import finite, oip
from fleet.protocol.errors import MalformedError
from fleet.protocol.manifest import Manifest, Tensor, decode_manifest, encode_manifest
from tests.support.manifests import small_release

SPECS = (Tensor(name="x", datatype="FP32", shape=(-1, 3)),)


@given(hnp.arrays(st.sampled_from(["<f2", "<f4", "<f8", "<i4", "?"]), hnp.array_shapes(min_dims=0, min_side=0)))
def test_it_sees_what_numpy_sees(array: np.ndarray) -> None:
    with np.errstate(over="ignore"):
        assert finite.is_finite(array) == (array.dtype.kind != "f" or bool(np.isfinite(array).all()))


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8"])
@pytest.mark.parametrize("shape", [(), (2, 3), (3, 5_000), (0, 4)])
def test_large_numbers_are_finite_and_one_bad_one_is_found(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.full(shape, np.finfo(dtype).max, dtype)
    with np.errstate(all="ignore"):
        assert finite.is_finite(array) and finite.where_not(array) == ""
        for bad, word in ((np.nan, "NaN"), (-np.inf, "infinite")):
            if array.size:
                broken = array.copy()
                broken[(-1,) * array.ndim] = bad
                place = [size - 1 for size in shape]
                assert finite.where_not(broken) == f"{word} at {place}"


def test_text_integers_and_truth_values_are_never_looked_at() -> None:
    for array in (np.array([b"nan"], object), np.arange(3), np.array([True])):
        assert finite.is_finite(array) and not finite.where_not(array)


@pytest.mark.parametrize(("bad", "word"), [(np.nan, "NaN"), (np.inf, "infinite")])
def test_an_input_that_is_no_number_is_refused_with_its_name_and_place(bad: float, word: str) -> None:
    x = np.zeros((2, 3), np.float32)
    x[1, 2] = bad
    raw = oip.decode_request(x.tobytes(), 0)
    for values in ([oip.TensorValue("x", x)], raw.inputs):
        with pytest.raises(MalformedError, match=rf"input 'x' is {word} at \[1, 2\]"):
            oip.check_inputs(values, SPECS)
    means_it = (Tensor(name="x", datatype="FP32", shape=(-1, 3), finite=False),)
    assert oip.check_inputs([oip.TensorValue("x", x)], means_it)["x"] is x


def test_a_number_in_json_that_overflows_its_datatype_is_infinite() -> None:
    body = b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [0, 1e39, 0]}]}'
    with pytest.raises(MalformedError, match=r"input 'x' is infinite at \[0, 1\]"):
        oip.check_inputs(oip.decode_request(body, None).inputs, SPECS)


def test_a_manifest_that_says_nothing_of_it_keeps_its_bytes_and_wants_finite_numbers() -> None:
    """Releases of 0.1 do: their signed bytes are what they were."""
    data, _ = small_release()
    manifest = decode_manifest(data)
    assert b'"finite"' not in data and encode_manifest(manifest) == data
    assert all(tensor.finite for tensor in (*manifest.inputs, *manifest.outputs))


def test_a_manifest_carries_what_a_model_means() -> None:
    import msgspec

    data, _ = small_release()
    manifest = decode_manifest(data)
    free = tuple(msgspec.structs.replace(tensor, finite=False) for tensor in manifest.outputs)
    again: Manifest = decode_manifest(encode_manifest(msgspec.structs.replace(manifest, outputs=free)))
    assert again.outputs == free and again.inputs == manifest.inputs


def test_the_agent_can_do_what_such_releases_require() -> None:
    assert finite.CAPABILITY in CAPABILITIES
