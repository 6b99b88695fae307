"""The signed repository's content, fetched and verified once and read by all devices of a process."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from edge_agent.errors import AgentError, DeniedError, OlderMetadataError, RefusedError
from edge_agent.host.clock import FILE as FLOOR
from edge_agent.host.clock import TimeFloor
from edge_agent.identity.enroll import first_root
from edge_agent.identity.http import HubHttp
from edge_agent.mqtt.command_verification import decode_keys
from edge_agent.update.download.throttle import DownloadPace
from edge_agent.update.rules.model_state import HeldRelease
from edge_agent.update.worker import evidence
from edge_agent.update.worker.resolve_targets import choose_variant
from edge_agent.update.worker.tuf_client import Fetcher, Trusted, opened
from fleet.protocol.channel import CHANNEL_LIMIT, Channel, decode_channel
from fleet.protocol.drift_encoder import ENCODER_LIMIT, decode_encoder
from fleet.protocol.errors import ProtocolError
from fleet.protocol.manifest import MANIFEST_LIMIT, Manifest, decode_manifest
from fleet.protocol.messages import HTTP_LIMIT, CommandKeys

KINDS = ("litert", "onnx")  # runtimes that a simulated device says it has
ATTEMPT_S = 60.0  # for one file
IDENTITIES = 8  # that one look tries


class ReleaseFacts(Struct, frozen=True, kw_only=True):
    """The facts about a release that a simulated device needs: what it would install, and how large that is."""

    held: HeldRelease
    bytes: int
    classes: int = 0
    sketch_id: str = ""
    features: int = 0


class View(Struct, frozen=True, kw_only=True):
    """The channel and its releases as a device with `capabilities` reads them; `refused` says why some lack."""

    channel: Channel
    releases: dict[tuple[str, int], ReleaseFacts]
    keys: CommandKeys | None
    tuf: dict[str, int]
    tuf_expires: dict[str, float]
    refused: dict[tuple[str, int], tuple[str, str]] = {}
    capabilities: tuple[str, ...] = ()


class Looker:
    """Looks for all devices of a process, by the identity of one of them that the hub knows."""

    def __init__(self, directories: Sequence[Path], channel: str, capabilities: frozenset[str]) -> None:
        """`directories` are those of enrolled devices; the first one's keeps the metadata."""
        self._keeps, self._channel, self._capabilities = directories[0], channel, capabilities
        self._identities = deque(directories)
        self._hub = HubHttp(directories[0])

    def look(self, before: View | None) -> View:
        """See `fetch`. That the hub refuses a device is no matter of the others: the next one is taken."""
        for _ in range(min(IDENTITIES, len(self._identities)) - 1):
            try:
                return fetch(self._keeps, self._hub, self._channel, self._capabilities, before)
            except DeniedError:
                self._identities.rotate(-1)
                self._hub = HubHttp(self._identities[0])
        return fetch(self._keeps, self._hub, self._channel, self._capabilities, before)


def fetch(directory: Path, hub: HubHttp, channel: str, capabilities: frozenset[str], before: View | None) -> View:
    """Refresh the metadata in `directory`, an enrolled device's, and read the channel with every release it names.

    A hub that serves older metadata is shown what it has signed, as by an agent.

    Raises:
        AgentError, ProtocolError: it cannot be fetched, verified or read; nothing is known that was not before.
    """
    try:
        return _fetch(directory, hub, channel, capabilities, before)
    except OlderMetadataError:
        if not evidence.show(hub, directory / "tuf"):
            raise
        return _fetch(directory, hub, channel, capabilities, before)


def _fetch(directory: Path, hub: HubHttp, channel: str, capabilities: frozenset[str], before: View | None) -> View:
    fetcher = Fetcher(hub, DownloadPace(deadline_s=ATTEMPT_S))
    with opened(directory / "tuf", first_root(directory), fetcher, TimeFloor(directory / FLOOR)) as trusted:
        data = trusted.read(f"channels/{channel}.json", CHANNEL_LIMIT)
        if data is None:
            raise RefusedError(f"nobody signed channel {channel!r}", subject=channel, reason="no-channel")
        document = decode_channel(data, capabilities)
        key = trusted.read("hub/command-key.json", HTTP_LIMIT)
        known = dict(before.releases) if before is not None else {}
        refused: dict[tuple[str, int], tuple[str, str]] = {}
        for wanted in _named(document):
            if wanted not in known:
                try:
                    known[wanted] = _facts(trusted, hub, *wanted, capabilities)
                except (AgentError, ProtocolError) as error:
                    refused[wanted] = (getattr(error, "reason", "") or "bad-manifest", str(error))
        return View(
            channel=document,
            releases=known,
            keys=decode_keys(key) if key else None,
            tuf=trusted.versions,
            tuf_expires=trusted.expires,
            refused=refused,
            capabilities=tuple(sorted(capabilities)),
        )


def _named(channel: Channel) -> set[tuple[str, int]]:
    found = set()
    for model, entry in channel.models.items():
        found |= {(model, entry.release), *((model, rule.release) for rule in entry.rules)}
        if entry.rollout is not None:
            found |= {(model, entry.rollout.release), (model, entry.rollout.from_release)}
    return found


def _facts(trusted: Trusted, hub: HubHttp, model: str, release: int, capabilities: frozenset[str]) -> ReleaseFacts:
    path = f"models/{model}/{release}.json"
    data = trusted.read(path, MANIFEST_LIMIT)
    if data is None:
        raise RefusedError(f"nobody signed release {release} of {model!r}", subject=model, reason="unsigned")
    manifest = decode_manifest(data, capabilities)
    variant = choose_variant(manifest, KINDS)
    blobs = [variant.blob, manifest.selftest.blob]
    if manifest.sketch is not None:
        blobs.append(manifest.sketch.encoder)
    return ReleaseFacts(
        held=HeldRelease(release=release, variant=variant.name, manifest=hashlib.sha256(data).hexdigest()),
        bytes=len(data) + sum(blob.size for blob in blobs),
        classes=len(manifest.labels),
        sketch_id=manifest.sketch.sketch_id if manifest.sketch is not None else "",
        features=_features(hub, manifest),
    )


def _features(hub: HubHttp, manifest: Manifest) -> int:
    """Count the numbers of a sketch of this release; 0 without one."""
    if manifest.sketch is None:
        return 0
    answer = hub.request("GET", f"/blobs/{manifest.sketch.encoder.sha256}")
    if answer.status != 200 or len(answer.data) > ENCODER_LIMIT:
        return 0
    return decode_encoder(answer.data).features
