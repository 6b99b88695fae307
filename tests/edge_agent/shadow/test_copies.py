"""Copies are bounded, are of the right requests, and make nobody wait."""

from __future__ import annotations

import asyncio

import numpy as np

from edge_agent.shadow.copies import WAITING, WAITING_BYTES, Copies
from tests.support.models import answer, inputs
from tests.support.shadows import ordered, outcome

X = inputs(1)


def wanted() -> Copies:
    copies = Copies()
    copies.wanted["tiny"] = ordered().rollout
    return copies


def test_what_finds_no_room_is_counted_and_left() -> None:
    copies = wanted()
    kept = [copies.offer(outcome(X, answer(X))) for _ in range(WAITING + 3)]
    assert kept == [True] * WAITING + [False] * 3
    assert copies.dropped("tiny") == 3 and copies.dropped("tiny") == 0
    assert sum(copies.take() is not None for _ in range(WAITING)) == WAITING and copies.take() is None


def test_bytes_are_bounded_too() -> None:
    copies, large = wanted(), np.zeros((1, WAITING_BYTES // 8), np.float32)
    assert copies.offer(outcome(large, X)) and not copies.offer(outcome(large, X))
    assert copies.dropped("tiny") == 1
    copies.take()
    assert copies.offer(outcome(large, X))
    texts = np.array([[b"x" * WAITING_BYTES]], object)  # its array holds one pointer
    assert not copies.offer(outcome(texts, X))


def test_only_answers_of_the_release_that_the_rollout_starts_from_are_copied() -> None:
    copies = wanted()
    assert not copies.offer(outcome(X, answer(X), release=2))
    assert not copies.offer(outcome(X, answer(X), model="other"))
    failed = outcome(X, answer(X))
    for nothing in ({"inputs": {}}, {"outputs": {}}):  # sent as the steps make it, or not answered here
        assert not copies.offer(type(failed)(**{n: getattr(failed, n) for n in failed.__struct_fields__} | nothing))
    assert copies.dropped("tiny") == 0


def test_copies_of_an_earlier_attempt_are_not_taken() -> None:
    copies = wanted()
    copies.offer(outcome(X, answer(X)))
    copies.wanted["tiny"] = ordered(attempt=2).rollout
    assert copies.take() is None


def test_who_waits_for_a_copy_is_woken() -> None:
    async def scenario() -> None:
        copies = wanted()
        waiting = asyncio.create_task(copies.come())
        await asyncio.sleep(0)
        assert not waiting.done()
        copies.offer(outcome(X, answer(X)))
        await waiting

    asyncio.run(scenario())
