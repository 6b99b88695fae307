"""Shares rate, day's budget and disk of the device among the models that are fetched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from edge_agent.errors import CorruptBlobError, UnreadableError
from edge_agent.update.disk.store import Store
from edge_agent.update.messages import StepName, StepRequest
from edge_agent.update.rules.install_window import DayBudget
from edge_agent.update.rules.model_state import HeldRelease
from fleet.protocol.errors import ProtocolError
from fleet.protocol.manifest import Blob

AT_ONCE = 4  # models under way: each costs the memory of one child
PATCH_SHARE = 1 / 3  # of a look, for applying a patch, which is not resumed in the next one as a fetch is


class Share:
    """One step under way: `step` is what its child is asked, `received` the bytes that came so far."""

    def __init__(self, step: StepRequest) -> None:
        self.step, self.received = step, 0

    def more(self, received: int) -> int:
        """Count the new ones of the `received` bytes."""
        new, self.received = received - self.received, received
        return new

    @property
    def outstanding(self) -> int:
        """Bytes of the day's budget that it was given and has not used."""
        return max(0, (self.step.allowance or 0) - self.received)


class Shares:
    """Gives each step of a look its share; what one was given, no other gets while that one runs.

    `look_s`: seconds after which a look ends what it fetches.
    """

    def __init__(self, store: Store, budget: DayBudget, *, look_s: float) -> None:
        self._store, self._budget, self._patch_s = store, budget, look_s * PATCH_SHARE
        self._waiting = 0
        self._under_way: dict[str, Share] = {}

    def expect(self, count: int) -> None:
        """`count` models will be fetched in this look, so that the first leaves something to the last."""
        self._waiting = count

    @contextmanager
    def of(self, model: str, kind: StepName, held: HeldRelease, max_bytes_per_s: int) -> Iterator[Share]:
        """The share of one step, from now to its end; `max_bytes_per_s` is the whole device's, 0 no limit.

        Args:
            model: its name.
            kind: of the step.
            held: the release that the step is about.
            max_bytes_per_s: the whole device's; 0 for no limit.

        Raises:
            DiskFullError: a fetch does not fit beside those under way.
        """
        figures = self._figures(held, max_bytes_per_s) if kind == "fetch" else {}
        share = self._under_way[model] = Share(StepRequest(step=kind, model=model, held=held, **figures))
        try:
            yield share
        finally:
            del self._under_way[model]

    def _figures(self, held: HeldRelease, max_bytes_per_s: int) -> dict[str, Any]:
        running = [share for share in self._under_way.values() if share.step.step == "fetch"]
        waiting = max(1, self._waiting)
        self._waiting = waiting - 1
        beside = self._make_room(held)
        rate, left = max_bytes_per_s, self._budget.left()
        if rate:
            rest = rate - sum(share.step.max_bytes_per_s for share in running)
            slots = max(1, min(AT_ONCE - len(running), waiting))
            rate = max(1, rate // AT_ONCE, rest // slots)  # one that nobody expected must not stand still
        if left is not None:
            left = max(0, left - sum(share.outstanding for share in running)) // min(AT_ONCE, waiting)
        return {"max_bytes_per_s": rate, "allowance": left, "patch_s": self._patch_s, "beside": beside}

    def _make_room(self, held: HeldRelease) -> int:
        """Make sure that `held` fits; returns the bytes that the others under way still miss."""
        others = {blob for share in self._under_way.values() for blob in self._blobs(share.step.held)}
        return self._store.make_room(self._blobs(held), others)

    def _blobs(self, held: HeldRelease) -> set[Blob]:
        try:
            manifest = self._store.manifest(held.manifest)
            return set(manifest.needed_for(manifest.variant(held.variant)))
        except (CorruptBlobError, UnreadableError, ProtocolError):  # the child will say so
            return set()
