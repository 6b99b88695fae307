"""The profile of the data that a release was trained on, as its manifest names it."""

from __future__ import annotations

import logging

from cloud_hub.context import Hub
from cloud_hub.errors import HubError
from cloud_hub.objects import blob_key
from fleet.protocol.blob import Blob
from fleet.protocol.errors import ProtocolError
from fleet.protocol.figures import TrainingProfile, decode_profile
from fleet.protocol.manifest import Manifest

log = logging.getLogger(__name__)


def profile_of(hub: Hub, manifest: Manifest) -> TrainingProfile | None:
    """The release's profile; None where it has none, as those of 0.1, or where it cannot be read."""
    if not isinstance(manifest.profile, Blob):
        return None
    try:
        return decode_profile(hub.objects.get(blob_key(manifest.profile.sha256)).data)
    except (HubError, ProtocolError) as error:
        log.warning("what a release was trained on cannot be read: %s", error)
        return None
