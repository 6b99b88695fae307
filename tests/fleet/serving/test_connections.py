"""A client that holds what it does not use keeps nobody out, does not keep it for long, and has a bound."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace

import pytest

from fleet.serving import LIMIT_S, Reply, connections, most_connections
from fleet.serving.connections import Phases
from tests.fleet.serving.listener import post, run

MINE = b"POST /hot HTTP/1.1\r\nhost: loc"


def named(client) -> tuple[str, int]:
    return client.writer.get_extra_info("sockname")


async def mine(listener, client):
    """The server's end of a client's connection."""
    while True:
        for one in listener.connections:
            if one.transport.get_extra_info("peername") == named(client):
                return one
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("sent", "phase", "answers"),
    [
        (b"", "first", 0),
        (MINE, "first", 0),
        (post("/hot", b"abc")[:-1], "body", 0),
        (post("/else", b"abc")[:-1], "body", 0),
        (post("/no", b"abc")[:-1], "body", 1),
        (post("/hot", b"abc"), "idle", 1),
        (post("/else", b"abc"), "idle", 1),
        (post("/hot", b"abc") + MINE, "idle", 1),
    ],
)
def test_a_connection_that_stands_still_ends(sent, phase, answers):
    async def scenario(listener):
        client, other = await listener.client(), await listener.client()
        await client.send(sent)
        for _ in range(answers):
            await client.answer()
        one = await mine(listener, client)
        while one.phases.phase(one.cycle, 0) != phase:
            await asyncio.sleep(0)
        listener.later(LIMIT_S[phase] - 1)
        assert one in listener.connections
        listener.later(LIMIT_S[phase] + 1)
        assert await client.ended()
        third = await listener.client()
        await third.send(post("/hot"))
        assert await third.text() == "200 /hot "
        other.close()

    run(scenario)


def test_a_client_that_holds_all_connections_keeps_nobody_out():
    async def scenario(listener):
        held = []
        for number in range(100):
            held.append(await listener.client())
            await held[-1].send(MINE if number % 2 else b"")
            client = await listener.client()
            await client.send(post("/hot"))
            assert await client.text() == "200 /hot "
            assert len(listener.connections) <= 20
        assert await held[0].ended()

    run(scenario, connections=20)


def test_a_client_that_is_refused_and_never_ends_its_bodies_keeps_nobody_out():
    async def scenario(listener):
        for _ in range(30):
            held = await listener.client()
            await held.send(post("/no", b"abc")[:-1])
            assert (await held.answer())[0] == 403
            client = await listener.client()
            await client.send(post("/hot"))
            assert (await client.answer())[0] == 200
        assert len(listener.connections) <= 20

    run(scenario, connections=20)


def test_where_all_are_at_work_a_new_connection_is_503_and_the_others_go_on():
    async def scenario(listener):
        held = [await listener.client() for _ in range(3)]
        for client in held:
            await client.send(post("/hot", b"abc")[:-1])
            one = await mine(listener, client)
            while one.cycle is None:
                await asyncio.sleep(0)
        late = await listener.client()
        status, headers, body = await late.answer()
        assert (status, headers["retry-after"]) == (503, "1")
        assert json.loads(body) == {"error": "all connections are at work", "code": "busy"}
        assert await late.ended()
        for client in held:
            await client.send(b"c")
            assert await client.text() == "200 /hot abc"

    run(scenario, connections=3)


def test_bodies_share_one_budget_and_small_requests_pass():
    async def scenario(listener):
        budget = listener.shared.budget
        first, second, third = [await listener.client() for _ in range(3)]
        await first.send(post("/hot", b"x" * 2000)[:-1])
        while budget.taken < 1999:
            await asyncio.sleep(0)
        await second.send(post("/hot", b"y" * 2000)[:-1])
        status, headers, body = await second.answer()
        assert (status, headers["retry-after"]) == (503, "1") and "other requests" in json.loads(body)["error"]
        await second.send(b"y" + post("/hot", b"next"))  # it is read to its end all the same
        assert await second.text() == "200 /hot next"
        await third.send(post("/hot", b"%x\r\n%b" % (1500, b"z" * 1500), chunks=True))  # announces nothing
        assert (await third.answer())[0] == 503
        await first.send(b"x")
        assert (await first.answer())[0] == 200 and budget.taken == 0

    run(scenario, budget=3000)


@pytest.mark.parametrize("sent", [post("/hot", b"x" * 1000)[:-1], post("/slow", b"x" * 1000) + post("/hot", b"z" * 10)])
def test_what_a_client_held_is_free_when_it_leaves(sent):
    async def scenario(listener):
        client, other = await listener.client(), await listener.client()
        await client.send(sent)
        while listener.shared.budget.taken < 999:
            await asyncio.sleep(0)
        client.close()
        listener.route.open.set()
        while listener.shared.budget.taken:
            await asyncio.sleep(0)
        await other.send(post("/hot", b"y" * 2000))
        assert (await other.answer())[0] == 200

    run(scenario, budget=3000)


def test_an_announced_length_alone_holds_nothing():
    async def scenario(listener):
        held = [await listener.client() for _ in range(10)]
        for client in held:
            await client.send(post("/hot", b"x" * 2000)[:-1999])
        while listener.shared.budget.taken < 10:
            await asyncio.sleep(0)
        assert listener.shared.budget.taken == 10

    run(scenario, budget=3000)


def test_answers_that_are_not_taken_count_and_hold_up_their_own_connection_only():
    size = 6 << 20

    async def scenario(listener):
        asked = []

        def answer(request):
            asked.append(request.target)
            return Reply(200, b"", b"x" * (size if request.target == b"/hot-large" else 1))

        listener.route.answer = answer
        client, other = await listener.client(), await listener.client()
        client.writer.transport.pause_reading()
        await client.send(post("/hot-large") + post("/hot-next"))
        while listener.shared.budget.taken < size // 4:
            await asyncio.sleep(0)
        await other.send(post("/hot"))
        assert await other.text() == "200 x"
        one = await mine(listener, client)
        listener.later(LIMIT_S["answer"] - 1)
        assert one in listener.connections
        client.writer.transport.resume_reading()
        assert len((await client.answer())[2]) == size
        assert await client.text() == "200 x" and listener.shared.budget.taken == 0

    run(scenario)


def test_phases_are_told_apart_and_progress_begins_anew():
    cycle = SimpleNamespace(response_complete=False, more_body=False)
    phases = Phases(0.0)
    assert phases.late(cycle, 0, 5.0) == "" and phases.phase(cycle, 0) == "work"
    assert phases.late(cycle, 0, 1e9) == ""  # deadlines are the application's business
    assert phases.late(cycle, 500, 1e9) == "" and phases.phase(cycle, 500) == "answer"
    assert phases.late(cycle, 400, 1e9 + 29) == ""
    assert phases.late(cycle, 400, 1e9 + 58) == ""
    assert phases.late(cycle, 400, 1e9 + 60) == "answer"
    other = SimpleNamespace(response_complete=True, more_body=False)
    assert phases.late(other, 0, 1e9 + 61) == "" and phases.late(other, 0, 1e9 + 137) == "idle"


def test_there_is_room_for_files_beside_the_connections(monkeypatch):
    monkeypatch.setattr(connections.resource, "getrlimit", lambda _: (256, 256))
    assert most_connections() == 128
