"""One POST over real TLS on loopback: delivered, refused, late, endless, and to no other place than the checked one."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from cloud_hub.events.addresses import Address
from cloud_hub.events.schedule import AttemptResult
from cloud_hub.events.sending import BODY, HEAD, post
from tests.support.https import Receiver, receiver

SOON_S, LATE_S = 0.3, 60.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory):
    with receiver(tmp_path_factory.mktemp("tls"), "127.0.0.1", "hooks.example") as made:
        yield made


def sent(
    server: Receiver,
    *answers,
    host="127.0.0.1",
    path="/hook?k=v",
    allow_private=True,
    timeout_s=LATE_S,
    resolve=None,
    ca=None,
):
    server.answers, server.got = list(answers), []
    context = ssl.create_default_context(cafile=ca or server.ca)
    call = post(
        Address(host, server.port, path),
        b'{"a":1}',
        {"webhook-id": "evt_1"},
        context,
        allow_private=allow_private,
        timeout_s=timeout_s,
        resolve=resolve,
    )
    return asyncio.run(call)


def test_a_request_arrives_as_it_was_meant(server):
    assert sent(server, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").status == 200
    (got,) = server.got
    assert (got.line, got.body) == ("POST /hook?k=v HTTP/1.1", b'{"a":1}')
    assert got.headers["webhook-id"] == "evt_1" and got.headers["content-type"] == "application/json"
    assert got.headers["host"] == f"127.0.0.1:{server.port}"


def test_a_refusal_says_its_begin_and_how_long_to_wait(server):
    answer = b"HTTP/1.1 503 Busy\r\nRetry-After: 77\r\nContent-Length: 13\r\n\r\nno\x1b[2J\nplease and more"
    outcome = sent(server, answer)
    assert (outcome.status, outcome.retry_after_s) == (503, 77.0)
    assert outcome.error == "it answered 503: no [2J please"


def test_a_refusal_that_repeats_the_path_does_not_show_it(server):
    """Slack's path is a secret, and what an answer says is shown to viewers and in the log."""
    for said in ("Cannot POST /services/T0A1B2C3/xoxb%2F1d3E?token=q1w2e3r4", "no T0A1B2C3, XOXB/1D3E, q1w2e3r4 here"):
        answer = f"HTTP/1.1 404 No\r\nContent-Length: {len(said)}\r\n\r\n{said}".encode()
        error = sent(server, answer, path="/services/T0A1B2C3/xoxb%2F1d3E?token=q1w2e3r4").error
        assert error.startswith("it answered 404: ") and "[hidden]" in error
        assert not [part for part in ("t0a1b2c3", "xoxb", "1d3e", "q1w2e3r4") if part in error.lower()]


def test_who_wants_another_protocol_has_not_got_it(server):
    asked = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    assert sent(server, asked) == AttemptResult(error="it wants to speak another protocol than HTTP")


def test_no_redirect_is_followed(server):
    other = f"https://127.0.0.1:{server.port}/other".encode()
    outcome = sent(server, b"HTTP/1.1 307 Over there\r\nContent-Length: 0\r\nLocation: " + other + b"\r\n\r\n")
    assert outcome.error == "it answered 307: redirects are not followed" and len(server.got) == 1


@pytest.mark.parametrize("begin", [b"", b"HTTP/1.1 200 OK", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_a_target_that_hangs_costs_no_longer_than_its_time(server, begin):
    outcome = sent(server, begin + Receiver.HANG, timeout_s=SOON_S)
    assert outcome.status == 0 and outcome.error == f"no answer within {SOON_S:g} s"


def test_an_answer_counts_though_its_body_never_ends(server):
    assert sent(server, b"HTTP/1.1 200 OK\r\n\r\n" + Receiver.HANG).status == 200
    endless = b"HTTP/1.1 500 Oh\r\n\r\n" + b"x" * (20 * BODY) + Receiver.HANG
    assert sent(server, endless).error.startswith("it answered 500: xxx")
    assert sent(server, b"HTTP/1.1 500 Oh\r\n\r\nsome" + Receiver.HANG, timeout_s=SOON_S).status == 500


def test_an_endless_head_and_what_is_no_answer_are_failures(server):
    head = b"HTTP/1.1 200 OK\r\n" + b"X-Pad: " + b"y" * (2 * HEAD) + Receiver.HANG
    for answer in (head, b"220 smtp.example\r\n", b"HTTP/1.1 2", b""):
        outcome = sent(server, answer)
        assert outcome.status == 0 and outcome.error, answer[:20]


def test_loopback_is_refused_unless_it_is_allowed(server):
    for host in ("127.0.0.1", "localhost"):
        outcome = sent(server, b"", host=host, allow_private=False)
        assert outcome.error.startswith("not sent: ") and "allow_private" in outcome.error
    assert server.got == []


def test_a_name_is_resolved_once_and_what_was_checked_is_what_is_connected_to(server):
    """With a name that means another address at each look there is no second look."""
    looks: list[str] = []

    async def resolve(host: str, port: int) -> list[str]:
        looks.append(host)
        return ["127.0.0.1"] if len(looks) == 1 else ["93.184.215.14"]

    assert sent(server, b"HTTP/1.1 204 x\r\n\r\n", host="hooks.example", resolve=resolve).status == 204
    assert looks == ["hooks.example"] and server.got[0].headers["host"] == f"hooks.example:{server.port}"


def test_a_name_with_one_address_inside_is_not_connected_to(server):
    async def resolve(host: str, port: int) -> list[str]:
        return ["93.184.215.14", "127.0.0.1"]

    assert "127.0.0.1" in sent(server, b"", host="hooks.example", allow_private=False, resolve=resolve).error
    assert server.got == []


def test_the_next_address_is_tried_when_the_first_does_not_answer(server):
    async def resolve(host: str, port: int) -> list[str]:
        return ["127.0.0.2", "127.0.0.1"]  # nobody listens at the first

    assert sent(server, b"HTTP/1.1 204 x\r\n\r\n", host="hooks.example", resolve=resolve).status == 204


def test_a_certificate_must_be_of_the_name_and_of_a_known_authority(server, tmp_path: Path):
    async def resolve(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    assert "certificate is not valid" in sent(server, b"", host="other.example", resolve=resolve).error
    with receiver(tmp_path) as stranger:
        assert "certificate is not valid" in sent(stranger, b"", ca=server.ca).error
    assert server.got == [] == stranger.got


def test_names_that_are_none_and_ports_that_are_closed_are_failures_in_words(server):
    async def resolve(host: str, port: int) -> list[str]:
        raise OSError(-2, "Name or service not known")

    assert sent(server, b"", host="none.example", resolve=resolve).error == "Name or service not known"
    closed = Address("127.0.0.1", 1, "/")
    outcome = asyncio.run(post(closed, b"", {}, ssl.create_default_context(), allow_private=True, timeout_s=LATE_S))
    assert outcome.status == 0 and outcome.error
