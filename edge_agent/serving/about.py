"""Describes the agent and its models to the protocol's clients, the same over HTTP and gRPC."""

from __future__ import annotations

from typing import Any

from edge_agent import VERSION
from edge_agent.errors import NotFoundError
from edge_agent.serving.engine import Engine
from edge_agent.serving.slots import Served
from fleet.protocol import oip, repository
from fleet.protocol.asking import release_parameters
from fleet.runtimes.models import MAX_BATCH

PLATFORMS = {"litert": "litert_tflite", "onnx": "onnx_onnxv1"}
ELSEWHERE = "no release of it is in service on this device; its channel says whether the cloud answers"

Document = dict[str, Any]


class About:
    """For the event loop. What asks for a model raises NotFoundError for one that no release here answers for."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def server(self) -> Document:
        """Return the server's name, version and extensions."""
        return {"name": "edgeloop-agent", "version": VERSION, "extensions": list(oip.EXTENSIONS)}

    def ready(self) -> bool:
        """Return whether any model is in service."""
        return bool(self._engine.slots.names())

    def model(self, model: str, version: str) -> Document:
        """Inputs and outputs, task, class names and preprocessing steps."""
        release = self._held(model, version).release
        manifest, versions = release.manifest, [str(number) for number in self._versions(model)]
        platform, more = PLATFORMS[release.variant.runtime], release_parameters(manifest)
        return oip.model_metadata(release.model, versions, platform, manifest.inputs, manifest.outputs, more)

    def model_ready(self, model: str, version: str) -> Document:
        """The model's name, when it can be asked."""
        return {"name": self._held(model, version).release.model, "ready": True}

    def config(self, model: str, version: str) -> Document:
        """As `repository.model_config`."""
        release = self._held(model, version).release
        manifest, platform = release.manifest, PLATFORMS[release.variant.runtime]
        versions = self._versions(model)
        return repository.model_config(release.model, platform, manifest.inputs, manifest.outputs, versions, MAX_BATCH)

    def statistics(self, model: str, version: str) -> Document:
        """Of one release, by default of every one of the model that is held; of all models with an empty name."""
        if version:
            held = [self._held(model, version)]
        else:
            held = [served for name in ([model] if model else self._engine.slots.names()) for served in self._all(name)]
        return {"model_stats": [one.statistics.document(one.release.model, str(one.release.number)) for one in held]}

    def index(self, only_ready: bool) -> list[Document]:
        """Every release that can be asked, and the models that have none here though the channel names them."""
        names = self._engine.slots.names()
        found = [repository.index_entry(name, str(number)) for name in names for number in self._versions(name)]
        missing = [] if only_ready else sorted(set(self._engine.known()) - set(names))
        return found + [repository.index_entry(name, reason=ELSEWHERE) for name in missing]

    def _held(self, model: str, version: str) -> Served:
        served = self._engine.slots.find(model, version)
        if served is None:
            what = f"model {model!r}" + (f" version {version!r}" if version else "")
            raise NotFoundError(f"{what} is not served here", subject=model, hint="see GET /status")
        return served

    def _all(self, model: str) -> list[Served]:
        """The releases that can be asked, the active one first."""
        active = self._held(model, "")
        slot = self._engine.slots.slot(model)
        previous = slot.previous if slot is not None else None
        return [active] if previous is None else [active, previous]

    def _versions(self, model: str) -> list[int]:
        return [served.release.number for served in self._all(model)]
