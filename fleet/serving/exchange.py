"""A hot request and its answer, from the headers to the last byte that is held of it."""

from __future__ import annotations

from fleet.serving.budget import ByteBudget
from fleet.serving.port import HotRequest, Reply


class _NoEvent:
    """Nobody waits for a hot request's body piece by piece."""

    def set(self) -> None:
        """Nothing to do."""


class Exchange:
    """Stands where uvicorn has a request-response cycle, whose first four attributes it shares.

    Attributes:
        response_complete, disconnected, more_body, keep_alive: as uvicorn's.
        limit: bytes that the body may have.
        reply: an answer that does not wait for the body.
        waiting: for its turn.
        expects: the client waits for `100 Continue` before it sends the body.
        size: bytes of the body that have come; `held` of them are counted in the budget.
    """

    message_event = _NoEvent()
    # As most exchanges have it to their end; one is made for each request.
    response_complete = disconnected = waiting = expects = False
    more_body = True
    reply: Reply | None = None
    size = held = 0

    def __init__(self, request: HotRequest, limit: int, *, keep_alive: bool) -> None:
        self.request, self.limit, self.keep_alive = request, limit, keep_alive
        self.parts: list[bytes] = []

    @property
    def open(self) -> bool:
        """True if it can still be refused: nobody has begun to answer it."""
        return self.reply is None and not self.response_complete and (self.more_body or self.waiting)

    def add(self, piece: bytes) -> bool:
        """Take a piece of the body; False when it is more than the limit."""
        self.parts.append(piece)
        self.size += len(piece)
        return self.size <= self.limit

    def whole(self) -> HotRequest:
        """The request with the body that its pieces make."""
        parts, self.parts = self.parts, []
        self.request.body = parts[0] if len(parts) == 1 else b"".join(parts)
        return self.request

    def hold(self, budget: ByteBudget) -> None:
        """Count all that has come."""
        budget.taken += self.size - self.held
        self.held = self.size

    def give_back(self, budget: ByteBudget) -> None:
        """Count nothing any more."""
        budget.taken -= self.held
        self.held = 0
