"""Samples that devices upload, their labels, and the snapshots made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cloud_hub.context import Hub
    from cloud_hub.services.supervisor import Service


def services(hub: Hub) -> list[Service]:
    """The services of this package."""
    from cloud_hub.samples.retention import Retention

    return [Retention(hub)]
