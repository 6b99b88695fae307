"""The cloud variants in memory, and those that are brought there before anybody asks."""

from __future__ import annotations

import asyncio
import logging
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from msgspec import Struct
from sqlmodel import col, select

from cloud_hub.context import Hub
from cloud_hub.errors import HubError, NoAnswerError, NotFoundError
from cloud_hub.inference.batching import Answer, Batcher, Limits
from cloud_hub.inference.sessions import cores, load_lanes
from cloud_hub.store.fresh import Cache, Freshness
from cloud_hub.store.tables import ChannelRow, Model, Release
from cloud_hub.trust.checks import cloud_variant
from fleet.protocol.channel import decode_channel
from fleet.protocol.finite import not_finite
from fleet.protocol.manifest import Manifest, decode_manifest
from fleet.runtimes.cost import body_limit
from fleet.serving import Statistics

INDEXED = 2_000  # releases in an answer; writing more would hold up others
VERSION = re.compile(r"[0-9]{1,9}")
log = logging.getLogger(__name__)


class Published(Struct, frozen=True):
    """A published release. `body_limit`: the most bytes that a request to it can need."""

    number: int
    manifest: Manifest
    body_limit: int


class LoadedRelease(Struct, frozen=True, kw_only=True):
    """A release that is in memory.

    Attributes:
        body_limit: as of `Published`.
        parameters: what its answers say of themselves.
        statistics: of this instance, since it was loaded.
    """

    model: str
    number: int
    manifest: Manifest
    batcher: Batcher
    body_limit: int
    parameters: Mapping[str, Any]
    statistics: Statistics

    def rows(self, inputs: Mapping[str, Any]) -> int:
        """Return the number of rows of these inputs; 1 without a batch."""
        first = next(iter(self.manifest.inputs), None)  # a model may have none
        return len(inputs[first.name]) if first is not None and first.batched and first.name in inputs else 1


class Loaded:
    """The models in memory, least recently used out first; a withdrawn release is refused as soon as that is known.

    For one event loop.
    """

    def __init__(self, hub: Hub, freshness: Freshness) -> None:
        self._hub, self._settings = hub, hub.config.inference
        self._releases: Cache[tuple[str, str], Published] = Cache(freshness, most=self._settings.releases)
        self._models: OrderedDict[tuple[str, int], LoadedRelease] = OrderedDict()
        self._loading: dict[tuple[str, int], asyncio.Task[LoadedRelease]] = {}
        self._pool = ThreadPoolExecutor(cores(), thread_name_prefix="inference")

    @property
    def models(self) -> list[tuple[str, int]]:
        """Model and release number of what is in memory, least recently used first."""
        return list(self._models)

    def served(self) -> list[LoadedRelease]:
        """Return the releases in memory."""
        return list(self._models.values())

    def find(self, model: str, version: str) -> LoadedRelease | None:
        """A published release (`version` empty: the newest), if all that is known of it is in memory.

        Raises NotFoundError where it is known that there is none.
        """
        release = self._releases.find((model, version))
        return self._use(model, release.number) if release is not None else None

    async def release(self, model: str, version: str) -> Published:
        """A published release; NotFoundError for any other."""
        return await self._releases.get((model, version), lambda: published(self._hub, model, version))

    async def get(self, model: str, version: str) -> LoadedRelease:
        """A published release, loaded when it is not."""
        release = await self.release(model, version)
        found, key = self._use(model, release.number), (model, release.number)
        if found is not None:
            return found
        task = self._loading.get(key)
        if task is None:
            task = self._loading[key] = asyncio.get_running_loop().create_task(self._load(model, release))
            task.add_done_callback(lambda done: self._ended(key, done))
        return await asyncio.shield(task)

    def close(self) -> None:
        """Let the threads end."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _use(self, model: str, number: int) -> LoadedRelease | None:
        found = self._models.get((model, number))
        if found is not None:
            self._models.move_to_end((model, number))
        return found

    async def _load(self, model: str, release: Published) -> LoadedRelease:
        number, manifest = release.number, release.manifest
        lanes = await asyncio.to_thread(load_lanes, self._hub, manifest)

        def check(answer: Answer) -> Exception | None:
            broken = not_finite("output", answer, manifest.outputs)
            why = f"release {number} of {model}: {broken}"
            return NoAnswerError(why, subject=model, hint="see its cloud variant") if broken else None

        statistics, batched = Statistics(), all(spec.batched for spec in manifest.inputs)
        limits = Limits(max_rows=self._settings.batch_rows, max_queue=self._settings.queue)
        served = LoadedRelease(
            model=model,
            number=number,
            manifest=manifest,
            batcher=Batcher(lanes, self._pool, limits, check=check, statistics=statistics, batched=batched),
            statistics=statistics,
            body_limit=release.body_limit,
            parameters=_parameters(number, manifest),
        )
        self._models[model, number] = served
        if len(self._models) > self._settings.models:
            self._models.popitem(last=False)  # its memory goes with the last request that runs on it
        return served

    def _ended(self, key: tuple[str, int], task: asyncio.Task[LoadedRelease]) -> None:
        del self._loading[key]
        if not task.cancelled():
            task.exception()  # whoever waited has heard it


def published(hub: Hub, model: str, version: str) -> Published:
    """Return a published release, the newest for an empty version.

    Raises:
        NotFoundError: there is none, or it is not published.
    """
    query = select(Release).where(Release.model == model, Release.status == "published")
    if version:
        query = query.where(Release.number == (int(version) if VERSION.fullmatch(version) else -1))
    with hub.reading() as session:
        row = session.exec(query.order_by(col(Release.number).desc()).limit(1)).first()
    if row is None:
        which = f"release {version}" if version else "release"
        raise NotFoundError(f"no published {which} of {model!r}", subject=model)
    manifest = decode_manifest(row.manifest)
    return Published(row.number, manifest, min(body_limit(manifest), hub.config.limits.infer_body))


def index(hub: Hub, allowed: Callable[[str], bool]) -> list[tuple[str, int]]:
    """Model and number of the published releases of the models that are `allowed`, in order; the INDEXED newest."""
    with hub.reading() as session:
        names = [name for name in session.exec(select(Model.name)).all() if allowed(name)]
        mine = select(Release.model, Release.number).where(col(Release.model).in_(names))
        newest = mine.where(Release.status == "published").order_by(col(Release.published_at).desc()).limit(INDEXED)
        return sorted((model, number) for model, number in session.exec(newest).all())


def _parameters(number: int, manifest: Manifest) -> dict[str, Any]:
    """The parameters of an answer beside its time. No confidence: a calibration is a device variant's."""
    variant = cloud_variant(manifest)
    parameters: dict[str, Any] = {
        "served_by": "cloud",
        "release": number,
        "variant": variant.name if variant is not None else "",
        "degraded": False,
        "fallback_reason": "",
    }
    if not all(spec.finite for spec in manifest.outputs):
        parameters["non_finite"] = True  # for a device that has no manifest yet: it would take NaN for a failure
    return parameters


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
