"""A new release's manifest, made of one that is here and the hub's patch: a fraction of its bytes.

Nobody signed the patch. What it makes counts by the signed length and hash alone (`tuf_client.Trusted`); with any other
outcome, or any trouble on the way, the whole file is fetched.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from edge_agent.errors import AgentError
from edge_agent.ports import HubCalls
from edge_agent.update.disk.store import Store
from edge_agent.update.download.delta import made_of, zstd
from edge_agent.update.rules.model_state import HeldRelease
from fleet.protocol.errors import ProtocolError
from fleet.protocol.manifest import Blob

MOST = 2  # held releases for which the hub is asked for a patch

log = logging.getLogger(__name__)


class FromHeld:
    """Makes a manifest's bytes of those of `held` releases of its model."""

    def __init__(self, hub: HubCalls, store: Store, held: Sequence[HeldRelease]) -> None:
        self._hub, self._store = hub, store
        newest = sorted(held, key=lambda release: -release.release)
        self._held = list(dict.fromkeys(release.manifest for release in newest))[:MOST]

    def __call__(self, blob: Blob) -> bytes | None:
        """The manifest that the repository signed as `blob`, unverified; None where no patch makes it."""
        for held in self._held:
            try:
                answer = self._hub.request("GET", f"/blobs/{blob.sha256}/from/{held}", timeout=30.0)
                if answer.status == 200 and len(answer.data) < blob.size:
                    return made_of(self._store.manifest_bytes(held), answer.data, blob)
            except (AgentError, ProtocolError, OSError, ValueError, EOFError, zstd().ZstdError) as error:
                log.info("no manifest by a patch from %s: %s", held[:12], error)
        return None
