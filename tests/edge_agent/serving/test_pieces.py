"""Large batches of a LiteRT model are cut, and only where its rows are answered one by one."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from edge_agent import runtimes
from edge_agent.serving.pieces import PIECE, may_be_cut, run
from fleet.protocol.preprocessing import Ready
from fleet.runtimes.models import MAX_BATCH
from tests.support import models
from tests.support.agent import Agent

X = models.inputs(1000, seed=3)


class Model:
    """`asked` are the rows of its runs; `whole`: every row's answer depends on all of them."""

    def __init__(self, *, joins: bool = True, whole: bool = False) -> None:
        self.joins, self.whole, self.asked = joins, whole, []

    def run(self, inputs):
        x, self.kind = inputs["input"], type(inputs)
        self.asked.append(len(x))
        return {"logits": x - (x.mean(axis=0) if self.whole else 0)}


def test_a_batch_comes_back_as_it_would_whole():
    model = Model()
    np.testing.assert_array_equal(run(model, {"input": X})["logits"], X)
    assert model.asked == [PIECE] * 15 + [40]
    for rows in (0, 1, PIECE):
        model.asked.clear()
        assert len(run(model, {"input": X[:rows]})["logits"]) == rows and model.asked == [rows]


def test_inputs_that_need_no_steps_any_more_need_none_in_pieces_either():
    model = Model()
    run(model, Ready(input=X))
    assert model.kind is Ready and len(model.asked) == 16


@pytest.mark.parametrize("inputs", [{"input": np.zeros((MAX_BATCH + 1, 4))}, {"input": X, "other": X[:5]}])
def test_what_a_model_would_refuse_reaches_it_whole(inputs):
    model = Model()
    run(model, inputs)
    assert model.asked == [len(inputs["input"])]


@pytest.mark.parametrize(
    ("model", "requests", "found"),
    [
        (Model(), [X[:1], X[1:2]], True),
        (Model(), [X[:3], X[1:2]], True),
        (Model(), [X[:1]], False),
        (Model(joins=False), [X[:1], X[1:2]], False),
        (Model(whole=True), [X[:1], X[1:2]], False),
    ],
)
def test_golden_requests_say_whether_rows_are_answered_one_by_one(model, requests, found):
    assert may_be_cut(model, [{"input": request} for request in requests]) is found


def test_an_interpreter_never_makes_room_for_more_than_a_piece(tmp_path):
    agent = Agent(tmp_path, runtime=runtimes.named("ai-edge-litert"))

    async def scenario():
        await agent.slots.activate(
            models.release(agent.blobs, data=models.litert_bytes(), runtime="litert"), None, None
        )
        answer = await agent.ask(X)
        return answer.outputs[0].array, agent.slots.slot("tiny").active._model._allocated

    found, allocated = asyncio.run(scenario())
    np.testing.assert_allclose(found, models.answer(X), rtol=1e-4, atol=1e-5)
    assert allocated["input"][0] <= PIECE
