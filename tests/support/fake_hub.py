"""A scripted hub: answers that a test lays down per (method, path), and a record of what was asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO, Any

import msgspec

from fleet.errors import UnreachableError
from fleet.transport import Answer


class ScriptedHub:
    """A `fleet.transport.Transport`. Several answers to one request come one after the other; the last one stays."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, bytes, dict[str, str]]] = []
        self._answers: dict[tuple[str, str], list[Answer]] = {}
        self.reachable = True

    def on(self, method: str, path: str, *documents: Any, status: int = 200) -> ScriptedHub:
        for document in documents or ({},):
            body = document if isinstance(document, bytes) else msgspec.json.encode(document)
            answer = Answer(status=status, headers={}, body=body)
            self._answers.setdefault((method, "/api/v1" + path), []).append(answer)
        return self

    def send(
        self, method: str, path: str, *, body: bytes | IO[bytes] | None, headers: Mapping[str, str], timeout: float
    ) -> Answer:
        if not self.reachable:
            raise UnreachableError("connection refused", subject="hub", hint="is it running?")
        data = body if isinstance(body, bytes) else body.read() if body is not None else b""
        self.asked.append((method, path, data, dict(headers)))
        answers = self._answers.get((method, path))
        if answers is None:
            return Answer(status=404, headers={}, body=b'{"error":"no such thing","code":"not-found","hint":"look"}')
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def sent(self, method: str, path: str) -> list[Any]:
        """The JSON bodies that came for (method, path)."""
        return [msgspec.json.decode(body) for m, p, body, _ in self.asked if (m, p) == (method, "/api/v1" + path)]
