"""Makes calls: paths, bodies, pages, and the errors that failed answers stand for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import IO, TypeVar
from urllib.parse import quote, urlencode

import msgspec
from pydantic import BaseModel, ValidationError

from fleet.api.base import Page, RequestModel
from fleet.client.transport import HttpResponse, Transport
from fleet.errors import BY_STATUS, FailedError, FleetError

API = "/api/v1"
TIMEOUT_S = 30.0
UPLOAD_TIMEOUT_S = 600.0

T = TypeVar("T")
Model = TypeVar("Model", bound=BaseModel)
Query = Sequence[tuple[str, str]]

_NOT_A_HUB = "does this address belong to an Edgeloop hub of this version?"
_NO_PATH = "Not Found"  # a hub's words for a path that it does not have; for all else it has words of its own


class Calls:
    """A transport and a token. What the hub refuses is raised as a `fleet.errors.FleetError`, in the hub's words."""

    def __init__(self, transport: Transport, token: str) -> None:
        self._transport = transport
        self._token = token

    def _get(self, path: str, kind: type[Model]) -> Model:
        return self._read(self._send("GET", path), path, kind)

    def _post(self, path: str, body: RequestModel | None, kind: type[Model], *, timeout: float = TIMEOUT_S) -> Model:
        return self._change("POST", path, body, kind, timeout=timeout)

    def _change(
        self, method: str, path: str, body: RequestModel | None, kind: type[Model], *, timeout: float = TIMEOUT_S
    ) -> Model:
        """Send a body, of which only what was given goes out, and read the answer."""
        data = b"{}" if body is None else body.model_dump_json(exclude_unset=True).encode()
        headers = {"content-type": "application/json"}
        return self._read(self._send(method, path, data, headers=headers, timeout=timeout), path, kind)

    def _delete(self, path: str, kind: type[Model]) -> Model:
        return self._read(self._send("DELETE", path), path, kind)

    def _items(self, path: str, kind: type[Page[T]], query: Query = (), *, limit: int | None = None) -> Iterator[T]:
        """Follow a list's cursors, page by page."""
        pairs, seen = list(query), 0
        while limit is None or seen < limit:
            page = self._get(f"{path}?{urlencode(pairs)}" if pairs else path, kind)
            for item in page.items[: None if limit is None else limit - seen]:
                seen += 1
                yield item
            if page.next is None:
                return
            pairs = [pair for pair in pairs if pair[0] != "after"] + [("after", str(page.next))]

    def _send(
        self,
        method: str,
        path: str,
        body: bytes | IO[bytes] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float = TIMEOUT_S,
    ) -> HttpResponse:
        return self._fetch(method, API + path, body, headers=headers, timeout=timeout)

    def _fetch(
        self,
        method: str,
        path: str,
        body: bytes | IO[bytes] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float = TIMEOUT_S,
    ) -> HttpResponse:
        """Like `_send`, for a path that is not below the API's."""
        known = {"authorization": f"Bearer {self._token}", "accept": "application/json"}
        return self._transport.send(method, path, body=body, headers={**known, **(headers or {})}, timeout=timeout)

    def _read(self, answer: HttpResponse, subject: str, kind: type[Model]) -> Model:
        check_answer(answer, subject)
        try:
            return kind.model_validate_json(answer.body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            what = f"{where}: {first['msg']}" if where else str(first["msg"])
            raise FailedError(f"the hub's answer is not one: {what}", subject=subject, hint=_NOT_A_HUB) from error


def check_answer(answer: HttpResponse, subject: str) -> None:
    """Raise the error that a failed answer stands for."""
    if not 200 <= answer.status < 300:
        raise error_of(answer, subject)


def error_of(answer: HttpResponse, subject: str) -> FleetError:
    """The error that a failed answer stands for, in the hub's own words when it sent some."""
    kind = BY_STATUS.get(answer.status, FailedError)
    try:
        document = msgspec.json.decode(answer.body)
    except msgspec.DecodeError:
        document = {}
    if not isinstance(document, dict) or not isinstance(document.get("error"), str):
        return kind(f"the hub answered with status {answer.status}", subject=subject, hint=_NOT_A_HUB)
    if answer.status == 404 and document["error"] == _NO_PATH:
        path = str(document.get("subject") or subject)
        return kind(f"the hub has no {path}: it is older than this client", subject=path, hint="upgrade the hub")
    return kind(
        document["error"],
        subject=str(document.get("subject") or subject),
        hint=str(document.get("hint") or ""),
        code=str(document.get("code") or ""),
    )


def path_of(*parts: str | int) -> str:
    """`/part/part`, with everything quoted that could break out of a part."""
    return "".join(f"/{quote(str(part), safe='')}" for part in parts)
