"""Which cloud variants are in memory, and which are brought there before anybody asks."""

from __future__ import annotations

import asyncio
import logging
import re
from collections import OrderedDict

from sqlmodel import col, select

from cloud_hub.context import Hub
from cloud_hub.errors import HubError, NotFoundError
from cloud_hub.inference.batching import Batcher
from cloud_hub.inference.sessions import load_cloud
from cloud_hub.store.tables import ChannelRow, Release
from fleet.protocol.channel import decode_channel
from fleet.protocol.manifest import Manifest, decode_manifest

VERSION = re.compile(r"[0-9]{1,9}")
log = logging.getLogger(__name__)


class Loaded:
    """The models in memory, least recently used out first; a withdrawn release is refused at once."""

    def __init__(self, hub: Hub) -> None:
        self._hub, self._limits = hub, hub.config.inference
        self._models: OrderedDict[tuple[str, int], tuple[Manifest, Batcher]] = OrderedDict()
        self._lock = asyncio.Lock()

    @property
    def models(self) -> list[tuple[str, int]]:
        """Model and release number of what is in memory, least recently used first."""
        return list(self._models)

    async def get(self, model: str, version: str) -> tuple[int, Manifest, Batcher]:
        """Release number, manifest and queue of a published release (`version` empty: the newest)."""
        number, data = await asyncio.to_thread(published, self._hub, model, version)
        async with self._lock:
            found = self._models.get((model, number))
            if found is None:
                manifest = decode_manifest(data)
                session = await asyncio.to_thread(load_cloud, self._hub, manifest)
                found = manifest, Batcher(session, max_rows=self._limits.batch_rows, max_queue=self._limits.queue)
                self._models[model, number] = found
                if len(self._models) > self._limits.models:
                    self._models.popitem(last=False)[1][1].close()
            self._models.move_to_end((model, number))
        return number, *found


def published(hub: Hub, model: str, version: str) -> tuple[int, bytes]:
    """Number and manifest of a published release; NotFoundError for any other."""
    query = select(Release).where(Release.model == model, Release.status == "published")
    if version:
        query = query.where(Release.number == (int(version) if VERSION.fullmatch(version) else -1))
    with hub.reading() as session:
        row = session.exec(query.order_by(col(Release.number).desc()).limit(1)).first()
    if row is None:
        which = f"release {version}" if version else "release"
        raise NotFoundError(f"no published {which} of {model!r}", subject=model)
    return row.number, row.manifest


def wanted(hub: Hub) -> list[tuple[str, int]]:
    """Each channel's auditors and default releases: what devices will defer to. Most urgent first, each once."""
    with hub.reading() as session:
        documents = [decode_channel(row.document) for row in session.exec(select(ChannelRow))]
    entries = [(model, entry) for document in documents for model, entry in document.models.items()]
    found = [(model, entry.audit.auditor or entry.release) for model, entry in entries]
    return list(dict.fromkeys(found + [(model, entry.release) for model, entry in entries]))


class WarmUp:
    """Loads what the channels need once, so that the first deferred request after a start is not late."""

    name = "inference-warm-up"

    def __init__(self, hub: Hub, loaded: Loaded) -> None:
        self._hub, self._loaded = hub, loaded

    async def run(self) -> None:
        """Load, most urgent first, as many as stay in memory; a model that cannot be loaded is logged."""
        for model, number in (await asyncio.to_thread(wanted, self._hub))[: self._hub.config.inference.models]:
            try:
                await self._loaded.get(model, str(number))
            except HubError as error:
                log.warning("release %d of %s is not warm: %s", number, model, error)
