"""The parts that a release keeps of the one before: self-test inputs, and patches for every file that a device
replaces.
"""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from fleet.protocol.manifest import Blob
from fleet.protocol.selftest import decode_vectors, from_array
from model_compiler.inputs.dataset import make_dataset
from model_compiler.inputs.former_release import Former, pairs
from model_compiler.package import delta, vectors
from tests.golden.examples import MANIFEST

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(200, 64)).astype(np.float32)
WEIGHTS = RANDOM.normal(size=(64, 10)).astype(np.float32)


def built(weights: np.ndarray, x: np.ndarray = X, former=(), **options):
    """Vectors of two variants; the second one's weights are rounded."""
    outputs = {name: {"logits": x @ w} for name, w in (("fp32", weights), ("int8", np.round(weights * 16) / 16))}
    options = {"counts": vectors.Rows(("x",), answers=True), "classes": True, **options}
    groups = outputs["fp32"]["logits"].argmax(1)
    return vectors.build(make_dataset(x, None, "x"), outputs, groups, former=former, **options)


def asked(data: bytes) -> list[bytes]:
    return [from_array(vector.inputs[0]).tobytes() for vector in decode_vectors(data)]


def test_the_same_inputs_are_asked_again_and_the_patch_is_little_more_than_the_answers() -> None:
    _, _, old = built(WEIGHTS)
    order = RANDOM.permutation(200)  # a retrain's validation set has them elsewhere
    section, _, new = built(WEIGHTS + 0.1 * RANDOM.normal(size=(64, 10)), X[order], former=decode_vectors(old))
    # A row that the new model is not sure of is replaced; the others stay, in their order.
    assert section.vectors == 12 and len(set(asked(new)) & set(asked(old))) >= 10
    patch = delta.build(old, new)
    assert delta.apply(old, patch.patch) == new
    assert len(patch.patch) < 0.35 * len(new)


def test_a_row_that_is_gone_or_tells_nothing_any_more_is_replaced() -> None:
    _, _, old = built(WEIGHTS)
    former = decode_vectors(old)
    gone = from_array(former[3].inputs[0])
    rest = X[(gone != X).any(axis=1)]
    _, _, new = built(WEIGHTS, rest, former=former)
    assert asked(new)[:11] == asked(old)[:3] + asked(old)[4:] and len(asked(new)) == 12
    tie = WEIGHTS.copy()
    tie[:, 1:] = tie[:, :1]  # now all classes tie everywhere but for the first's offset
    _, _, tied = built(tie, former=former)
    assert len(asked(tied)) == 12


def test_an_answer_close_to_the_one_before_is_told_by_that_and_a_far_one_is_not() -> None:
    section, _, old = built(WEIGHTS)
    slightly = WEIGHTS + 0.002 * RANDOM.normal(size=(64, 10)).astype(np.float32)
    _, _, near = built(slightly, former=decode_vectors(old))
    same = [
        np.mean([from_array(a.outputs[name][0]) == from_array(b.outputs[name][0]) for a, b in zip(*both, strict=True)])
        for name in ("fp32", "int8")
        for both in [(decode_vectors(old), decode_vectors(near))]
    ]
    assert min(same) > 0.95 and len(delta.build(old, near).patch) < 0.1 * len(near)
    for vector in decode_vectors(near):  # what was said before is still within the tolerance of what is true now
        true = from_array(vector.inputs[0]) @ slightly
        off = np.abs(from_array(vector.outputs["fp32"][0]) - true).max()
        assert off <= (vectors.STAYS + 1 / vectors.STEPS) * section.tolerance["fp32"]
    _, _, far = built(-WEIGHTS, former=decode_vectors(old))
    for vector in decode_vectors(far):
        true = from_array(vector.inputs[0]) @ -WEIGHTS
        assert np.abs(from_array(vector.outputs["fp32"][0]) - true).max() <= section.tolerance["fp32"] / vectors.STEPS


def test_vectors_of_other_inputs_are_not_kept() -> None:
    _, _, old = built(WEIGHTS)
    former = decode_vectors(old)
    other = [msgspec.structs.replace(v, inputs=(msgspec.structs.replace(v.inputs[0], name="z"),)) for v in former]
    assert built(WEIGHTS, former=other)[2] == built(WEIGHTS)[2]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int32])
def test_golden_answers_lose_less_than_the_tolerance_holds_and_no_class(dtype) -> None:
    scores = (RANDOM.normal(size=(50, 10)) * 9).astype(dtype)
    scores[0, :2] = scores[0].max() + 1, scores[0].max() + 1  # a tie
    (rounded,) = vectors._in_steps({"a": {"y": scores}}, range(50)).values()
    assert rounded["y"].dtype == dtype and (rounded["y"].argmax(1) == scores.argmax(1)).all()
    spread = float(scores.max() - scores.min())
    assert np.abs(rounded["y"].astype(float) - scores).max() <= vectors.TOLERANCE * spread / vectors.STEPS


def test_answers_whose_best_two_would_change_places_stay_exact() -> None:
    scores = np.array([[1.0, 1.0 + 1e-6, -5.0], [9.0, 0.0, 0.0]], np.float32)
    (kept,) = vectors._in_steps({"a": {"y": scores}}, [0, 1]).values()
    assert (kept["y"] == scores).all()
    (rounded,) = vectors._in_steps({"a": {"y": scores}}, [1]).values()  # the tie is not among the chosen rows
    assert (rounded["y"] != scores).any()


def test_every_file_that_a_device_replaces_is_patched_once() -> None:
    variant = MANIFEST.variants[0]
    file, selftest = Blob(sha256="a" * 64, size=11), Blob(sha256="b" * 64, size=21)
    new = msgspec.structs.replace(
        MANIFEST,
        variants=(msgspec.structs.replace(variant, blob=file),),
        selftest=msgspec.structs.replace(MANIFEST.selftest, blob=selftest),
    )
    assert pairs(MANIFEST, new) == ((variant.blob, file), (MANIFEST.selftest.blob, selftest))
    assert pairs(MANIFEST, MANIFEST) == ()


def test_a_self_test_that_is_not_at_hand_or_of_a_later_format_keeps_nothing() -> None:
    assert Former(MANIFEST).vectors == () and Former(MANIFEST).file_of("litert-int8") is None
    damaged = Former(MANIFEST, {MANIFEST.selftest.blob.sha256: b"\xc1"})
    assert damaged.vectors == ()
    held = replace(damaged, files={MANIFEST.variants[0].blob.sha256: b"model"})
    assert held.file_of("litert-int8") == b"model" and held.file_of("onnx-int8") is None
