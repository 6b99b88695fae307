"""The calls of `inference.GRPCInferenceService` for `grpc.aio`, over an `Inference`.

A refusal ends its call with the status of `fleet.protocol.refusals.GRPC`; its word is in the trailing metadata as
`edgeloop-code`, and when to come back, in seconds, as `retry-after`. In a stream it is the `error_message` of an answer
that carries the request's id, and the stream goes on, unless nobody is known to send it. The caller's gRPC deadline is
one of the request's own. Answers of a stream come in the order of its requests, of which AHEAD run at a time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import grpc
import grpc.aio
from google.protobuf import json_format
from google.protobuf.message import DecodeError
from msgspec.structs import replace

from fleet.protocol.deadlines import bounded
from fleet.protocol.errors import MalformedError, ProtocolError, TooLargeError
from fleet.protocol.refusals import GRPC
from fleet.rpc import messages
from fleet.rpc.codec import decode_request, encode_response
from fleet.rpc.head import RpcHead, head_of
from fleet.rpc.port import IDLE_S, REQUEST_S, Inference, Refusal
from fleet.rpc.reading import next_message, retrieved
from fleet.serving import ByteBudget

log = logging.getLogger(__name__)

OPEN = frozenset({"ServerLive", "ServerReady", "ServerMetadata"})  # to anybody, as over HTTP
AHEAD = 8  # requests of one stream that run at a time
NAME = 256  # characters of a model or version
BROKEN = Refusal("internal", "internal error; the log has the reason")
Context = Any  # grpc.aio.ServicerContext; what it is generic in says nothing here


class _RefusedError(Exception):
    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.text)
        self.refusal = refusal


class _Caller:
    """`gone`: the call was cancelled, nobody waits for its answer."""

    gone = False


class Gate(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Refuses who is not known before a message of theirs is read, which may be large."""

    def __init__(self, service: RpcService) -> None:
        self._service = service

    async def intercept_service(self, continuation: Callable[..., Awaitable[Any]], details: Any) -> Any:
        """The call's handler, or one that refuses and reads nothing."""
        if details.method.rpartition("/")[2] in OPEN:
            return await continuation(details)
        self._service.follow(details.invocation_metadata)
        refusal = await self._service.unknown(details.invocation_metadata)
        if refusal is None:
            return await continuation(details)

        async def refuse(requests: Any, context: Context) -> AsyncIterator[Any]:
            await _abort(context, refusal)
            yield b""  # which makes it a stream's

        return grpc.stream_stream_rpc_method_handler(refuse)


class RpcService:
    """See the module; for one event loop.

    `idle_s` bounds how long a stream may lie still, `request_s` how long another call's message may take to come.
    """

    def __init__(self, inference: Inference, *, idle_s: float = IDLE_S, request_s: float = REQUEST_S) -> None:
        self._inference = inference
        self._idle_s, self._request_s = idle_s, request_s

    def handler(self) -> grpc.GenericRpcHandler:
        """All calls, for a server of `grpc.aio`, as streams of requests: it would wait for ever for a single one."""
        found = {}
        for name, (request, answer) in messages.calls().items():
            call, made = getattr(self, name), grpc.stream_unary_rpc_method_handler
            if name == "ModelStreamInfer":
                made = grpc.stream_stream_rpc_method_handler
            elif name == "ModelInfer":  # decoded by itself, once its cost is known
                call = self._single(call)
            else:
                call = self._single(self._told(call, request, answer), reads=name not in OPEN)
            found[name] = made(call, None, answer.SerializeToString)
        return grpc.method_handlers_generic_handler(messages.SERVICE, found)

    def _single(self, call: Callable[..., Awaitable[Any]], *, reads: bool = True) -> Callable[..., Awaitable[Any]]:
        """A call of one message and one answer; one that `reads` nothing is answered whatever is sent."""

        async def single(requests: Any, context: Context) -> Any:
            return await call(await self._message(context) if reads else b"", context)

        return single

    async def _message(self, context: Context) -> bytes:
        """The message of a call; the call is ended where none comes in time."""
        try:
            data = await next_message(context, self._request_s)
        except TimeoutError:
            await _abort(context, Refusal("deadline", f"the request did not come within {self._request_s:g} s"))
        if data is grpc.aio.EOF:
            await _abort(context, Refusal("invalid", "the call has ended without a request"))
        return bytes(data)

    def follow(self, sent: Any) -> None:
        """Let the call go on in the trace that its metadata name; it has a task of its own."""
        if self._inference.tracer.on:
            self._inference.tracer.follow({key: value for key, value in sent if isinstance(value, str)})

    async def unknown(self, sent: Any) -> Refusal | None:
        """Return why a call with this metadata is refused before it is read; None if it is not."""
        try:
            await self._inference.known(_authorization(sent))
        except Exception as error:  # noqa: BLE001 (the boundary of a call: told, or logged)
            return self._refusal(error)
        return None

    async def ServerLive(self, request: Any, context: Context) -> dict[str, Any]:
        """The process answers."""
        return {"live": True}

    async def ServerReady(self, request: Any, context: Context) -> dict[str, Any]:
        """Tell whether requests can be taken."""
        return {"ready": self._inference.ready()}

    async def ServerMetadata(self, request: Any, context: Context) -> dict[str, Any]:
        """Answer with the server's name, version and extensions."""
        return self._inference.server()

    async def ModelReady(self, request: Any, context: Context) -> dict[str, Any]:
        """Tell whether a model can take requests; one that does not exist cannot."""
        await self._admit(context, request.name, request.version)
        try:
            await self._inference.model_ready(request.name, request.version)
        except Exception as error:
            refusal = self._inference.refusal(error)
            if refusal is None or refusal.code != "not-found":
                raise
            return {"ready": False}
        return {"ready": True}

    async def ModelMetadata(self, request: Any, context: Context) -> dict[str, Any]:
        """Inputs and outputs."""
        await self._admit(context, request.name, request.version)
        return await self._inference.metadata(request.name, request.version)

    async def ModelConfig(self, request: Any, context: Context) -> dict[str, Any]:
        """The configuration."""
        await self._admit(context, request.name, request.version)
        return {"config": await self._inference.config(request.name, request.version)}

    async def ModelStatistics(self, request: Any, context: Context) -> dict[str, Any]:
        """Answer with the counts of a model, or of all."""
        caller = await self._admit(context, request.name or None, request.version)
        return await self._inference.statistics(caller, request.name, request.version)

    async def RepositoryIndex(self, request: Any, context: Context) -> dict[str, Any]:
        """Answer with the list of models."""
        caller = await self._admit(context, None)
        return {"models": await self._inference.index(caller, request.ready)}

    async def ModelInfer(self, data: bytes, context: Context) -> Any:
        """One request, one answer."""
        answer = await self._infer(data, context)
        if isinstance(answer, Refusal):
            await _abort(context, answer)
        return answer

    async def ModelStreamInfer(self, requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[Any]:
        """Requests as they come, answers in their order."""
        running: asyncio.Queue[asyncio.Task[Any] | None] = asyncio.Queue(AHEAD)
        reader = asyncio.create_task(self._begin(context, running))
        try:
            while (task := await running.get()) is not None:
                answer = await task
                if isinstance(answer, Refusal):
                    await _abort(context, answer)
                yield answer
        finally:
            reader.cancel()
            while not running.empty():
                left = running.get_nowait()
                if left is not None:
                    left.cancel()

    async def _begin(self, context: Context, running: asyncio.Queue[Any]) -> None:
        """Begin the stream's requests; None ends the queue."""
        try:
            while (data := await next_message(context, self._idle_s)) is not grpc.aio.EOF:
                await _put(running, self._streamed(data, context))
            await running.put(None)
        except TimeoutError:
            why = f"no request came for {self._idle_s:g} s"
            await _put(running, _said(Refusal("deadline", why)))
        except Exception as error:  # noqa: BLE001 (the boundary of a stream: told, or logged)
            await _put(running, _said(self._refusal(error)))

    async def _streamed(self, data: bytes, context: Context) -> Any:
        """The answer to a request of a stream; a Refusal ends the stream."""
        found = await self._infer(data, context)
        if not isinstance(found, Refusal):
            return messages.StreamResponse(infer_response=found)
        if found.code == "unauthenticated":
            return found
        answer = messages.StreamResponse(error_message=_text(found))
        answer.infer_response.id = _id_of(data)
        return answer

    async def _infer(self, data: bytes, context: Context) -> Any:
        """The answer to a request, or its Refusal; counted."""
        began = asyncio.get_running_loop().time()
        try:
            answer = await self._held(data, context, began)
        except Exception as error:  # noqa: BLE001 (the boundary of a request: told, or logged)
            refusal = self._refusal(error)
            self._inference.counted(refusal, 0.0)
            return refusal
        self._inference.counted(None, asyncio.get_running_loop().time() - began)
        return answer

    async def _held(self, data: bytes, context: Context, began: float) -> Any:
        """Answer, with the request's bytes counted in the budget meanwhile."""
        head, budget = head_of(data), self._inference.budget
        await self._admit(context, *head)
        if not budget.fits(len(data)):
            raise _RefusedError(Refusal("busy", budget.full(len(data)), 1))
        caller = _Caller()
        budget.taken += len(data)
        task = asyncio.create_task(self._answer(data, head, context, began, caller))
        task.add_done_callback(lambda done: _ended(done, budget, len(data)))
        try:
            return await asyncio.shield(task)  # a run that has begun goes on, as over HTTP
        except asyncio.CancelledError:
            caller.gone = True
            raise

    async def _answer(self, data: bytes, head: RpcHead, context: Context, began: float, caller: _Caller) -> Any:
        request = await self._decoded(data, head, context)
        return encode_response(await self._inference.infer(*head, request, began, lambda: caller.gone), request)

    async def _decoded(self, data: bytes, head: RpcHead, context: Context) -> Any:
        most = await self._inference.body_limit(*head)
        try:
            if len(data) > most:
                why = f"the request has {len(data)} bytes, at most {most} are allowed for this model"
                raise TooLargeError(why, subject="body")
            request = decode_request(data)
        except ProtocolError as error:
            self._inference.unread(*head, error)
            raise
        return replace(request, parameters=bounded(request.parameters, context.time_remaining()))

    async def _admit(self, context: Context, model: str | None, version: str = "") -> Any:
        """The caller, by the metadata `authorization`; names that cannot be any are refused here."""
        if len(model or "") > NAME or len(version) > NAME or "\0" in f"{model}{version}":
            raise MalformedError(f"a model or version has more than {NAME} characters, or a NUL", subject="model")
        return await self._inference.admit(_authorization(context.invocation_metadata()), model)

    def _told(
        self, call: Callable[..., Awaitable[dict[str, Any]]], request: Any, answer: Any
    ) -> Callable[..., Awaitable[Any]]:
        """A call that answers with a document, whose errors become statuses."""

        async def told(data: bytes, context: Context) -> Any:
            try:
                document = await call(_decoded(request, data), context)
                return json_format.ParseDict(document, answer(), ignore_unknown_fields=True)
            except Exception as error:  # noqa: BLE001 (the boundary of a call: told, or logged)
                refusal = self._refusal(error)
            await _abort(context, refusal)
            return None

        return told

    def _refusal(self, error: Exception) -> Refusal:
        if isinstance(error, _RefusedError):
            return error.refusal
        found = self._inference.refusal(error)
        if found is None:
            log.error("a gRPC call failed", exc_info=error)
        return found or BROKEN


def _authorization(sent: Any) -> str:
    found = [value for name, value in sent or () if name == "authorization"]
    return found[0] if len(found) == 1 and isinstance(found[0], str) else ""


async def _put(running: asyncio.Queue[Any], what: Coroutine[Any, Any, Any]) -> None:
    """Begin it and queue it; it ends where there is no stream any more to take it."""
    task = asyncio.create_task(what)
    try:
        await running.put(task)
    except asyncio.CancelledError:
        task.cancel()
        raise


def _decoded(kind: Any, data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise MalformedError(f"not a {kind.DESCRIPTOR.name}", subject="body") from error


def _ended(task: asyncio.Task[Any], budget: ByteBudget, size: int) -> None:
    budget.taken -= size
    retrieved(task)  # whoever still waited has heard it


async def _said(refusal: Refusal) -> Refusal:
    return refusal


async def _abort(context: Context, refusal: Refusal) -> None:
    trailing: list[tuple[str, str]] = [("edgeloop-code", refusal.code)]
    if refusal.later_s:
        trailing.append(("retry-after", str(refusal.later_s)))
    await context.abort(grpc.StatusCode[GRPC[refusal.code]], _text(refusal), tuple(trailing))


def _text(refusal: Refusal) -> str:
    return refusal.text.encode("utf-8", "replace").decode()  # a caller's half a character


def _id_of(data: bytes) -> str:
    """The id of a request that was refused, perhaps before it was decoded."""
    try:
        head_of(data)
        return str(messages.InferRequest.FromString(data).id)
    except Exception:  # noqa: BLE001 (it is no message: it has no id)
        return ""
