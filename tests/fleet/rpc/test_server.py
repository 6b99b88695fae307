"""Connections and calls that a client holds without using them: they keep no place, and end by themselves."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from fleet.protocol import oip
from fleet.protocol.errors import MalformedError, ProtocolError
from fleet.rpc import Refusal, messages, server
from fleet.rpc.port import Bounds
from fleet.rpc.server import RpcServer, most
from fleet.rpc.service import RpcService
from fleet.serving import ByteBudget
from fleet.tracing import OFF

LARGE = np.zeros(1 << 20, np.float32)  # an answer that no window of HTTP/2 takes in at once
INFER = messages.InferRequest(model_name="m", raw_input_contents=[bytes(4)])
INFER.inputs.add(name="x", datatype="FP32", shape=[1])
INFER = INFER.SerializeToString()


class Echo:
    """An `Inference` of one model that answers with `LARGE`, and raises `error` where there is one."""

    def __init__(self, error: Exception | None = None) -> None:
        self.budget, self.tracer = ByteBudget(1 << 20), OFF
        self.error = error
        self.counts: list[Refusal | None] = []
        self.read: list[tuple[str, str]] = []
        self.asked = threading.Event()

    def ready(self) -> bool:
        return True

    async def known(self, authorization: str) -> None:
        pass

    async def admit(self, authorization: str, model: str | None) -> None:
        pass

    async def metadata(self, model: str, version: str) -> dict[str, Any]:
        return {"name": model}

    async def body_limit(self, model: str, version: str) -> int:
        return 1 << 20

    async def infer(
        self, model: str, version: str, request: oip.InferRequest, began: float, gone: Callable[[], bool]
    ) -> oip.InferResponse:
        self.asked.set()
        if self.error is not None:
            raise self.error
        return oip.InferResponse(model_name=model, outputs=(oip.TensorValue("y", LARGE),))

    def unread(self, model: str, version: str, error: ProtocolError) -> None:
        self.read.append((model, version))

    def counted(self, refusal: Refusal | None, seconds: float) -> None:
        self.counts.append(refusal)

    def refusal(self, error: Exception) -> Refusal | None:
        return Refusal("invalid", str(error)) if isinstance(error, ProtocolError) else None


class Messages:
    """A call's context from which a message can be read at any time."""

    async def read(self) -> bytes:
        return INFER


@contextlib.asynccontextmanager
async def serving(inference: Any, **options: Any) -> AsyncIterator[int]:
    """The port of a server."""
    made = RpcServer(inference, "127.0.0.1:0", message_limit=1 << 20, bounds=Bounds(**options))
    bound, port = made.bind()
    task = asyncio.create_task(made.serve(bound))
    await asyncio.sleep(0)
    try:
        yield port
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def ask(port: int, call: str = "ServerReady", data: bytes = b"") -> Any:
    with grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.max_receive_message_length", -1)]) as channel:
        answer = messages.calls()[call][1].FromString
        return channel.unary_unary(f"/{messages.SERVICE}/{call}", None, answer)(data, timeout=60)


def answered(port: int) -> Any:
    """The answer to a call that is begun again until there is a place for it."""
    until = time.monotonic() + 30.0
    while True:
        try:
            return ask(port)
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED and time.monotonic() < until


def status(port: int, call: str, data: bytes) -> str:
    with pytest.raises(grpc.RpcError) as caught:
        ask(port, call, data)
    return str(caught.value.code().name)


def ended(connection: socket.socket) -> bool:
    """Tell whether the server ends it; it may say something first. One that does not block: has ended it already."""
    try:
        while connection.recv(4096):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        pass
    return True


def test_more_connections_than_there_may_be_end_at_once() -> None:
    async def scenario() -> None:
        async with serving(Echo(), connections=3) as port:
            held = [socket.create_connection(("127.0.0.1", port), 60) for _ in range(3)]
            with socket.create_connection(("127.0.0.1", port), 60) as fourth:
                assert await asyncio.to_thread(ended, fourth)
            for one in held:
                one.setblocking(False)
            assert not any(ended(one) for one in held)
            for one in held:
                one.close()

    asyncio.run(scenario())


def test_connections_that_say_nothing_end_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HANDSHAKE_MS", 200)

    async def scenario() -> None:
        async with serving(Echo(), connections=3) as port:
            held = [socket.create_connection(("127.0.0.1", port), 60) for _ in range(3)]
            assert all([await asyncio.to_thread(ended, one) for one in held])
            assert (await asyncio.to_thread(ask, port)).ready
            for one in held:
                one.close()

    asyncio.run(scenario())


def silent(port: int, call: str, never: threading.Event) -> Any:
    """The end of a call whose message does not come."""

    def nothing() -> Iterator[bytes]:
        never.wait(60)
        yield from ()

    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            return list(channel.stream_stream(f"/{messages.SERVICE}/{call}")(nothing(), timeout=60))
        except grpc.RpcError as error:
            return error.code().name, error.details()
        finally:
            never.set()


@pytest.mark.parametrize("call", ["ModelMetadata", "ModelInfer"])
def test_a_call_whose_message_does_not_come_ends(call: str) -> None:
    async def scenario() -> Any:
        async with serving(Echo(), calls=1, request_s=0.05) as port:
            found = await asyncio.to_thread(silent, port, call, threading.Event())
            assert (await asyncio.to_thread(ask, port)).ready  # there is its place again
            return found

    assert asyncio.run(scenario()) == ("DEADLINE_EXCEEDED", "the request did not come within 0.05 s")


def test_what_is_open_to_anybody_waits_for_no_message() -> None:
    async def scenario() -> Any:
        async with serving(Echo(), request_s=60.0) as port:
            return await asyncio.to_thread(silent, port, "ServerLive", threading.Event())

    assert len(asyncio.run(scenario())) == 1


def test_a_message_that_is_none_is_refused() -> None:
    async def scenario() -> None:
        async with serving(Echo()) as port:
            for call in ("ModelMetadata", "ModelInfer"):
                assert await asyncio.to_thread(status, port, call, b"\xff") == "INVALID_ARGUMENT"
            asked = messages.kind("ModelMetadataRequest")(name="m").SerializeToString()
            assert (await asyncio.to_thread(ask, port, "ModelMetadata", asked)).name == "m"

    asyncio.run(scenario())


@pytest.mark.parametrize("call", ["ModelInfer", "ModelStreamInfer"])
def test_a_call_whose_answer_is_not_read_ends_with_its_connection(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    monkeypatch.setattr(server, "AGE_MS", 200)
    monkeypatch.setattr(server, "AGE_GRACE_MS", 200)

    inference = Echo()

    def beside_one_that_is_not_read(port: int) -> bool:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            asked = channel.stream_stream(f"/{messages.SERVICE}/{call}")(iter([INFER]))
            assert inference.asked.wait(60) and asked.is_active()
            found = bool(answered(port))
            with contextlib.suppress(grpc.RpcError):
                list(asked)
            return found

    async def scenario() -> bool:
        async with serving(inference, calls=1) as port, asyncio.timeout(60):
            return await asyncio.to_thread(beside_one_that_is_not_read, port)

    assert asyncio.run(scenario())


@pytest.mark.parametrize(
    ("error", "taken", "code"),
    [(MalformedError("no"), 0, "invalid"), (RuntimeError("a fault"), 0, "internal"), (None, 1 << 20, "busy")],
)
def test_what_is_refused_is_counted_as_that(error: Exception | None, taken: int, code: str) -> None:
    inference = Echo(error)
    inference.budget.taken = taken

    async def scenario() -> None:
        async with serving(inference) as port:
            await asyncio.to_thread(status, port, "ModelInfer", INFER)

    asyncio.run(scenario())
    assert [refusal and refusal.code for refusal in inference.counts] == [code]


def test_a_request_of_a_stream_that_has_ended_ends_too() -> None:
    """One that had begun, and waited for its place behind those that ran."""

    async def scenario() -> None:
        begun, over = asyncio.Event(), asyncio.Event()

        async def infer(*asked: Any) -> Any:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                over.set()

        running: asyncio.Queue[Any] = asyncio.Queue(1)
        running.put_nowait(None)
        made = RpcService(Echo())  # type: ignore[arg-type]
        made._streamed = infer  # type: ignore[method-assign]
        reader = asyncio.create_task(made._begin(Messages(), running))
        async with asyncio.timeout(60):
            await begun.wait()
            reader.cancel()
            await over.wait()

    asyncio.run(scenario())


def test_what_cannot_be_read_is_the_asked_versions() -> None:
    inference = Echo()
    asked = messages.InferRequest(model_name="m", model_version="3")
    asked.inputs.add(name="x", datatype="NONE", shape=[1])

    async def scenario() -> None:
        async with serving(inference) as port:
            await asyncio.to_thread(status, port, "ModelInfer", asked.SerializeToString())

    asyncio.run(scenario())
    assert inference.read == [("m", "3")]


@pytest.mark.parametrize(("files", "connections"), [(1 << 20, 512), (1024, 256), (2, 1), (resource.RLIM_INFINITY, 512)])
def test_connections_leave_files_for_others(monkeypatch: pytest.MonkeyPatch, files: int, connections: int) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (files, files))
    assert most() == connections
