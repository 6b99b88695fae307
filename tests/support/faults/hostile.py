"""A life of an agent to which one hostile model file after the other is offered, as if signed.

A signature says who made a file, not what is in it: so the offers skip the repository, and everything
from the device's store on is real, above all the child that runs the self-test.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace

from edge_agent.errors import AgentError
from edge_agent.update.messages import LookResult, Offer, Ready, StepDone
from edge_agent.update.rules.model_state import HeldRelease, UpdateTarget
from fleet.protocol import oip
from fleet.protocol.manifest import Blob, Manifest, decode_manifest, encode_manifest
from tests.support.faults.mutants import mutant
from tests.support.faults.zygote import MODEL, Case, ForkedChildren, Life, Seen
from tests.support.models import inputs

FIRST = 1000  # the release number of seed 0


class Offering:
    """A look at a channel that wants one release, every byte of which is here. Implements `LookChild`."""

    def __init__(self, looked: Any, held: HeldRelease) -> None:
        self._looked, self._held = looked, held

    async def look(self, asked: Any) -> list[Any]:
        return [LookResult(looked=self._looked), Offer(model=MODEL, target=UpdateTarget(held=self._held)), Ready()]

    async def step(self, step: Any) -> AsyncIterator[Any]:
        yield StepDone()

    async def close(self) -> None:
        pass


class OfferingChildren(ForkedChildren):
    """Real trials; looks that find what the test put there."""

    next: Offering

    async def start(self) -> Any:
        return self.next


class HostileLife(Life):
    """Offers the mutants of `case.mutants` to an agent that serves a good release."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        assert case.mutants is not None
        self._mutants = case.mutants
        self._children = OfferingChildren(Path(case.directory), None)
        self._start_by(self._children)
        folder = Path(self._mutants.folder)
        self._manifest = decode_manifest((folder / "manifest.json").read_bytes())
        self._good = (folder / "model").read_bytes()
        self.outcomes: dict[str, int] = {}

    async def run(self) -> Seen:
        seen = await super().run()  # starts and probes; `looks` is 0
        serving = seen.at_start.release
        for seed in range(self._mutants.first, self._mutants.first + self._mutants.count):
            await self._offer(seed)
            probe = await self._probe()
            if probe.release != serving or probe.logits != seen.at_start.logits:
                self._errors.append(f"seed {seed}: {probe.release} answers {probe.logits}")
        return replace(await super().run(), at_start=seen.at_start, outcomes=self.outcomes)

    async def _offer(self, seed: int) -> None:
        updater = self._agent.updater
        data = mutant(self._good, seed)
        held = self._put(data, FIRST + seed)
        self._children.next = Offering(updater.file.state.looked, held)
        for _ in range(2):  # a self-test that was killed is tried once more
            with self._task():
                await self._look_quietly()
        state = updater.file.model(MODEL)
        outcome = _kind(state.reason, state.detail)
        if state.active == held:  # it passed: it must stand requests, too, and is then sent back
            outcome = "passed"
            await self._ask()
            self._agent.slots.slot(MODEL).active.failures += 1
            await updater.judge(MODEL)
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        (Path(self._case.directory) / "blobs" / hashlib.sha256(data).hexdigest()).unlink(missing_ok=True)

    async def _look_quietly(self) -> None:
        with contextlib.suppress(AgentError):
            await self._agent.updater.look()

    def _put(self, data: bytes, number: int) -> HeldRelease:
        digest = hashlib.sha256(data).hexdigest()
        (Path(self._case.directory) / "blobs" / digest).write_bytes(data)
        for blob in (Path(self._mutants.folder) / "blobs").glob("*"):  # the look after a refusal has removed them
            here = Path(self._case.directory) / "blobs" / blob.name
            if not here.exists():
                here.write_bytes(blob.read_bytes())
        variant = replace(self._manifest.variants[0], blob=Blob(sha256=digest, size=len(data)))
        manifest: Manifest = replace(self._manifest, variants=(variant,))
        name = self._agent.updater.store.put_manifest(encode_manifest(manifest))
        return HeldRelease(release=number, variant=variant.name, manifest=name)

    async def _ask(self) -> None:
        """Requests that the self-test did not make; a failed one is an answer, too."""
        for x in (inputs(8, seed=9) * np.float32(1e3), inputs(1, seed=8)):
            request = oip.InferRequest(inputs=(oip.TensorValue("input", x),), parameters={"route": "edge"})
            with contextlib.suppress(AgentError):
                await self._agent.engine.infer(MODEL, "", request)


def _kind(reason: str, detail: str) -> str:
    if died := re.search(r"died with code (-?\d+)", detail):
        return f"child died, {died[1]}"
    return "not loaded" if "refuses" in detail or "cannot" in detail else reason or "nothing"
