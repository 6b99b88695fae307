"""The runtimes of `fleet.runtimes` as the agent uses them: by variant, with the agent's own errors.

selftest  the release's golden vectors, run on one of them
measuring what a variant costs on one of them, in a child process
"""

from __future__ import annotations

from functools import cache

from msgspec import UNSET

from edge_agent import CAPABILITIES
from edge_agent.errors import ModelLoadError, RuntimeMissingError
from edge_agent.ports import LoadedModel, Runtime
from fleet import runtimes
from fleet.protocol.channel import ROUTING_GRPC
from fleet.protocol.front import front_capability
from fleet.protocol.manifest import Manifest, Variant
from fleet.rpc.loading import installed as rpc_installed
from fleet.runtimes import RUNTIMES as RUNTIMES
from fleet.runtimes import available as available
from fleet.runtimes import kinds as kinds


class Installed:
    """A runtime; implements `edge_agent.ports.Runtime`."""

    def __init__(self, runtime: runtimes.Runtime) -> None:
        self._runtime = runtime
        self.name, self.version = runtime.name, runtime.version

    def load(self, model: bytes, manifest: Manifest, variant: Variant, front: bytes = b"") -> LoadedModel:
        """Load a variant from memory, behind its release's front where there is one.

        Raises:
            ModelLoadError: the runtime refuses the bytes, or its inputs and outputs are not the manifest's.
        """
        if variant.runtime != self._runtime.kind:
            raise ModelLoadError(f"{self.name} cannot load variant {variant.name!r} for {variant.runtime}")
        try:
            ports = variant.ports if variant.ports is not UNSET else None
            return runtimes.load_release(self._runtime, model, manifest, ports=ports, front=front)
        except runtimes.ModelLoadError as error:
            raise ModelLoadError(f"{self.name} refuses variant {variant.name!r}: {error}", hint=error.hint) from error


def capabilities() -> tuple[str, ...]:
    """Return the capabilities that releases and channels may require of this agent: its own, and those that the
    packages beside it allow."""
    more = (ROUTING_GRPC,) if rpc_installed() else ()
    return (*CAPABILITIES, *(front_capability(kind) for kind in sorted(kinds())), *more)


@cache
def named(name: str) -> Runtime:
    """The runtime called `name`; raises RuntimeMissingError, whose hint names the extra."""
    try:
        return Installed(runtimes.named(name))
    except runtimes.RuntimeMissingError as error:
        raise RuntimeMissingError(str(error), hint=error.hint) from error


def for_variant(variant: Variant) -> Runtime:
    """The best installed runtime for a variant; one that it was proven on goes before the others.

    Raises:
        RuntimeMissingError: none is installed; the hint names the extra.
    """
    try:
        return named(runtimes.best(variant.runtime, variant.runtimes).name)
    except runtimes.RuntimeMissingError as error:
        raise RuntimeMissingError(str(error), hint=error.hint) from error
