"""The hub's account of itself and its models, as the protocol's clients ask for it: the same over HTTP and gRPC."""

from __future__ import annotations

import asyncio
from typing import Any

from cloud_hub.context import Hub
from cloud_hub.errors import ForbiddenError
from cloud_hub.identity.callers import Caller, check_may_infer
from cloud_hub.inference.loaded import Loaded, index
from fleet.protocol import oip, repository
from fleet.protocol.asking import release_parameters
from fleet.serving import Statistics

PLATFORM = "onnx_onnxv1"
Document = dict[str, Any]


class About:
    """For one event loop. What asks for a model raises NotFoundError where no release of it is published."""

    def __init__(self, hub: Hub, loaded: Loaded) -> None:
        self._hub, self._loaded = hub, loaded

    def server(self) -> Document:
        """Return the server's name, version and extensions."""
        return {"name": "edgeloop-hub", "version": "1", "extensions": list(oip.EXTENSIONS)}

    async def model(self, model: str, version: str) -> Document:
        """Inputs and outputs, task, class names and preprocessing steps."""
        found = await self._loaded.release(model, version)
        manifest = found.manifest
        more = release_parameters(manifest)
        return oip.model_metadata(model, [str(found.number)], PLATFORM, manifest.inputs, manifest.outputs, more)

    async def model_ready(self, model: str, version: str) -> Document:
        """The model's name, once it is loaded."""
        await self._loaded.get(model, version)
        return {"name": model, "ready": True}

    async def config(self, model: str, version: str) -> Document:
        """As `repository.model_config`."""
        found = await self._loaded.release(model, version)
        manifest, rows = found.manifest, self._hub.config.inference.batch_rows
        return repository.model_config(model, PLATFORM, manifest.inputs, manifest.outputs, [found.number], rows)

    async def statistics(self, model: str, version: str) -> Document:
        """Of one release, by default of the newest; zeros where this instance has not loaded it."""
        found = await self._loaded.release(model, version)
        loaded = {(one.model, one.number): one.statistics for one in self._loaded.served()}
        counted = loaded.get((model, found.number)) or Statistics()
        return {"model_stats": [counted.document(model, str(found.number))]}

    def all_statistics(self, caller: Caller) -> Document:
        """Of every release in the memory of this instance that the caller may ask."""
        held = sorted(self._loaded.served(), key=lambda one: (one.model, one.number))
        mine = [one for one in held if _may(caller, one.model)]
        return {"model_stats": [one.statistics.document(one.model, str(one.number)) for one in mine]}

    async def index(self, caller: Caller) -> list[Document]:
        """Every published release that the caller may ask: each is loaded when it is asked for."""
        found = await asyncio.to_thread(index, self._hub, lambda model: _may(caller, model))
        return [repository.index_entry(model, str(number)) for model, number in found]


def _may(caller: Caller, model: str) -> bool:
    try:
        check_may_infer(caller, model)
    except ForbiddenError:
        return False
    return True
