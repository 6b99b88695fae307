"""`POST /v2/models/{name}[/versions/{v}]/infer` from the bytes of a request to those of its answer: the hot route.

A request whose caller, release and model are in memory is answered on the connection it came on; whatever needs a look
at the database first goes on as ASGI, where it may wait (`routes`), and comes back here.
"""

from __future__ import annotations

import asyncio
import gzip
import re
from collections.abc import Callable
from typing import NamedTuple, cast

import msgspec

from cloud_hub.errors import BusyError, DeadlineError, HubError, error_code
from cloud_hub.identity.admission import Admission
from cloud_hub.inference.loaded import Loaded, LoadedRelease
from cloud_hub.inference.metrics import Answers
from fleet.protocol import oip
from fleet.protocol.asking import inputs_of, labels_of
from fleet.protocol.deadlines import deadline_s
from fleet.protocol.errors import ProtocolError
from fleet.protocol.refusals import LATER, STATUS
from fleet.rpc import Refusal
from fleet.runtimes.cost import INFLATED, check_answer, check_json, inflate, request_limit, request_too_large
from fleet.serving import ByteBudget, HotRequest, Reply

PATH = re.compile(rb"/v2/models/([a-z0-9][a-z0-9-]{0,62})(?:/versions/([0-9]{1,9}))?/infer/?")
MARKER = oip.HEADER.encode()
RETRY_S = 1
CHALLENGE = b"www-authenticate: Bearer\r\n"
ZIPPED = 1024  # bytes of an answer; a smaller one is not worth it
IN_THREAD = 64 << 10  # bytes; compressing more would hold up others
_JSON = b"content-type: application/json\r\n"
_BINARY = b"content-type: application/octet-stream\r\ninference-header-content-length: %d\r\n"
_GZIP = b"content-encoding: gzip\r\n"


class RequestHead(NamedTuple):
    """The facts about a request before its answer.

    `limit` is the most bytes that one to its model can need. `served` is None while the model may have to be loaded,
    and `asked` until the body is read.
    """

    limit: int
    longest_s: float
    served: LoadedRelease | None = None
    asked: oip.InferRequest | None = None


class InferEndpoint:
    """Implements `fleet.serving.HotRoute`. `budget` is the listener's; `longest_s` the hub's own deadline."""

    def __init__(
        self, admission: Admission, loaded: Loaded, budget: ByteBudget, answers: Answers, *, longest_s: float
    ) -> None:
        self._admission, self._loaded, self._budget = admission, loaded, budget
        self.answers = answers
        self._longest_s = longest_s

    def begin(self, request: HotRequest) -> int | Reply | None:
        """The most bytes of the body, a refusal, or None: for ASGI."""
        match = PATH.fullmatch(request.target)
        if match is None or request.method != b"POST":
            return None
        model = match[1].decode()
        try:
            caller = self._admission.find(request.headers.get(b"authorization", b"").decode("latin-1"))
            served = self._loaded.find(model, (match[2] or b"").decode()) if caller is not None else None
            if caller is None or served is None:
                return None
            self._admission.take(caller, model)
        except HubError as error:
            return self.refusal(error)
        return self.enter(request, served)

    def enter(self, request: HotRequest, served: LoadedRelease, longest_s: float | None = None) -> int:
        """Take a request of a caller who may make it, to be answered in the hub's own deadline, or in `longest_s`.

        Returns:
            The most bytes of its body.
        """
        request.context = RequestHead(served.body_limit, longest_s or self._longest_s, served)
        return request_limit(served.body_limit, binary=MARKER in request.headers)

    def enter_unloaded(self, request: HotRequest, limit: int) -> int:
        """As `enter`, where the release may not be in memory.

        Args:
            limit: its `body_limit`, bytes.
        """
        request.context = RequestHead(limit, self._longest_s)
        return request_limit(limit, binary=MARKER in request.headers)

    async def load(self, request: HotRequest, model: str, version: str, *, later: bool = False) -> LoadedRelease:
        """Read a request that has entered, and bring its release into memory in the request's own time.

        A request that is answered `later` has its own time then, and only the hub's for this.

        Raises:
            ProtocolError: the request's fault. HubError: no such release, or as `loaded`.
        """
        head = cast(RequestHead, request.context)._replace(served=self._loaded.find(model, version))
        request.context = head
        asked = await self.read(request)
        served = await self.loaded(model, version, None if later else asked, request.began)
        request.context = head._replace(served=served, asked=asked)
        return served

    async def loaded(self, model: str, version: str, asked: oip.InferRequest | None, began: float) -> LoadedRelease:
        """A release, in memory within the time that a request has; a longer load goes on for those who ask later.

        Args:
            asked: the request; None for the hub's own deadline.
            began: when its first byte came, by the event loop's clock.

        Raises:
            HubError: no such release, it cannot be loaded, or not in time.
        """
        try:
            async with asyncio.timeout_at(self._until(asked, began, self._longest_s)):
                return await self._loaded.get(model, version)
        except TimeoutError:
            why = f"{model!r} was not loaded within the request's time"
            raise DeadlineError(why, subject=model, hint="ask again later: it is being loaded") from None

    def too_large(self, request: HotRequest, size: int) -> Reply:
        """413, which names the binary extension where that would help."""
        return self.refusal(request_too_large(size, request.context.limit, binary=MARKER in request.headers))

    async def answer(self, request: HotRequest) -> Reply:
        """The answer, an error included. Its time is counted from the request's first byte."""
        head: RequestHead = request.context
        served = cast(LoadedRelease, head.served)
        try:
            asked = head.asked or await self.read(request)
            response = await self.infer(served, asked, request.began, lambda: request.gone, head.longest_s)
            body, length = _written(response, asked)
            headers = _JSON if length is None else _BINARY % length
            if len(body) > ZIPPED and b"gzip" in request.headers.get(b"accept-encoding", b""):
                body, headers = await _zipped(body), headers + _GZIP
        except (ProtocolError, HubError) as error:
            return self.refusal(error)
        self.answers.counted(200, asyncio.get_running_loop().time() - request.began)
        return Reply(200, headers, body)

    async def infer(
        self,
        served: LoadedRelease,
        asked: oip.InferRequest,
        began: float,
        gone: Callable[[], bool],
        longest_s: float | None = None,
    ) -> oip.InferResponse:
        """The answer of a release, whatever the request came by.

        Args:
            began: when its first byte came, by the event loop's clock.
            gone: whether nobody waits any more; then it is not run when its turn comes.
            longest_s: the deadline where the request has none; the hub's own by default.

        Raises:
            ProtocolError: the request's fault. HubError: too late, a full queue, or the model failed.
        """
        now = asyncio.get_running_loop().time
        try:
            inputs = inputs_of(asked, served.manifest)
            until = self._until(asked, began, longest_s or self._longest_s)
            outputs = await served.batcher.submit(inputs, until, gone)
        except (ProtocolError, HubError):
            served.statistics.failed(now() - began)
            raise
        took_s = now() - began
        served.statistics.succeeded(served.rows(inputs), took_s)
        return oip.InferResponse(
            model_name=served.model,
            model_version=str(served.number),
            id=asked.id,
            parameters={**served.parameters, "latency_us": int(took_s * 1e6)},
            outputs=tuple(oip.TensorValue(name, array) for name, array in outputs.items()),
            labels=labels_of(served.manifest, asked),
        )

    def refusal(self, error: HubError | ProtocolError) -> Reply:
        """An error as the protocol's clients read it."""
        code, text, later_s = refusal_of(error)
        status = STATUS[code]
        self.answers.counted(status, None)
        more = b"retry-after: %d\r\n" % later_s if later_s else CHALLENGE if status == 401 else b""
        body = {"error": text.encode("utf-8", "replace").decode(), "code": code}
        return Reply(status, _JSON + more, msgspec.json.encode(body))

    @staticmethod
    def _until(asked: oip.InferRequest | None, began: float, most_s: float) -> float:
        own_s = deadline_s(asked.parameters) if asked is not None else None
        return began + min(own_s or most_s, most_s)

    async def read(self, request: HotRequest) -> oip.InferRequest:
        """The request in the body of one that has entered; raises as `infer`."""
        head: RequestHead = request.context
        body, most = request.body, head.limit
        coding = request.headers.get(b"content-encoding")
        try:
            marker = request.headers.get(MARKER)
            if coding is not None:
                body = await self._inflated(body, coding.decode("latin-1"), most, binary=marker is not None)
            length = oip.parse_header(marker.decode("latin-1") if marker is not None else None)
            check_json(body, length)
            return oip.decode_request(body, length, limit=most)
        except (ProtocolError, HubError):
            if head.served is not None:
                head.served.statistics.failed(0.0)
            raise

    async def _inflated(self, body: bytes, coding: str, limit: int, *, binary: bool) -> bytes:
        size = min(request_limit(limit, binary=binary), INFLATED * len(body))
        if not self._budget.fits(size):
            raise BusyError(self._budget.full(size), subject="body")
        self._budget.taken += size
        try:
            # In a thread: a few bytes may inflate to the limit, and inflating holds no lock of the interpreter.
            return await asyncio.to_thread(inflate, body, coding, limit, binary=binary)
        finally:
            self._budget.taken -= size


def _written(response: oip.InferResponse, asked: oip.InferRequest) -> tuple[bytes, int | None]:
    check_answer(response, asked)
    return oip.encode_response(response, asked)


def refusal_of(error: HubError | ProtocolError) -> Refusal:
    """Return the refusal that tells of an error, over HTTP and gRPC alike."""
    code = error_code(error)
    text = f"{error}; {error.hint}" if error.hint else str(error)
    return Refusal(code, text, RETRY_S if STATUS[code] in LATER else 0)


async def _zipped(body: bytes) -> bytes:
    return gzip.compress(body, 1) if len(body) <= IN_THREAD else await asyncio.to_thread(gzip.compress, body, 1)
