"""A float model is recognised in another form; a teacher of its own is not taken for one."""

from __future__ import annotations

import numpy as np
import pytest

from model_compiler.evaluate.twins import is_twin

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(0, 4, (200, 10)).astype(np.float32)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(
    "other",
    [LOGITS, LOGITS.astype(np.float16).astype(np.float32), softmax(LOGITS), LOGITS + 3, LOGITS * np.float32(1.0005)],
    ids=["itself", "half precision", "with a softmax", "moved", "rounded"],
)
def test_the_same_model_in_another_form_is_a_twin(other: np.ndarray) -> None:
    assert is_twin({"y": LOGITS}, {"y": other}) is True
    assert is_twin({"y": other}, {"y": LOGITS}) is True


@pytest.mark.parametrize("share", [0.02, 0.1, 1.0])
def test_a_model_that_answers_otherwise_is_none(share: float) -> None:
    other = LOGITS + share * RANDOM.normal(0, 4, LOGITS.shape).astype(np.float32)
    assert is_twin({"y": LOGITS}, {"y": other}) is False
    assert is_twin({"y": softmax(LOGITS)}, {"y": softmax(other)}) is False


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return (1 / (1 + np.exp(-logits.astype(np.float64)))).astype(np.float32)


@pytest.mark.parametrize("shape", [(-1, 1), (-1,)], ids=str)
@pytest.mark.parametrize("half", [False, True])
def test_the_same_lone_score_with_a_sigmoid_or_without_is_a_twin(shape: tuple[int, ...], half: bool) -> None:
    logits = LOGITS[:, 0].reshape(shape)
    other = (sigmoid(logits).astype(np.float16) if half else sigmoid(logits)).reshape(-1)
    found = {is_twin({"y": logits}, {"y": other}), is_twin({"y": other}, {"y": logits})}
    assert found <= {True, None} if half else found == {True}  # half a probability near 1 does not tell the logit
    assert is_twin({"y": sigmoid(logits)}, {"y": other}) is True


@pytest.mark.parametrize("share", [0.1, 1.0])
def test_another_lone_score_is_none_whatever_it_ends_with(share: float) -> None:
    logits = LOGITS[:, :1]
    other = logits + share * RANDOM.normal(0, 4, logits.shape).astype(np.float32)
    assert is_twin({"y": logits}, {"y": sigmoid(other)}) is False
    assert is_twin({"y": sigmoid(other)}, {"y": logits}) is False


def test_two_lone_scores_that_are_nearly_sure_are_not_proved_one_or_another() -> None:
    signs = np.where(np.arange(200) % 2, 1.0, -1.0)
    one, other = (((5.5 + RANDOM.random(200)) * signs).astype(np.float32) for _ in range(2))
    assert is_twin({"y": one}, {"y": sigmoid(other)}) is None


def test_shares_that_rounding_moves_beyond_1_are_compared_as_they_are() -> None:
    shares = np.linspace(0, 1, 200, dtype=np.float32)
    assert is_twin({"y": shares}, {"y": shares * np.float32(1.0004)}) is True


def test_two_teachers_that_are_always_right_and_nearly_sure_are_not_one() -> None:
    sure = np.eye(10)[np.arange(200) % 10]
    one, other = (softmax(((5 + RANDOM.random((200, 10))) * (2 * sure - 1)).astype(np.float32)) for _ in range(2))
    assert np.all(one.argmax(1) == other.argmax(1)) and one.max(1).min() > 0.99
    assert is_twin({"y": one}, {"y": other}) is False


def test_of_several_outputs_each_has_to_be_the_same() -> None:
    angle, place = RANDOM.normal(size=(2, 50)).astype(np.float32)
    assert is_twin({"a": angle, "b": place}, {"a": angle, "b": place}) is True
    assert is_twin({"a": angle, "b": place}, {"a": angle, "b": angle}) is False
    assert is_twin({"a": angle}, {"a": angle[:40]}) is False


@pytest.mark.parametrize("values", [np.arange(50), np.zeros(50, np.float32), np.full(50, np.nan, np.float32)], ids=str)
def test_whole_numbers_and_answers_that_never_change_tell_nothing(values: np.ndarray) -> None:
    assert is_twin({"y": values}, {"y": values}) is None
