"""A scripted hub: answers that a test lays down per (method, path), and a record of what was asked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import IO, Any

import msgspec

from fleet.client.transport import HttpResponse
from fleet.errors import UnreachableError

# What a hub sends with every answer of a kind, by the path asked for; a test lays down what it is about.
_ALWAYS: list[tuple[str, dict[str, Any]]] = [
    (r"/tokens.*", {"id": "t", "kind": "claim", "created_at": 0.0, "token": "el1.t.s"}),
    (r"/devices/[^/?]+/commands/.*", {}),
    (r"/devices/[^/?]+/commands", {"id": "c", "device": "d", "kind": "diagnose"}),
    (r"/devices/[^/?]+/set-aside", {"id": 1, "received_at": 0.0, "reason": "malformed"}),
    (r"/devices.*", {"id": "d", "channel": "stable", "state": "online"}),
    (r"/models/[^/?]+/releases/\d+/signing", {"payload": "", "version": 1}),
    (r"/models/[^/?]+/releases.*", {"model": "m", "number": 1, "status": "published", "created_at": 0.0}),
    (r"/models/[^/?]+/(retrain|tune)|/jobs.*", {"id": "j", "kind": "retrain", "state": "queued"}),
    (r"/models.*", {"name": "m", "created_at": 0.0}),
    (
        r"/channels.*",
        {"name": "stable", "version": 1, "updated_at": 0.0, "document": {"channel": "stable", "version": 1}},
    ),
    (r"/rollouts/[^/?]+/events", {"id": 1, "rollout": "r", "at": 0.0, "event": "started"}),
    (
        r"/rollouts.*",
        {
            "id": "r",
            "model": "m",
            "channel": "stable",
            "release": 2,
            "from_release": 1,
            "state": "running",
            "plan": {
                "id": "r",
                "model": "m",
                "channel": "stable",
                "release": 2,
                "from_release": 1,
                "stages": [],
                "salt": "s",
            },
            "progress": {},
        },
    ),
    (r"/drift.*", {"model": "m", "state": "watching"}),
    (r"/alarms.*", {"id": 1, "model": "m", "status": "open"}),
    (r"/samples/labels", {"labelled": 0}),
    (r"/samples.*|/snapshots.*", {"id": "s", "model": "m"}),
    (r"/audit.*", {"id": 1, "at": 0.0, "actor": "operator:t", "action": "a", "subject": "s"}),
]


def whole(path: str, document: Any) -> Any:
    """`document` with what a hub always sends at this path, also in each item of a list."""
    always = next((known for pattern, known in _ALWAYS if re.fullmatch(pattern, path)), {})
    if not isinstance(document, dict) or "error" in document:
        return document
    if "items" in document:
        return {**document, "items": [{**always, **item} for item in document["items"]]}
    return {**always, **document}


class ScriptedHub:
    """A `fleet.client.Transport`. Several answers to one request come one after the other; the last one stays."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, bytes, dict[str, str]]] = []
        self._answers: dict[tuple[str, str], list[HttpResponse]] = {}
        self.reachable = True

    def on(self, method: str, path: str, *documents: Any, status: int = 200) -> ScriptedHub:
        for document in documents or ({},):
            body = document if isinstance(document, bytes) else msgspec.json.encode(whole(path, document))
            answer = HttpResponse(status=status, headers={}, body=body)
            self._answers.setdefault((method, "/api/v1" + path), []).append(answer)
        return self

    def send(
        self, method: str, path: str, *, body: bytes | IO[bytes] | None, headers: Mapping[str, str], timeout: float
    ) -> HttpResponse:
        if not self.reachable:
            raise UnreachableError("connection refused", subject="hub", hint="is it running?")
        data = body if isinstance(body, bytes) else body.read() if body is not None else b""
        self.asked.append((method, path, data, dict(headers)))
        answers = self._answers.get((method, path))
        if answers is None:
            return HttpResponse(
                status=404, headers={}, body=b'{"error":"no such thing","code":"not-found","hint":"look"}'
            )
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def sent(self, method: str, path: str) -> list[Any]:
        """The JSON bodies that came for (method, path)."""
        return [msgspec.json.decode(body) for m, p, body, _ in self.asked if (m, p) == (method, "/api/v1" + path)]
