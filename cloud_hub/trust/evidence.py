"""Verifies what a device holds: pure, bytes in, values out. What the hub did not sign does not exist here.

Each metadata file stands for itself: its signature by the key that this repository trusts for its role is proof that
the hub, or one that lived before a restore, has issued that version. What a device says beside it proves nothing and
is not read. Documents count only by the hash that a verified file lists.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct, field
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp
from tuf.api.serialization.json import CanonicalJSONSerializer, JSONSerializer

from cloud_hub.errors import InvalidError
from cloud_hub.trust import repository
from fleet.protocol.channel import decode_channel
from fleet.protocol.codec import decode_json
from fleet.protocol.errors import ProtocolError
from fleet.protocol.manifest import MANIFEST_LIMIT, Floor
from fleet.protocol.messages import Held

MOST_VERSION = 10**9  # of metadata and documents: far above what a hub signs, far below where file names end
MOST_NUMBER = 2**62  # of a release: a number above it is not one that a hub has given
MOST_ROOTS = 64
SMALL, LARGE = 64 << 10, 5_000_000  # bytes of root, snapshot and timestamp; of the roles with targets (TUF's own limit)
_RELEASE = re.compile(r"models/([a-z0-9-]{1,63})/([1-9][0-9]{0,18})\.json")
_FLOOR = re.compile(r"models/([a-z0-9-]{1,63})/floor\.json")
_CHANNEL = re.compile(r"channels/([a-z0-9-]{1,63})\.json")


class Evidence(Struct, frozen=True, kw_only=True):
    """Metadata that was signed at a higher version than is known, or at the same with other bytes.

    `versions` are by role, also of files that another one lists; `bodies` are those that were here. `roots` follow the
    known one without a gap. `channels` are the versions of channels' documents, `numbers` the highest release number
    listed, `floors` what is forbidden, by model.
    """

    roots: tuple[bytes, ...] = ()
    versions: dict[str, int] = field(default_factory=dict)
    bodies: dict[str, bytes] = field(default_factory=dict)
    channels: dict[str, int] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    floors: dict[str, Floor] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.roots or self.versions)


def verify(known: Mapping[str, bytes], held: Held) -> Evidence:
    """Find what `held` proves beyond `known`.

    Args:
        known: the hub's newest metadata, by role.
        held: what a device sent; anything.
    """
    root: Root = repository.read(known["root"]).signed
    roots = []
    for body, following in _roots(root, held.roots):
        roots.append(body)
        root = following
    versions: dict[str, int] = {}
    bodies: dict[str, bytes] = {}
    targets: Targets = repository.read(known["targets"]).signed
    for role in ("targets", "models", "channels", "snapshot", "timestamp"):
        delegator = targets if role in repository.DELEGATED else root
        found = _signed(delegator, role, getattr(held, role), SMALL if role in ("snapshot", "timestamp") else LARGE)
        if found is None or not _is_ahead(found, known[role]):
            continue
        versions[role], bodies[role] = found.signed.version, found.to_bytes(JSONSerializer(compact=True))
        for other, version in _listed_versions(found.signed):
            if version > max(repository.version_of(known[other]), versions.get(other, 0)):
                versions[other] = version
        if role == "targets":
            targets = found.signed
    return Evidence(
        roots=tuple(roots),
        versions=versions,
        bodies=bodies,
        channels=dict(_channels(bodies.get("channels"), held.documents)),
        numbers=_numbers(bodies.get("models")),
        floors=dict(_floors(bodies.get("models"), held.documents)),
    )


def _is_ahead(found: Metadata[Any], known: bytes) -> bool:
    """By its content: the bytes around it, such as spaces and further signatures, can be anybody's."""
    before = repository.read(known).signed
    if found.signed.version == before.version:
        return _payload(found.signed) != _payload(before)
    return bool(found.signed.version > before.version)


def _listed_versions(signed: Any) -> Iterator[tuple[str, int]]:
    """Yield the versions that a timestamp or a snapshot lists: devices refuse lower ones from then on."""
    if isinstance(signed, Timestamp):
        listed = {"snapshot": signed.snapshot_meta.version}
    elif isinstance(signed, Snapshot):
        listed = {
            role: signed.meta[f"{role}.json"].version
            for role in repository.TARGET_ROLES
            if f"{role}.json" in signed.meta
        }
    else:
        listed = {}
    yield from ((role, version) for role, version in listed.items() if version <= MOST_VERSION)


def _payload(signed: Any) -> bytes:
    return CanonicalJSONSerializer().serialize(signed)


def _roots(root: Root, bodies: tuple[bytes, ...]) -> Iterator[tuple[bytes, Root]]:
    """The roots that follow, each signed by the one before and by itself (TUF 5.3.4)."""
    for body in bodies[:MOST_ROOTS]:
        found = _signed(root, "root", body, SMALL)
        if found is None or found.signed.version != root.version + 1:
            continue
        itself = _signed(found.signed, "root", body, SMALL)
        if itself is None:
            continue
        root = found.signed
        signatures = {**itself.signatures, **found.signatures}
        yield Metadata(root, signatures).to_bytes(JSONSerializer(compact=True)), root


def _signed(delegator: Root | Targets, role: str, body: bytes, limit: int) -> Metadata[Any] | None:
    """A file that `delegator` trusts for `role`, with the signatures that count; None for anything else."""
    if not body or len(body) > limit:
        return None
    try:
        metadata = repository.read(body)
        if metadata.signed.type != (role if role not in repository.DELEGATED else "targets"):
            return None
        delegator.verify_delegate(role, _payload(metadata.signed), metadata.signatures)
        trusted = delegator.get_delegated_role(role).keyids
    except (RepositoryError, InvalidError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None  # python-tuf's reader says in many ways that something is no metadata
    if not 0 < metadata.signed.version <= MOST_VERSION:
        return None
    return Metadata(metadata.signed, {key: metadata.signatures[key] for key in trusted if key in metadata.signatures})


def _listed(body: bytes | None) -> dict[str, Any]:
    listed: dict[str, Any] = repository.read(body).signed.targets if body is not None else {}
    return listed


def _proven(body: bytes | None, documents: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """The documents that a verified file lists by their hash."""
    listed = _listed(body)
    for path, data in documents.items():
        target = listed.get(path)
        if target is not None and target.hashes.get("sha256") == hashlib.sha256(data).hexdigest():
            yield path, data


def _channels(body: bytes | None, documents: Mapping[str, bytes]) -> Iterator[tuple[str, int]]:
    for path, data in _proven(body, documents):
        named = _CHANNEL.fullmatch(path)
        if named is None:
            continue
        try:
            version = decode_channel(data).version
        except ProtocolError:
            continue  # a newer hub's, which this one cannot read
        if 0 < version <= MOST_VERSION:
            yield named[1], version


def _numbers(body: bytes | None) -> dict[str, int]:
    found: dict[str, int] = {}
    for path in _listed(body):
        named = _RELEASE.fullmatch(path)
        if named is not None and int(named[2]) <= MOST_NUMBER:
            found[named[1]] = max(int(named[2]), found.get(named[1], 0))
    return found


def _floors(body: bytes | None, documents: Mapping[str, bytes]) -> Iterator[tuple[str, Floor]]:
    for path, data in _proven(body, documents):
        named = _FLOOR.fullmatch(path)
        if named is None:
            continue
        try:
            floor = decode_json(data, Floor, limit=MANIFEST_LIMIT, subject="floor")
        except ProtocolError:
            continue
        if 1 <= floor.min_release <= MOST_NUMBER:
            yield named[1], floor
