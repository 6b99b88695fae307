"""The one owner of a download: all files of a release, from whichever source, patched where that saves bytes.

One `Download` lives as long as the worker that looked. It finds what is here already, asks for the rest, says how far
it came, and hashes every file before it counts.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import time
from collections.abc import Callable, Iterable, Mapping

from edge_agent.config import AgentConfig
from edge_agent.errors import CorruptBlobError, DeltaError, UnreadableError
from edge_agent.ports import HubStreams
from edge_agent.update.disk.store import Store
from edge_agent.update.download.sources import Sources, mirrors
from edge_agent.update.download.throttle import DownloadPace
from edge_agent.update.download.transfer import Budgeted, Transfer
from edge_agent.update.messages import StepProgress, StepRequest
from edge_agent.update.rules.model_state import HeldRelease
from fleet.protocol.errors import ProtocolError
from fleet.protocol.manifest import Blob, Manifest

MOST_PATCHES = 4  # held files for which the hub is asked for a patch
SHOWN_S = 0.5  # between two words about how far it came

log = logging.getLogger(__name__)


class Download:
    """Fetches and verifies releases into `store`; `metered` false: the hub is a folder, whose bytes cost nothing."""

    def __init__(
        self,
        config: AgentConfig,
        store: Store,
        hub: HubStreams,
        said: Callable[[StepProgress], None],
        *,
        metered: bool = True,
    ) -> None:
        self._config, self._store, self._hub, self._said, self._metered = config, store, hub, said, metered
        asked = config.mirrors if metered else ()
        self._from = Sources(mirrors(asked, connect_timeout_s=config.connect_timeout_s), hub)

    def fetch(self, step: StepRequest, held: Mapping[str, Iterable[HeldRelease]]) -> None:
        """Fetch what is missing of a release; `held` are the releases that are here, by model.

        Raises:
            FetchError, UnreachableError: what came is kept, and resumed by the next call.
            DiskFullError: it does not fit. CorruptBlobError: every source has another file.
        """
        blobs = self.blobs(step.held)
        self._store.check_space(blobs)
        meter = _Meter(blobs, self._store, self._said, self._metered)
        pace = DownloadPace(
            min_bytes_per_s=self._config.min_bytes_per_s,
            grace_s=self._config.grace_s,
            max_bytes_per_s=step.max_bytes_per_s,
        )
        budget = Budgeted(step.allowance if self._metered else None)
        transfer = Transfer(pace, meter.came, budget, self._config.gap_timeout_s)
        try:
            for blob in blobs:
                with self._store.alone(blob):
                    self._try_delta(step, blob, held, transfer)
                    self._from.fetch(self._store, blob, transfer)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                self._store.check_space(blobs)  # somebody took the reserve, too: this says how much is missing
            raise
        finally:  # what came counts, whatever became of it
            meter.show()
        meter.show(share=1.0)

    def verify(self, held: HeldRelease) -> None:
        """Hash every file of a release, and give finished downloads their names.

        Raises:
            CorruptBlobError: one is missing or wrong; it is fetched again. OSError: this device's disk.
        """
        for blob in self.blobs(held):
            with self._store.alone(blob):
                self._store.verify(blob) if self._store.has(blob) else self._store.accept(blob)

    def blobs(self, held: HeldRelease) -> tuple[Blob, ...]:
        """The files that serving a release needs; raises CorruptBlobError, UnreadableError as `Store.manifest`."""
        manifest = self._store.manifest(held.manifest)
        return manifest.needed_for(manifest.variant(held.variant))

    def _try_delta(
        self, step: StepRequest, blob: Blob, held: Mapping[str, Iterable[HeldRelease]], transfer: Transfer
    ) -> None:
        """Make a file from one of the same use that is here, where the hub offers a patch that saves bytes.

        Raises:
            UnreachableError, FetchError: the patch broke off; the rest of it is less than the whole file.
        """
        from edge_agent.update.download.delta import fetch_delta  # seldom needed

        if self._store.has(blob) or self._from.free(blob):
            return
        left_s = step.patch_s
        for old in self._held_files(step, blob, held):
            if left_s <= 0:
                return
            begun = time.monotonic()
            try:
                fetch_delta(self._hub, self._store, blob, old, transfer, beside=step.beside, apply_s=left_s)
                return
            except DeltaError as error:
                log.info("%s", error)
                left_s -= time.monotonic() - begun

    def _held_files(self, wanted: StepRequest, blob: Blob, held: Mapping[str, Iterable[HeldRelease]]) -> list[str]:
        """The files here that `blob` might be made from: those of the nearest releases that serve as it does."""
        use = _uses(self._store.manifest(wanted.held.manifest), wanted.held.variant).index(blob)
        found: dict[str, None] = {}
        for release in nearest(wanted, held)[:MOST_PATCHES]:
            with contextlib.suppress(CorruptBlobError, UnreadableError, ProtocolError):
                old = _uses(self._store.manifest(release.manifest), release.variant)[use]
                if old is not None and self._store.has(old):
                    found[old.sha256] = None
        found.pop(blob.sha256, None)
        return list(found)


class _Meter:
    """Measures a fetch: the share of all bytes that is here, and the bytes that the network brought."""

    def __init__(
        self, blobs: tuple[Blob, ...], store: Store, said: Callable[[StepProgress], None], metered: bool
    ) -> None:
        self._total = sum(blob.size for blob in blobs) or 1
        self._here = self._total - sum(blob.size for blob in blobs if not store.has(blob))
        self._said, self._counts = said, int(metered)
        self._received, self._shown = 0, time.monotonic()

    def came(self, count: int) -> None:
        """`count` bytes are here; said now and then."""
        self._received += count
        if time.monotonic() - self._shown >= SHOWN_S:
            self._shown = time.monotonic()
            self.show()

    def show(self, share: float | None = None) -> None:
        """Say it now; `share` where it is known for sure."""
        here = min(1.0, (self._here + self._received) / self._total)
        self._said(StepProgress(share=here if share is None else share, received=self._counts * self._received))


def nearest(wanted: StepRequest, held: Mapping[str, Iterable[HeldRelease]]) -> list[HeldRelease]:
    """The releases that are here: the same model's first, then those of the same variant."""
    here = [(model, release) for model, releases in held.items() for release in releases]
    here.sort(key=lambda pair: (pair[0] != wanted.model, pair[1].variant != wanted.held.variant))
    return [release for _, release in here]


def _uses(manifest: Manifest, variant: str) -> tuple[Blob | None, ...]:
    """List a release's blobs by their use: model file, self-test, front, encoder; None where it has none."""
    front, sketch = manifest.in_front, manifest.sketch
    return (
        manifest.variant(variant).blob,
        manifest.selftest.blob,
        front.blob if front is not None else None,
        sketch.encoder if sketch is not None else None,
    )
