"""Confines a process that runs one release which serves nobody: a self-test's, or a shadow's."""

from __future__ import annotations

from collections.abc import Mapping

from edge_agent import runtimes
from edge_agent.config import AgentConfig
from edge_agent.host.child_process import limit_model
from edge_agent.update.disk.store import Store
from edge_agent.update.rules.model_state import HeldRelease
from edge_agent.update.worker import sandbox
from fleet.protocol.manifest import Manifest


def confined(
    config: AgentConfig, store: Store, held: HeldRelease, limits: Mapping[int, tuple[int, int]]
) -> tuple[Manifest, tuple[str, ...]]:
    """Give up, for good, what a process needs not that runs one release; its manifest, and what is in force.

    Args:
        limits: further limits on resources: the soft one, and how far beyond it the hard one lies.
    """
    limit_model(config.selftest_memory_bytes, limits)
    manifest = store.manifest(held.manifest)
    variant = manifest.variant(held.variant)
    files = [store.blobs / blob.sha256 for blob in manifest.needed_for(variant)]
    in_force: tuple[str, ...] = ("rlimits",)
    if config.selftest_sandbox:
        in_force += sandbox.confine_files(files, never=config.dir)
    runtimes.for_variant(variant)
    if config.selftest_sandbox:
        in_force += sandbox.confine_calls()
    return manifest, in_force
