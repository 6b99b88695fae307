"""Golden self-test vectors."""

from __future__ import annotations

import numpy as np
import pytest

from fleet.protocol import selftest
from fleet.protocol.errors import MalformedError, TooLargeError
from fleet.protocol.manifest import Blob, SelfTest, Tensor
from fleet.protocol.selftest import Vector, check_vectors, from_array, to_array

INPUTS = [np.eye(3, dtype="f4") * k for k in (1, 2)]
VECTORS = tuple(Vector(inputs=(to_array("x", x),), outputs={"litert-fp32": (to_array("y", x * 2),)}) for x in INPUTS)


def terms(**changes) -> SelfTest:
    base = {"vectors": 2, "tolerance": {"litert-fp32": 0.01}, "min_agreement": 1.0, **changes}
    return SelfTest(blob=Blob(sha256="0" * 64, size=1), **base)


def model(scale: float = 2.0, roll: int = 0, name: str = "y"):
    return lambda inputs: {name: np.roll(inputs["x"] * scale, roll, axis=-1)}


def test_a_variant_that_answers_as_it_did_passes() -> None:
    outcome = check_vectors(VECTORS, terms(), "litert-fp32", model(2.001))
    assert (outcome.passed, outcome.vectors, outcome.agreement, outcome.reason) == (True, 2, 1.0, "")
    assert outcome.worst == pytest.approx(0.002, abs=1e-6)


@pytest.mark.parametrize(
    ("run", "changes", "reason"),
    [
        (model(2.1), {}, "vector 0: output 'y' is off by 0.1, 0.01 is allowed"),
        (model(np.nan), {}, "vector 0: output 'y' is NaN at [0, 0]"),
        (model(np.nan), {"tolerance": {"y": float("inf")}, "min_agreement": 0.0}, "output 'y' is NaN at [0, 0]"),
        (model(name="z"), {}, "output 'y' has shape none"),
        (lambda i: {"y": i["x"][:, :2]}, {}, "has shape [3, 2], not [3, 3]"),
        (model(roll=1), {"tolerance": {"y": 9.0}}, "0 of the rows keep their answer, at least 1 must"),
        (model(), {"tolerance": {}}, "-1 is allowed"),
        (model(), {"vectors": 3}, "the blob holds 2 vectors, the manifest says 3"),
    ],
)
def test_what_differs_fails_with_a_reason(run, changes: dict, reason: str) -> None:
    outcome = check_vectors(VECTORS, terms(**changes), "litert-fp32", run)
    assert not outcome.passed and reason in outcome.reason


def log(inputs):
    with np.errstate(divide="ignore"):
        return {"y": np.log(inputs["x"])}


def test_golden_answers_that_are_no_numbers_prove_nothing_unless_the_model_means_them() -> None:
    answers = [to_array("y", log({"x": x})["y"]) for x in INPUTS]
    golden = tuple(
        Vector(inputs=v.inputs, outputs={"litert-fp32": (y,)}) for v, y in zip(VECTORS, answers, strict=True)
    )
    outcome = check_vectors(golden, terms(min_agreement=0.0), "litert-fp32", log)
    assert not outcome.passed and "output 'y' is infinite at [0, 1] in the golden answer" in outcome.reason
    means_it = (Tensor(name="y", datatype="FP32", shape=(-1, 3), finite=False),)
    assert check_vectors(golden, terms(min_agreement=0.0), "litert-fp32", log, means_it).passed
    for other in (lambda i: {"y": np.abs(log(i)["y"])}, lambda i: {"y": log(i)["y"] * np.nan}, model()):
        outcome = check_vectors(golden, terms(min_agreement=0.0), "litert-fp32", other, means_it)
        assert not outcome.passed and "off by inf" in outcome.reason


def test_text_is_compared_as_it_is() -> None:
    words = np.array([b"one", b"two"], object)
    golden = tuple(Vector(inputs=(to_array("x", x),), outputs={"litert-fp32": (to_array("y", words),)}) for x in INPUTS)
    assert check_vectors(golden, terms(), "litert-fp32", lambda _: {"y": words}).passed
    assert check_vectors(golden, terms(), "litert-fp32", lambda _: {"y": words.astype(str).astype(object)}).passed
    for other in (words[::-1], np.zeros(2)):
        assert "off by inf" in check_vectors(golden, terms(), "litert-fp32", lambda _, other=other: {"y": other}).reason


def test_an_unknown_variant_and_an_empty_blob_fail() -> None:
    assert "no outputs for variant 'onnx-fp32'" in check_vectors(VECTORS, terms(), "onnx-fp32", model()).reason
    assert not check_vectors((), terms(vectors=0), "litert-fp32", model()).passed


def test_agreement_may_be_less_than_all() -> None:
    def half(inputs):
        y = inputs["x"] * 2
        return {"y": y if y.max() < 3 else np.roll(y, 1, axis=-1)}

    loose = {"tolerance": {"litert-fp32": 9.0}}
    assert check_vectors(VECTORS, terms(min_agreement=0.5, **loose), "litert-fp32", half).passed
    assert check_vectors(VECTORS, terms(min_agreement=0.6, **loose), "litert-fp32", half).agreement == 0.5


def test_vectors_come_back_equal_and_bounded() -> None:
    assert selftest.decode_vectors(selftest.encode_vectors(VECTORS)) == VECTORS
    np.testing.assert_array_equal(from_array(VECTORS[1].inputs[0]), INPUTS[1])
    with pytest.raises(TooLargeError):
        selftest.decode_vectors(b"x" * (selftest.LIMIT + 1))
    with pytest.raises(MalformedError):
        selftest.decode_vectors(b"\x81\xa7vectors\x01")
