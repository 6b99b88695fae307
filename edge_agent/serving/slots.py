"""The models in service: one active release per model, swapped without failing a request.

A request takes a reference when it starts and gives it back when it ends; a release that was
replaced is closed with its last reference. All methods but the loading itself run on the event loop.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from edge_agent import runtimes
from edge_agent.errors import ActivationError, UnreadableError
from edge_agent.host import memory
from edge_agent.ports import InstalledRelease, LoadedModel, ReleaseHealth, Runtime, load_variant
from edge_agent.serving import pieces
from edge_agent.serving.failures import error_in_words, unforeseen
from edge_agent.serving.instances import Instances, most_interpreters
from edge_agent.serving.joint import Joint
from edge_agent.serving.loading import WALL_S, Loads
from edge_agent.serving.run_times import RunTimes
from edge_agent.serving.scores import calibration_of
from fleet import tasks
from fleet.protocol.channel import RolloutRef
from fleet.protocol.drift_encoder import Encoder, decode_encoder
from fleet.protocol.manifest import Variant
from fleet.protocol.selftest import decode_vectors, from_array
from fleet.runtimes.cost import body_limit
from fleet.serving import Statistics

log = logging.getLogger(__name__)

Arrays = dict[str, np.ndarray[Any, Any]]
REFUSAL_LIMIT = 200  # characters of what is said of a refused request: names in it are the application's
TIMED = 256  # run times that a release's latency is judged by


class Served:
    """One loaded release. `references` counts requests in flight plus one while it is in a slot."""

    def __init__(
        self,
        release: InstalledRelease,
        model: LoadedModel,
        runtime: str,
        encoder: Encoder | None,
        load: Callable[[], LoadedModel] | None = None,
    ) -> None:
        """`load` makes a further interpreter, where one answers a single request at a time."""
        self.release = release
        self.runtime = runtime
        self.encoder = encoder
        self.requests = 0
        self.failures = 0
        self.refused = 0
        self.former = release.former
        self.pipeline = release.manifest.pipeline
        self.references = 1
        self.newly_refused = 0
        self.refusal = ""
        self._model = model
        self._cut = False  # see `pieces`
        limit = most_interpreters(release.variant.blob.size)
        self.instances = Instances(model, load, limit)
        self.joint = Joint(model, load, self._vectors)
        self.task = tasks.of_manifest(release.manifest)
        self.calibration = calibration_of(release)
        self.body_limit = body_limit(release.manifest)
        self.costs = RunTimes()
        self.statistics = Statistics()
        inputs = release.manifest.inputs
        self.batched = bool(inputs) and all(spec.batched for spec in inputs)  # each input's first axis counts rows
        self._rows_of = inputs[0].name if self.batched else None
        self._times: deque[float] = deque(maxlen=TIMED)

    def cost_s(self, inputs: Arrays) -> float:
        """Estimate the seconds that a run of these inputs may take by the clock; see `RunTimes`."""
        return self.costs.clock_s(_values(inputs))

    def slow(self, inputs: Arrays) -> bool:
        """Return whether these inputs may take so long that the run should leave the event loop."""
        return self.costs.slow(_values(inputs))

    def rows(self, inputs: Arrays) -> int:
        """Count the rows of these inputs; 1 without a batch."""
        first = inputs.get(self._rows_of) if self._rows_of is not None else None
        return int(first.shape[0]) if first is not None and first.ndim else 1

    def run(self, inputs: Arrays, model: LoadedModel | None = None, *, requests: int = 0) -> Arrays:
        """Run the model, or another interpreter of it; raises what the runtime does. The end is counted by `count`.

        Args:
            requests: of one row each that these inputs are, the rest is filling; 0 for one request as it is.
        """
        model, values = model or self._model, _values(inputs)
        ended = self.costs.begin(values)
        outputs = pieces.run(model, inputs) if self._cut else model.run(inputs)
        took = ended()
        self.costs.learn(values, took)
        self.statistics.ran(requests or self.rows(inputs), took.clock)
        self._times.extend([took.clock / requests] * requests if requests else [took.clock])
        return outputs

    def warm_up(self) -> None:
        """Answer golden vectors, so that no request pays for what a runtime does on its first run.

        Before the swap, off the event loop. A failure is left to the requests, which probation counts.
        """
        try:
            requests = self._vectors()
            values = _values(requests[0])
            ended = self.costs.begin(values)
            self._model.run(requests[0])  # the first run is slower than all others, which errs on the safe side
            self.costs.learn(values, ended())
            self._cut = self.release.variant.runtime == "litert" and pieces.may_be_cut(self._model, requests)
        except Exception as error:  # whatever a runtime raises, as in `Slots._load`
            name, number = self.release.model, self.release.number
            log.warning("model %s release %d is not warmed up: %s", name, number, error, exc_info=unforeseen(error))

    def _vectors(self) -> list[Arrays]:
        vectors = decode_vectors(self.release.open_blob(self.release.manifest.selftest.blob.sha256))
        return [{array.name: from_array(array) for array in vector.inputs} for vector in vectors]

    def health(self) -> ReleaseHealth:
        """Since this activation; run times of failed runs do not count."""
        times = sorted(self._times)
        # The nearest-rank percentile.
        p95 = times[math.ceil(0.95 * len(times)) - 1] * 1e6 if times else 0.0
        return ReleaseHealth(
            requests=self.requests,
            failures=self.failures,
            newly_refused=self.newly_refused,
            refusal=self.refusal,
            timed=len(times),
            p95_us=p95,
        )

    def typical_s(self) -> float:
        """The (upper) median of its latest run times, in seconds; 0 where nothing ran here yet."""
        times = sorted(self._times)
        return times[len(times) // 2] if times else 0.0

    def count(self, *, failed: bool) -> None:
        """A request ended, well or badly; what probation is judged by."""
        self.requests += 1
        self.failures += failed

    def refuse(self, why: str, *, newly: bool) -> None:
        """A request was refused; see `ports.ReleaseHealth`."""
        self.refused += 1
        if newly:
            if not self.newly_refused:
                name, number = self.release.model, self.release.number
                log.warning(
                    "model %s release %d refuses what the one before it took: %s", name, number, why[:REFUSAL_LIMIT]
                )
            self.newly_refused += 1
            self.refusal = why[:REFUSAL_LIMIT]

    def count_anew(self) -> None:
        """Health counts from here on."""
        self.requests = self.failures = self.refused = self.newly_refused = 0
        self.refusal = ""
        self._times.clear()

    def release_reference(self) -> None:
        """Give one reference back; the last one closes the model."""
        self.references -= 1
        if self.references == 0:
            self.joint.close()
            self.instances.close()
            log.info("model %s release %d unloaded", self.release.model, self.release.number)


class Slot:
    """The releases of one model: the active one, and the previous one while it is held."""

    def __init__(self) -> None:
        self.active: Served | None = None
        self.previous: Served | None = None
        self.pairing: RolloutRef | None = None


class Slots:
    """Implements `edge_agent.ports.Activator`."""

    def __init__(
        self,
        runtime_for: Callable[[Variant], Runtime] = runtimes.for_variant,
        *,
        load_wall_s: float = WALL_S,
        before_swap: Callable[[], None] = lambda: None,
        tidy: Callable[[], None] = memory.give_back,
    ) -> None:
        """Serve nothing yet.

        Args:
            runtime_for: gives the runtime that loads a variant.
            load_wall_s: seconds that a load may take.
            before_swap: counts what has ended for the release that answered it.
            tidy: called in a thread after a swap.
        """
        self._runtime_for = runtime_for
        self._loads = Loads(load_wall_s, Served.release_reference)
        self._before_swap, self._tidy = before_swap, tidy
        self._slots: dict[str, Slot] = {}

    async def activate(
        self, release: InstalledRelease, previous: InstalledRelease | None, pairing: RolloutRef | None
    ) -> None:
        """Load `release` (and `previous`, as the shadow of paired audits), then swap.

        Raises:
            ActivationError: `release` cannot be loaded, or not in time; what served before still serves. A `previous`
                that cannot be loaded is logged and left out, since the new release works without it.
        """
        slot = self._slots.setdefault(release.model, Slot())
        fresh = await self._reuse_or_load(slot, release)
        fresh.former = release.former
        shadow: Served | None = None
        if previous is not None:
            try:
                shadow = await self._reuse_or_load(slot, previous)
            except (ActivationError, UnreadableError) as error:
                log.warning("model %s: previous release %d stays unloaded: %s", release.model, previous.number, error)
        self._before_swap()
        old = (slot.active, slot.previous)
        slot.active, slot.previous, slot.pairing = fresh, shadow, pairing
        for served in old:
            if served is not None:
                served.release_reference()
        await asyncio.to_thread(self._tidy)
        log.info("model %s serves release %d (%s)", release.model, release.number, release.variant.name)

    async def deactivate(self, model: str) -> None:
        """Take a model out of service; unknown names are fine."""
        slot = self._slots.pop(model, None)
        for served in (slot.active, slot.previous) if slot else ():
            if served is not None:
                served.release_reference()

    def health(self, model: str) -> ReleaseHealth:
        """Requests, failures and run times of the active release since its activation."""
        slot = self._slots.get(model)
        if slot is None or slot.active is None:
            return ReleaseHealth(requests=0, failures=0)
        return slot.active.health()

    def names(self) -> list[str]:
        """Models with an active release."""
        return sorted(name for name, slot in self._slots.items() if slot.active is not None)

    def slot(self, model: str) -> Slot | None:
        """The slot of a model, None when nothing is active there."""
        slot = self._slots.get(model)
        return slot if slot is not None and slot.active is not None else None

    def expects(self, model: str) -> bool:
        """Return whether a release of the model serves, or is to as soon as it can be loaded."""
        return model in self._slots

    def expected(self) -> list[str]:
        """The models that `expects` is true of."""
        return list(self._slots)

    @contextmanager
    def lease(self, model: str, version: str = "") -> Iterator[Served | None]:
        """The release to answer with, held for the length of the block; None when it is not here."""
        served = self.find(model, version)
        if served is None:
            yield None
            return
        served.references += 1
        try:
            yield served
        finally:
            served.release_reference()

    def find(self, model: str, version: str = "") -> Served | None:
        """The release to answer with; None when it is not here. For the event loop, until it yields: see `lease`."""
        slot = self._slots.get(model)
        if slot is None:
            return None
        if not version:
            return slot.active
        for served in (slot.active, slot.previous):
            if served is not None and str(served.release.number) == version:
                return served
        return None

    async def _reuse_or_load(self, slot: Slot, release: InstalledRelease) -> Served:
        for served in (slot.active, slot.previous):
            if served is not None and _same(served.release, release):
                served.references += 1  # the slot's reference for its new place
                if served is not slot.active:
                    served.count_anew()
                return served
        what = f"model {release.model} release {release.number}"
        return await self._loads.one(what, functools.partial(self._load, release))

    def _load(self, release: InstalledRelease) -> Served:
        try:
            runtime = self._runtime_for(release.variant)
            load = functools.partial(_interpreter, runtime, release)
            model = load()
            encoder = None
            if release.manifest.sketch is not None:
                encoder = decode_encoder(release.open_blob(release.manifest.sketch.encoder.sha256))
            more = load if release.variant.runtime == "litert" else None
            served = Served(release, model, runtime.name, encoder, more)
        except UnreadableError:
            raise
        except Exception as error:  # a runtime may raise what it likes; the other models must not miss their start
            what = f"model {release.model} release {release.number} cannot be loaded"
            if unforeseen(error):
                log.exception("%s", what)
            raise ActivationError(
                f"{what}: {error_in_words(error)}", hint="the previous release keeps serving"
            ) from error
        served.warm_up()
        return served


def _interpreter(runtime: Runtime, release: InstalledRelease) -> LoadedModel:
    return load_variant(runtime, release.open_blob, release.manifest, release.variant)


def _values(inputs: Arrays) -> int:
    found = 0
    for array in inputs.values():  # no generator: this is asked twice of each request
        found += array.size
    return found


def _same(one: InstalledRelease, other: InstalledRelease) -> bool:
    return one.number == other.number and one.variant.blob == other.variant.blob and one.manifest == other.manifest
