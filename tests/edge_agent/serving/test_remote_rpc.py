"""A gRPC server in the hub's place: another agent's, and servers that refuse, are away, busy, or answer nonsense."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from cloud_hub.identity.ca import Authority, create_authority
from edge_agent.errors import UnreachableError
from edge_agent.ports import Credential
from edge_agent.runtimes import capabilities
from edge_agent.serving import remote_rpc
from edge_agent.serving.cloud import CloudError
from edge_agent.serving.credentials import origin
from edge_agent.serving.remote import RemoteServers
from fleet.protocol import oip
from fleet.protocol.channel import ROUTING_GRPC, Remote
from fleet.rpc import messages
from fleet.rpc.codec import decode_request, encode_response
from tests.support import models

UNSURE = np.zeros((1, 4), np.float32)
REQUEST = oip.InferRequest(inputs=(oip.TensorValue("input", UNSURE),), binary_outputs=oip.ALL)
Behave = Callable[[Any, Any], bytes]


class Server:
    """Answers `ModelInfer` as `behave` says; remembers requests and metadata."""

    def __init__(self, behave: Behave, pair: tuple[bytes, bytes] | None = None) -> None:
        """`pair` are key and certificate of TLS."""
        self.asked: list[tuple[Any, dict[str, str]]] = []
        self._server = grpc.server(futures.ThreadPoolExecutor(2))

        def infer(data: bytes, context: Any) -> bytes:
            message = messages.InferRequest.FromString(data)
            self.asked.append((message, dict(context.invocation_metadata())))
            return behave(message, context)

        handler = grpc.unary_unary_rpc_method_handler(infer, None, None)
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(messages.SERVICE, {"ModelInfer": handler}),)
        )
        if pair is None:
            self.url = f"grpc://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        else:
            port = self._server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
            self.url = f"grpcs://127.0.0.1:{port}"
        self._server.start()

    def stop(self) -> None:
        self._server.stop(None).wait()


def triton(message: Any, context: Any) -> bytes:
    request = decode_request(message.SerializeToString())
    outputs = (oip.TensorValue("logits", models.answer(request.inputs[0].array)),)
    answer = oip.InferResponse(model_name=message.model_name, model_version="4", outputs=outputs)
    return encode_response(answer, request).SerializeToString()


def typed_only(message: Any, context: Any) -> bytes:
    if message.raw_input_contents:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "no raw_input_contents here")
    return triton(message, context)


def refuses(status: grpc.StatusCode, *trailing: tuple[str, str]) -> Behave:
    def behave(message: Any, context: Any) -> bytes:
        context.set_trailing_metadata(trailing)
        context.abort(status, "no")
        raise AssertionError

    return behave


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def begin(behave: Behave, pair: tuple[bytes, bytes] | None = None) -> Server:
        servers.append(Server(behave, pair))
        return servers[-1]

    yield begin
    for one in servers:
        one.stop()


def ask(remote: Remote, times: int = 1, timeout_s: float = 30.0, **more: Any) -> list[oip.InferResponse]:
    servers = RemoteServers(more.get("credentials", {}), more.get("counted", lambda up, down: None))

    async def scenario() -> list[oip.InferResponse]:
        return [await servers.server(remote).infer("tiny", 3, REQUEST, timeout_s) for _ in range(times)]

    try:
        return asyncio.run(scenario())
    finally:
        servers.close()


@pytest.mark.parametrize(
    ("behave", "binary", "raw"),
    [
        (triton, True, [True, True]),
        (triton, False, [False, False]),
        (typed_only, True, [True, False, False]),  # what it refuses is tried once
    ],
)
def test_what_servers_differ_in_is_met(serve: Any, behave: Behave, binary: bool, raw: list[bool]) -> None:
    server = serve(behave)
    for answer in ask(Remote(url=server.url, binary=binary), times=2):
        np.testing.assert_allclose(answer.outputs[0].array, models.answer(UNSURE), atol=1e-6)
    assert [bool(message.raw_input_contents) for message, _ in server.asked] == raw


def test_names_and_versions_are_the_channels_and_bytes_are_counted(serve: Any) -> None:
    server = serve(triton)
    spent: list[tuple[int, int]] = []
    ask(Remote(url=server.url), counted=lambda up, down: spent.append((up, down)))
    ask(Remote(url=server.url, model="large", version="7"))
    asked = [(message.model_name, message.model_version) for message, _ in server.asked]
    assert asked == [("tiny", ""), ("large", "7")] and spent[0][0] > 16 and spent[0][1] > 12


@pytest.mark.parametrize(
    ("status", "trailing", "http", "later"),
    [
        (grpc.StatusCode.PERMISSION_DENIED, (), 403, None),
        (grpc.StatusCode.NOT_FOUND, (), 404, None),
        (grpc.StatusCode.INVALID_ARGUMENT, (), 400, None),
        (grpc.StatusCode.UNKNOWN, (), 500, None),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, (("retry-after", "3"),), 429, 3.0),
        (grpc.StatusCode.UNAVAILABLE, (("retry-after", "2"),), 503, 2.0),
    ],
)
def test_statuses_are_told_as_over_http(serve: Any, status: Any, trailing: Any, http: int, later: float | None) -> None:
    with pytest.raises(CloudError) as caught:
        ask(Remote(url=serve(refuses(status, *trailing)).url))
    assert (caught.value.status, caught.value.retry_after_s) == (http, later)


def test_who_is_away_or_says_no_more_is_unreachable(serve: Any) -> None:
    gone = serve(triton)
    gone.stop()
    for url in (gone.url, serve(refuses(grpc.StatusCode.UNAVAILABLE)).url):
        with pytest.raises(UnreachableError):
            ask(Remote(url=url))


def test_an_answer_that_does_not_come_in_time_is_given_up(serve: Any) -> None:
    let_go = threading.Event()
    server = serve(lambda message, context: let_go.wait(30) and b"")
    with pytest.raises(UnreachableError, match="DEADLINE_EXCEEDED"):
        ask(Remote(url=server.url), timeout_s=0.2)
    let_go.set()


def test_an_answer_that_is_none(serve: Any) -> None:
    with pytest.raises(CloudError) as caught:
        ask(Remote(url=serve(lambda *_: b"\xff\xff").url))
    assert caught.value.status == 502


def test_a_credential_goes_to_its_own_origin_alone(serve: Any, tmp_path: Path) -> None:
    server, other = serve(triton), serve(triton)
    (tmp_path / "token").write_text("s3cret\n")
    credentials = {
        "key": Credential(origin=server.url, file=str(tmp_path / "token"), header="X-Api-Key", scheme=""),
        "http": Credential(origin=server.url.replace("grpc://", "http://"), file=str(tmp_path / "token")),
    }
    ask(Remote(url=server.url, credential="key"), credentials=credentials)
    assert server.asked[0][1]["x-api-key"] == "s3cret"
    for url, name in ((other.url, "key"), (server.url, "http"), (server.url, "unknown")):
        with pytest.raises(CloudError) as caught:
            ask(Remote(url=url, credential=name), credentials=credentials)
        assert caught.value.status == 401
    assert not other.asked and len(server.asked) == 1


def test_tls_is_judged_by_the_credentials_authority(serve: Any, tmp_path: Path) -> None:
    ca = create_authority(time.time())
    made = Authority(ca).server((), time.time())
    server = serve(triton, (made.key, made.certificate))
    (tmp_path / "token").write_text("s3cret")
    (tmp_path / "ca.pem").write_bytes(ca.certificate)
    known = Credential(origin=server.url, file=str(tmp_path / "token"), ca_file=str(tmp_path / "ca.pem"))
    remote = Remote(url=server.url, credential="key")
    ask(remote, credentials={"key": known})
    assert server.asked[0][1]["authorization"] == "Bearer s3cret"
    with pytest.raises(UnreachableError):
        ask(remote, credentials={"key": Credential(origin=server.url, file=known.file)}, timeout_s=5.0)
    assert len(server.asked) == 1


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Any:
        raise ImportError("No module named 'grpc'")

    monkeypatch.setattr(remote_rpc, "load_client", missing)
    with pytest.raises(CloudError, match=r"edgeloop\[grpc\]") as caught:
        ask(Remote(url="grpc://127.0.0.1:1"))
    assert caught.value.status == 501


def test_an_agent_with_the_extra_may_be_required_to_have_it() -> None:
    assert ROUTING_GRPC in capabilities()


def test_origins_have_the_ports_of_their_schemes() -> None:
    assert origin("grpcs://A.example") == ("grpcs", "a.example", 443)
    assert origin("grpc://[::1]:8001") == ("grpc", "::1", 8001)
