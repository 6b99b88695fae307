"""A hub that serves any release."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from edge_agent.ports import InstalledRelease
from fleet.protocol.manifest import encode_manifest
from tests.support.hub import HubFixture


@pytest.fixture
def serve(hub: HubFixture) -> Callable[[InstalledRelease], int]:
    """Publish a release as a release of the model `any`; its number."""
    hub.model("any")

    def publish(made: InstalledRelease) -> int:
        for blob in made.blobs.iterdir():
            hub.hub.objects.put_new(f"blobs/{blob.name}", blob.read_bytes())
        return hub.hub.publisher.publish_release("any", encode_manifest(made.manifest), actor="test").number

    return publish
