"""Pure: builds and signs the metadata of the TUF repository. Values and keys in, signed bytes out.

    root ── targets ──┬── models/*/*    role `models`    (release key)
                      ├── channels/*    role `channels`  (rollout key)
                      └── hub/command-key.json           (signed offline)
    snapshot, timestamp                                  (online)
Snapshots are consistent: metadata files carry their version, target files their SHA-256.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Mapping
from typing import Any

from securesystemslib.signer import CryptoSigner, Key, Signature
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import CanonicalJSONSerializer, JSONSerializer

from cloud_hub.errors import InvalidError

COMMAND_TARGET = "hub/command-key.json"
ONLINE_ROLES = ("channels", "snapshot", "timestamp")
TARGET_ROLES = ("targets", "models", "channels")
DELEGATED = {"models": ("release", "models/*/*"), "channels": ("rollout", "channels/*")}
TOP_KEYS = {"root": "root", "targets": "targets", "snapshot": "snapshot", "timestamp": "timestamp"}


def expiry(now: float, days: float) -> datetime.datetime:
    """`days` from `now`, in whole seconds, as TUF wants it."""
    return datetime.datetime.fromtimestamp(int(now + days * 86_400), tz=datetime.UTC)


def new_root(keys: Mapping[str, Key], expires: datetime.datetime) -> Root:
    """A root that names the top-level keys (`root`, `targets`, `snapshot`, `timestamp`)."""
    root = Root(expires=expires, consistent_snapshot=True)
    for role, name in TOP_KEYS.items():
        root.add_key(keys[name], role)
    return root


def new_targets(keys: Mapping[str, Key], files: Mapping[str, bytes], expires: datetime.datetime) -> Targets:
    """Make the top-level targets: `files` signed offline, and the two delegations (`release`, `rollout` keys).

    Args:
        keys: by their names, those of the delegations.
        files: the contents of targets that are signed offline, by their paths.
        expires: the end of the metadata.
    """
    roles, used = {}, {}
    for name, (key_name, pattern) in DELEGATED.items():
        key = keys[key_name]
        used[key.keyid] = key
        roles[name] = DelegatedRole(name, [key.keyid], 1, terminating=True, paths=[pattern])
    listed = {path: target_file(path, data) for path, data in files.items()}
    return Targets(expires=expires, targets=listed, delegations=Delegations(used, roles))


def empty_targets(expires: datetime.datetime) -> Targets:
    """A delegated role that lists nothing yet."""
    return Targets(expires=expires)


def target_file(path: str, data: bytes) -> TargetFile:
    """The entry of one target."""
    return TargetFile.from_data(path, data, ["sha256"])


def target_name(path: str, data: bytes) -> str:
    """Return the name of a target's bytes under `targets/`: its hash comes before its last name."""
    folder, _, name = path.rpartition("/")
    return f"{folder}/{hashlib.sha256(data).hexdigest()}.{name}"


def metadata_name(role: str, version: int) -> str:
    """File name of a metadata version; the timestamp alone has none in it."""
    return "timestamp.json" if role == "timestamp" else f"{version}.{role}.json"


def new_snapshot(bodies: Mapping[str, bytes], expires: datetime.datetime) -> Snapshot:
    """A snapshot naming each targets role by version, length and hash.

    The hash lets go of what a stolen key signed at the same version: a device that holds it fetches the role anew.
    """
    return Snapshot(expires=expires, meta={f"{role}.json": _meta(bodies[role]) for role in TARGET_ROLES})


def new_timestamp(snapshot: bytes, expires: datetime.datetime) -> Timestamp:
    """A timestamp naming the snapshot by version, length and hash."""
    return Timestamp(expires=expires, snapshot_meta=_meta(snapshot))


def _meta(body: bytes) -> MetaFile:
    return MetaFile(version_of(body), len(body), {"sha256": hashlib.sha256(body).hexdigest()})


def sign(signed: Any, version: int, signers: list[CryptoSigner]) -> bytes:
    """Set the version and sign with every signer; Ed25519 makes equal input give equal bytes.

    Args:
        signed: the content of a role; its version is set.
        version: the new one.
        signers: each adds a signature.
    """
    signed.version = version
    metadata: Metadata[Any] = Metadata(signed)
    for one in signers:
        metadata.sign(one, append=True)
    return metadata.to_bytes(JSONSerializer(compact=True))


def signing_payload(signed: Any, version: int) -> bytes:
    """The canonical bytes that a signature of `signed` at `version` covers."""
    signed.version = version
    return CanonicalJSONSerializer().serialize(signed)


def attach(signed: Any, version: int, key_id: str, signature: str) -> bytes:
    """Attach a signature that was made elsewhere (hex Ed25519), and return the metadata.

    Args:
        signed: the content of a role; its version is set.
        version: the one that the signature covers.
        key_id: of the key that signed.
        signature: Ed25519 over `signing_payload`, in hex; it is not checked here.
    """
    signed.version = version
    metadata: Metadata[Any] = Metadata(signed, {key_id: Signature(key_id, signature)})
    return metadata.to_bytes(JSONSerializer(compact=True))


def verify_delegated(targets: bytes, role: str, body: bytes) -> None:
    """Check the signature of delegated metadata.

    Args:
        targets: the delegating metadata.
        role: the delegated role.
        body: its metadata.

    Raises:
        InvalidError: `body` is not signed by the key that `targets` delegates `role` to.
    """
    delegator = read(targets)
    metadata = read(body)
    payload = CanonicalJSONSerializer().serialize(metadata.signed)
    try:
        delegator.signed.verify_delegate(role, payload, metadata.signatures)
    except (RepositoryError, ValueError) as error:
        hint = "sign the payload of GET …/signing with the release key"
        raise InvalidError(f"the signature does not fit role {role!r}: {error}", subject=role, hint=hint) from error


def read(body: bytes) -> Metadata[Any]:
    """Parse metadata; InvalidError when it is none."""
    try:
        return Metadata.from_bytes(body)
    except RepositoryError as error:
        raise InvalidError(f"not TUF metadata: {error}", subject="metadata") from error


def key_ids(root: Root, targets: Targets, role: str) -> list[str]:
    """Return the ids of the keys that may sign `role`.

    Args:
        root: the root metadata.
        targets: the top-level targets, which delegate.
        role: a top-level or a delegated one.
    """
    if role not in DELEGATED:
        return list(root.roles[role].keyids)
    assert targets.delegations is not None and targets.delegations.roles is not None  # new_targets makes them
    return list(targets.delegations.roles[role].keyids)


def expires_at(body: bytes) -> float:
    """Read the time at which a metadata body expires, in Unix seconds."""
    moment: datetime.datetime = read(body).signed.expires
    return moment.replace(tzinfo=datetime.UTC).timestamp()


def version_of(body: bytes) -> int:
    """A metadata body's version."""
    return int(read(body).signed.version)


def version_or_zero(body: bytes) -> int:
    """The version of a stored timestamp, 0 for bytes that are none (torn by a power cut)."""
    try:
        return version_of(body)
    except InvalidError:
        return 0


def release_target(model: str, number: int) -> str:
    """Signed path of a release's manifest."""
    return f"models/{model}/{number}.json"


def floor_target(model: str) -> str:
    """Signed path of a model's floor."""
    return f"models/{model}/floor.json"


def channel_target(channel: str) -> str:
    """Signed path of a channel's document."""
    return f"channels/{channel}.json"
