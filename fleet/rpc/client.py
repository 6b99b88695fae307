"""Calls to somebody else's `inference.GRPCInferenceService`; from any thread."""

from __future__ import annotations

from collections.abc import Sequence

import grpc

from fleet.protocol import oip
from fleet.rpc import messages
from fleet.rpc.asking import decode_answer, encode_call
from fleet.rpc.port import CallError

MOST_PAUSE_MS = 5_000  # until a server that was away is tried again; a call meanwhile fails at once


class RpcClient:
    """A channel to one server, made when it is first used."""

    def __init__(self, target: str, *, secure: bool, root: bytes | None, answer_limit: int) -> None:
        """`target` is host:port, `root` the server's authority in PEM (None: those that gRPC knows)."""
        options = [
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", answer_limit),
            ("grpc.max_reconnect_backoff_ms", MOST_PAUSE_MS),
            ("grpc.enable_http_proxy", 0),  # inputs go where the channel says, and nowhere between
        ]
        if secure:
            self._channel = grpc.secure_channel(target, grpc.ssl_channel_credentials(root), options)
        else:
            self._channel = grpc.insecure_channel(target, options)
        self._infer = self._channel.unary_unary(f"/{messages.SERVICE}/ModelInfer", None, None)

    def encode(self, request: oip.InferRequest, model: str, version: str, *, raw: bool) -> bytes:
        """See `asking.encode_call`."""
        return encode_call(request, model, version, raw=raw)

    def decode(self, data: bytes) -> oip.InferResponse:
        """See `asking.decode_answer`."""
        return decode_answer(data)

    def infer(self, data: bytes, headers: Sequence[tuple[str, str]], timeout_s: float) -> bytes:
        """The bytes of the answer; raises CallError."""
        try:
            answer: bytes = self._infer(data, metadata=tuple(headers), timeout=timeout_s)
        except grpc.RpcError as error:
            trailing = dict(error.trailing_metadata() or ())
            raise CallError(error.code().name, str(error.details()), trailing.get("retry-after")) from error
        return answer

    def close(self) -> None:
        """End what is under way."""
        self._channel.close()
