"""The branch of the hot route, through real sockets: what is one request, and whose turn it is."""

from __future__ import annotations

import asyncio
import json

import pytest

from fleet.serving.framing import HEAD_LIMIT, HEADERS
from tests.fleet.serving.listener import LIMIT, noted, post, run, until

CHUNKED = b"3\r\nabc\r\n2;a=b\r\nde\r\n0\r\ntrailer: x\r\n\r\n"


@pytest.mark.parametrize("path", ["/hot", "/else"])
@pytest.mark.parametrize("data", [post("PATH", b"abcde"), post("PATH", CHUNKED, chunks=True)], ids=["length", "chunks"])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_request_is_the_same_however_it_is_cut(path, data, size):
    async def scenario(listener):
        client = await listener.client()
        whole = data.replace(b"PATH", path.encode()) * 3
        for at in range(0, len(whole), size):
            await client.send(whole[at : at + size])
            await asyncio.sleep(0)
        for _ in range(3):
            status, headers, body = await client.answer()
            assert (status, body) == (200, path.encode() + b" abcde") and ("x-hot" in headers) == (path == "/hot")
        assert listener.shared.budget.taken == 0

    run(scenario)


def test_a_pipeline_is_answered_in_order_whoever_answers():
    async def scenario(listener):
        client, other = await listener.client(), await listener.client()
        asked = ["/hot1", "/else", "/slow1", "/hot2", "/no", "/else2", "/slow2", "/hot3", "/missing"]
        await client.send(b"".join(post(path, b"x") for path in asked))
        assert await client.text() == "200 /hot1 x"
        assert await client.text() == "200 /else x"
        await other.send(post("/hot", b"y"))
        assert await other.text() == "200 /hot y"  # nobody else waits for it
        assert "/hot2" not in str(listener.route.asked)
        listener.route.open.set()
        got = [await client.text() for _ in asked[2:]]
        assert got == [
            '403 {"error": "no", "code": "forbidden"}' if path == "/no" else f"200 {path} x" for path in asked[2:]
        ]

    run(scenario)


def test_promises_are_kept_in_their_turn():
    async def scenario(listener):
        client = await listener.client()
        listener.route.open.set()
        paths = ["/turn1", "/hot1", "/turn2", "/turn-slow1", "/else", "/turn3", "/slow1", "/turn4"]
        await client.send(b"".join(post(path, b"x" * 100) for path in paths))
        assert [await client.text() for _ in paths] == [f"200 {path} {'x' * 100}" for path in paths]
        assert listener.shared.budget.taken == 0

    run(scenario)


def test_a_promise_to_a_client_that_has_gone_holds_nothing():
    async def scenario(listener):
        client, other = await listener.client(), await listener.client()
        await client.send(post("/turn-slow", b"x" * 1000))
        await until(lambda: listener.route.asked)
        assert listener.shared.budget.taken == 1000
        client.close()
        await until(lambda: len(listener.connections) == 1)
        listener.route.open.set()
        await until(lambda: listener.shared.budget.taken == 0)
        await other.send(post("/turn", b"y"))
        assert await other.text() == "200 /turn y"

    run(scenario)


def test_one_request_of_a_connection_is_answered_per_turn_of_the_loop():
    async def scenario(listener):
        client, other = await listener.client(), await listener.client()
        await client.send(post("/hot-many") * 400)
        await other.send(post("/hot-one"))
        await other.answer()
        assert len(listener.route.asked) < 400
        for _ in range(400):
            assert await client.text() == "200 /hot-many "

    run(scenario)


def test_the_clock_of_a_request_starts_with_its_first_byte():
    async def scenario(listener):
        client, loop = await listener.client(), asyncio.get_running_loop()
        data = post("/hot", b"abc")
        await client.send(data[:1])
        while not any(one._began for one in listener.connections):
            await asyncio.sleep(0)
        until = loop.time()
        await client.send(data[1:])
        await client.answer()
        assert listener.route.began[0] <= until

    run(scenario)


def test_a_body_that_has_not_been_sent_yet_is_asked_for():
    async def scenario(listener):
        client = await listener.client()
        head = post("/hot", b"abc", "Expect: 100-continue")[:-3]
        for _ in range(2):
            await client.send(head)
            assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            await client.send(b"abc")
            assert await client.text() == "200 /hot abc"
        await client.send(head + b"abc")  # it did not wait
        assert await client.text() == "200 /hot abc"
        await client.send(post("/slow") + head)
        await asyncio.sleep(0)
        listener.route.open.set()
        assert await client.text() == "200 /slow "
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"abc")
        assert await client.text() == "200 /hot abc"
        await client.send(post("/no", b"abc", "Expect: 100-continue")[:-3])
        status, headers, _ = await client.answer()
        assert (status, headers["connection"]) == (403, "close") and await client.ended()

    run(scenario)


def test_a_body_that_an_application_answers_without_ends_the_connection_where_it_may_never_come():
    async def scenario(listener):
        client = await listener.client()
        head = post("/asgi", b"abc", "Expect: 100-continue")[:-3]
        for _ in range(2):
            await client.send(head)
            assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            await client.send(b"abc")
            assert await client.text() == "200 /asgi abc"
        await client.send(post("/early", b"abc", "Expect: 100-continue"))  # it did not wait
        status, headers, _ = await client.answer()
        assert status == 200 and "connection" not in headers
        await client.send(post("/early", b"", "Expect: 100-continue"))  # nothing is to come
        status, headers, _ = await client.answer()
        assert status == 200 and "connection" not in headers
        await client.send(post("/early", b"abc", "Expect: 100-continue")[:-3])
        status, headers, _ = await client.answer()
        assert (status, headers["connection"]) == (200, "close") and await client.ended()

    run(scenario)


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_beyond_the_limit_is_refused_at_once_and_read_to_its_end(announced):
    async def scenario(listener):
        client, size = await listener.client(), LIMIT + 100_000
        data = post("/hot", b"x" * size)
        if not announced:
            data = post("/hot", b"%x\r\n%b\r\n0\r\n\r\n" % (size, b"x" * size), chunks=True)
        await client.send(data[: -100 if announced else -500])
        status, headers, body = await client.answer()
        assert status == 413 and "connection" not in headers and b"bytes" in body
        assert listener.shared.budget.taken == 0
        await client.send(data[-100 if announced else -500 :] + post("/hot", b"next"))
        assert await client.text() == "200 /hot next"

    run(scenario)


def test_old_clients_and_those_that_say_so_are_closed():
    async def scenario(listener):
        for data in (
            post("/hot").replace(b"HTTP/1.1", b"HTTP/1.0"),
            post("/hot", b"", "Connection: close") + post("/hot-behind"),
            post("/hot", b"", "Connection: close") + post("/else-behind"),
        ):
            client = await listener.client()
            await client.send(data)
            status, headers, _ = await client.answer()
            assert (status, headers["connection"]) == (200, "close") and await client.ended()
        assert listener.route.asked == [b"/hot"] * 3

    run(scenario)


H = b"POST /hot HTTP/1.1\r\nhost: a\r\n"
SMUGGLED = {
    "length_and_chunks": H + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks_and_length": H + b"transfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n",
    "two_lengths": H + b"content-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
    "two_equal_lengths": H + b"content-length: 3\r\ncontent-length: 3\r\n\r\nabc",
    "a_list_of_lengths": H + b"content-length: 3, 3\r\n\r\nabc",
    "a_signed_length": H + b"content-length: +3\r\n\r\nabc",
    "a_length_without_end": H + b"content-length: 99999999999999999999999\r\n\r\nabc",
    "a_folded_header": H + b"x: a\r\n b\r\ncontent-length: 3\r\n\r\nabc",
    "a_folded_coding": H + b"transfer-encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "bare_line_feeds": b"POST /hot HTTP/1.1\nhost: a\ncontent-length: 3\n\nabc",
    "a_bare_line_feed": H + b"x: a\ncontent-length: 3\r\n\r\nabc",
    "a_bare_return": H + b"x: a\rcontent-length: 3\r\n\r\nabc",
    "an_unknown_coding": H + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a_coding_before_chunks": H + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "a_coding_after_chunks": H + b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "two_codings": H + b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n",
    **{
        f"{first}_and_chunks_in_two_lines": H
        + b"transfer-encoding: %b\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" % first.encode()
        for first in ("gzip", "xchunked", "identity", "chunked")
    },
    "chunks_in_1.0": H.replace(b"1.1", b"1.0") + b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "a_space_after_a_name": H + b"content-length : 3\r\n\r\nabc",
    "a_nul": H + b"x: a\0b\r\ncontent-length: 3\r\n\r\nabc",
    "chunks_with_line_feeds": H + b"transfer-encoding: chunked\r\n\r\n3\nabc\n0\n\n",
    "a_negative_chunk": H + b"transfer-encoding: chunked\r\n\r\n-1\r\nabc\r\n0\r\n\r\n",
    "a_chunk_without_end": H + b"transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\nabc\r\n0\r\n\r\n",
    "http_2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "two_hosts": H + b"host: b\r\ncontent-length: 0\r\n\r\n",
    "two_markers": H
    + b"inference-header-content-length: 1\r\ninference-header-content-length: 2\r\ncontent-length: 0\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "no_http": b"hello\r\n",
    "connect": b"CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\nabc",
}


@pytest.mark.parametrize("name", SMUGGLED)
def test_what_may_be_read_in_two_ways_is_refused_in_json_and_ends_the_connection(name):
    async def scenario(listener):
        client = await listener.client()
        await client.send(post("/slow") + SMUGGLED[name] + post("/hot-smuggled"))
        listener.route.open.set()
        assert (await client.answer())[0] == 200  # what came before it is answered first
        status, headers, body = await client.answer()
        assert status in (400, 405, 501) and headers["connection"] == "close"
        assert headers["content-type"] == "application/json" and json.loads(body)["error"]
        assert await client.ended()
        assert listener.route.asked == [b"/slow"]

    run(scenario)


@pytest.mark.parametrize("chunks", [b"zz\r\n", b"3\r\nabcd\r\n"])
@pytest.mark.parametrize("path", ["/hot", "/no", "/else"])
def test_a_body_that_breaks_off_in_nonsense_ends_the_connection(path, chunks):
    async def scenario(listener):
        client = await listener.client()
        await client.send(post(path, b"3\r\nabc\r\n", chunks=True))
        await asyncio.sleep(0.01)
        await client.send(chunks + post("/hot-smuggled"))
        status, *_ = await client.answer()
        assert status == (403 if path == "/no" else 400) and await client.ended()
        assert listener.route.asked == [] and listener.shared.budget.taken == 0

    run(scenario)


@pytest.mark.parametrize("data", [b"POST /", b"POST /hot HTTP/1.1\r\nx: "], ids=["url", "header"])
def test_a_head_without_end_is_given_up_on(data):
    async def scenario(listener):
        client = await listener.client()
        await client.send(data + b"a" * (HEAD_LIMIT + 1))
        status, headers, _ = await client.answer()
        assert (status, headers["connection"]) == (431, "close") and await client.ended()

    run(scenario)


@pytest.mark.parametrize("lines", [[f"a{i}: b" for i in range(HEADERS)], ["a: " + "b" * HEAD_LIMIT]])
def test_a_whole_head_may_not_be_larger_either(lines):
    async def scenario(listener):
        client = await listener.client()
        await client.send(post("/hot", b"", *lines))
        status, headers, _ = await client.answer()
        assert (status, headers["connection"]) == (431, "close") and await client.ended()
        assert listener.route.asked == []

    run(scenario)


def test_chunks_of_single_bytes_are_a_body_and_extensions_without_end_are_none():
    async def scenario(listener):
        client = await listener.client()
        await client.send(post("/hot", b"1\r\nx\r\n" * 50_000 + b"0\r\n\r\n", chunks=True))
        assert await client.text() == "200 /hot " + "x" * 50_000
        await client.send(post("/hot", b"1;" + b"e" * (HEAD_LIMIT + 1000), chunks=True))
        assert (await client.answer())[0] == 400 and await client.ended()

    run(scenario)


@pytest.mark.parametrize("path", ["/hot", "/else"])
def test_an_offer_to_upgrade_is_passed_over(path):
    """Java's client makes one with its first request."""

    async def scenario(listener):
        client = await listener.client()
        lines = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAAA")
        for _ in range(2):
            await client.send(post(path, b"abc", *lines) + post("/hot", b"next"))
            assert await client.text() == f"200 {path} abc"
            assert await client.text() == "200 /hot next"

    run(scenario)


def test_a_fault_of_the_route_costs_one_request(caplog):
    async def scenario(listener):
        client = await listener.client()
        await client.send(post("/broken"))
        status, _, body = await client.answer()
        assert status == 500 and "internal" in json.loads(body)["error"] and "KeyError" not in body.decode()
        await client.send(post("/hot"))
        assert await client.text() == "200 /hot "

    run(scenario)
    assert "a fault of ours" in caplog.text


def test_a_client_that_left_is_known_to_whoever_answers_it():
    async def scenario(listener):
        seen = noted(listener.route)
        client = await listener.client()
        await client.send(post("/slow", b"x" * 1000))
        await until(lambda: seen)
        client.close()
        await until(lambda: seen[0].gone)
        listener.route.open.set()
        await until(lambda: not listener.shared.budget.taken)

    run(scenario)


def test_malformed_requests_are_counted_not_logged_one_by_one(caplog):
    async def scenario(listener):
        caplog.set_level("INFO")
        for _ in range(50):
            client = await listener.client()
            await client.send(b"nonsense\r\n\r\n")
            assert (await client.answer())[0] == 400
        listener.later(0)

    run(scenario)
    told = [record.getMessage() for record in caplog.records if "malformed" in record.getMessage()]
    assert sum(int(line.removesuffix(" malformed requests were refused")) for line in told) == 50
    assert len(told) < 25  # one for each second that it took
    assert "Invalid HTTP" not in caplog.text
