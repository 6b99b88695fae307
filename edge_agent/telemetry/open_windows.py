"""The window in which a request, an audit or a comparison counts, by what serves here now."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from edge_agent.serving.policy import Policies
from edge_agent.serving.slots import Served, Slots
from edge_agent.telemetry.windows import Builder, Key, Windows, pair_key


class OpenWindows:
    """The open windows of all models. `full` is set when one has as many requests as the channel lets it have."""

    def __init__(
        self, slots: Slots, policies: Policies, *, clock: Callable[[], float], rng: Callable[[], float]
    ) -> None:
        """Open windows for what `slots` serve.

        Args:
            slots: what serves, by model.
            policies: what the channel says of a model: its auditor, and how large a window grows.
            clock: seconds since 1970.
            rng: uniform in [0, 1); draws the rows that a sketch is made of.
        """
        self._slots, self._policies, self._clock = slots, policies, clock
        self._windows = Windows(rng)
        self._replaced: list[Builder] = []
        self.full = asyncio.Event()
        self.draw = self._windows.draw

    def of(self, model: str, release: int, variant: str) -> tuple[Builder, Served | None]:
        """Find the window of a request that a release answered or refused.

        Args:
            model: its name.
            release: the number of the release; 0 where none was here.
            variant: the variant's name.

        Returns:
            The window, and the release itself as long as it serves.
        """
        slot = self._slots.slot(model)
        served = slot.active if slot is not None else None
        if served is not None and served.release.number != release:
            served = None
        pairing = pair_key(slot.pairing) if slot is not None and release else None
        key = Key(model, release, variant, self._policies.entry(model).audit.auditor, pairing)
        return self.current(key, served), served

    def current(self, key: Key, served: Served | None) -> Builder:
        """The window of `key`, which `served` makes the model's current one; None where another release serves."""
        now = self._clock()
        if served is None:  # an answer of the release that was just replaced, or of the cloud alone
            return self._windows.late(key, now, 0)
        manifest = served.release.manifest
        builder, replaced = self._windows.open(key, now, len(manifest.labels), served.encoder, manifest.inputs)
        self._replaced += [old for old in replaced if not old.empty]
        return builder

    def late(self, key: Key, classes: int) -> Builder:
        """The window of `key`, which does not become the model's current one; `classes` is how many labels it has."""
        return self._windows.late(key, self._clock(), classes)

    def due(self) -> list[Builder]:
        """Take out the windows that are full, old or replaced; before there is a channel, only replaced ones."""
        channel = self._policies.channel
        closed = self._taken()
        if channel is not None:
            telemetry = channel.telemetry
            closed += self._windows.due(self._clock(), telemetry.window_s, telemetry.window_requests)
        return closed

    def take_all(self) -> list[Builder]:
        """Take out every window that has something to tell."""
        return self._taken() + self._windows.take_all()

    def _taken(self) -> list[Builder]:
        replaced, self._replaced = self._replaced, []
        return replaced
