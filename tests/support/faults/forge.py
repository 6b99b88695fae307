"""A signed repository in the hands of whoever holds its keys: changed at will, signed by the hub's own code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import DelegatedRole, MetaFile

from cloud_hub.trust import keys, repository
from cloud_hub.trust.transaction import METADATA, TARGETS
from fleet.protocol.channel import Channel, decode_channel, encode_channel
from fleet.protocol.codec import encode_json
from fleet.protocol.manifest import Floor, Manifest, decode_manifest, encode_manifest

LEAP = 1000  # a forger's versions lie above what the honest hub signs meanwhile
Signers = dict[str, list[CryptoSigner]]


class Forge:
    """`files` by key as a hub serves them; `signers` by role, the ones that were stolen or made up."""

    def __init__(self, files: Mapping[str, bytes], signers: Mapping[str, list[CryptoSigner]]) -> None:
        self.files, self.signers = dict(files), dict(signers)
        timestamp = repository.read(self.files[METADATA + "timestamp.json"]).signed
        snapshot = repository.read(self.files[f"{METADATA}{timestamp.snapshot_meta.version}.snapshot.json"]).signed
        self.versions = {"timestamp": timestamp.version, "snapshot": snapshot.version}
        self.versions |= {name.removesuffix(".json"): meta.version for name, meta in snapshot.meta.items()}
        roots = [key for key in self.files if key.endswith(".root.json")]
        self.versions["root"] = max(int(key.rpartition("/")[2].partition(".")[0]) for key in roots)
        self.honest = dict(self.versions)
        self.expires = timestamp.expires

    def key(self, role: str) -> str:
        """The key of the newest metadata of `role`."""
        return METADATA + repository.metadata_name(role, self.versions[role])

    def signed(self, role: str) -> Any:
        """The metadata of `role` now."""
        return repository.read(self.files[self.key(role)]).signed

    def sign(self, role: str, signed: Any, *, version: int = 0, by: Sequence[CryptoSigner] | None = None) -> bytes:
        """Make `signed` the newest metadata of `role`, at `version` or well above the last."""
        self.versions[role] = version or self.versions.get(role, 0) + LEAP
        body = repository.sign(signed, self.versions[role], list(self.signers[role] if by is None else by))
        self.files[self.key(role)] = body
        return body

    def target(self, role: str, path: str, data: bytes, *, by: Sequence[CryptoSigner] | None = None) -> None:
        """List `data` at `path` in `role`."""
        signed = self.signed(role)
        signed.targets[path] = repository.target_file(path, data)
        self.files[TARGETS + repository.target_name(path, data)] = data
        self.sign(role, signed, by=by)

    def data(self, role: str, path: str) -> bytes:
        """The bytes of a target."""
        digest = self.signed(role).targets[path].hashes["sha256"]
        folder, _, name = path.rpartition("/")
        return self.files[f"{TARGETS}{folder}/{digest}.{name}"]

    def seal(self, *, version: int = 0, listed: Mapping[str, int] | None = None, **unknown: Any) -> Forge:
        """A new snapshot and timestamp, at `version` or well above the last; `unknown` fields go into both."""
        bodies = {role: self.files[self.key(role)] for role in repository.TARGET_ROLES}
        snapshot = repository.new_snapshot(bodies, self.expires)
        snapshot.meta |= {f"{role}.json": MetaFile(number) for role, number in (listed or {}).items()}
        snapshot.unrecognized_fields.update(unknown)
        body = self.sign("snapshot", snapshot, version=version)
        timestamp = repository.new_timestamp(body, self.expires)
        timestamp.unrecognized_fields.update(unknown)
        self.sign("timestamp", timestamp, version=version)
        return self

    # ---- what the product keeps in it ------------------------------------------------------------

    def channel(self, name: str = "stable") -> Channel:
        """The document of the channel now."""
        return decode_channel(self.data("channels", repository.channel_target(name)))

    def follow(self, channel: Channel) -> Forge:
        """Let the channel say `channel`."""
        self.target("channels", repository.channel_target(channel.channel), encode_channel(channel))
        return self

    def manifest(self, model: str, number: int) -> Manifest:
        """A release's manifest."""
        return decode_manifest(self.data("models", repository.release_target(model, number)))

    def release(
        self, model: str, number: int, manifest: Manifest, blobs: Mapping[str, bytes], *, by: Any = None
    ) -> Forge:
        """List a release; `blobs` by SHA-256."""
        self.files |= {f"blobs/{sha256}": data for sha256, data in blobs.items()}
        self.target("models", repository.release_target(model, number), encode_manifest(manifest), by=by)
        return self

    def floor(self, model: str, floor: Floor) -> Forge:
        """Set a model's floor."""
        self.target("models", repository.floor_target(model), encode_json(floor))
        return self

    def delegate(self, role: str, to: Sequence[CryptoSigner], threshold: int) -> Forge:
        """Let `threshold` of the keys `to` sign `role`, where the targets key said one did before."""
        targets = self.signed("targets")
        paths = targets.delegations.roles[role].paths
        targets.delegations.roles[role] = DelegatedRole(
            role, [one.public_key.keyid for one in to], threshold, terminating=True, paths=paths
        )
        targets.delegations.keys |= {one.public_key.keyid: one.public_key for one in to}
        self.sign("targets", targets)
        return self


def made_up(*roles: str) -> Signers:
    """Keys of somebody else, by role."""
    return {role: [keys.signer(Ed25519PrivateKey.generate())] for role in roles}


def stolen(online: Path, offline: Path, passphrase: bytes, *, before_rotation: bool = False) -> Signers:
    """A hub's own keys by role: today's, or those that the last rotation replaced."""
    found = {}
    for name in {*keys.KEY_OF_ROLE.values()}:
        path = next(folder / f"{name}.pem" for folder in (online, offline) if (folder / f"{name}.pem").exists())
        old = path.with_name(path.name + ".previous")
        found[name] = keys.load_key(old if before_rotation and old.exists() else path, passphrase)
    return {role: [one] for role, one in keys.signers_by_role(found).items()}
