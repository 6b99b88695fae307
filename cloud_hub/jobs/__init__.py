"""Long work as persistent jobs, done by worker processes under a lease."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cloud_hub.context import Hub
    from cloud_hub.services.supervisor import Service


def services(hub: Hub) -> list[Service]:
    """The services of this package: a local worker, unless the configuration turns it off."""
    from cloud_hub.jobs.local import LocalWorker

    return [LocalWorker(hub)] if hub.config.worker.local else []
