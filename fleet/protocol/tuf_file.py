"""Metadata of the signed repository, as whoever copies or describes it reads it.

The form is that of The Update Framework 1.0 (https://theupdateframework.github.io/specification/v1.0.33/). Nothing is
verified here: a device does that with the TUF client, over the bytes.
"""

from __future__ import annotations

import datetime

from msgspec import UNSET, Struct, UnsetType, field

from fleet.protocol.codec import decode_json

LIMIT = 64 << 20  # bytes; the role of all models' targets grows with their releases


class TufSignature(Struct, frozen=True, kw_only=True):
    """A signature over the canonical JSON of `signed`, in hex, by the key of that id."""

    keyid: str
    sig: str


class TufMeta(Struct, frozen=True, kw_only=True):
    """A metadata file that the timestamp or the snapshot names."""

    version: int
    length: int | UnsetType = UNSET
    hashes: dict[str, str] | UnsetType = UNSET


class TufTarget(Struct, frozen=True, kw_only=True):
    """A target file, with hashes in hex by their algorithm."""

    length: int
    hashes: dict[str, str]


class TufKey(Struct, frozen=True, kw_only=True):
    """A public key that a root or a delegation trusts; `keyval` by its type."""

    keytype: str
    scheme: str
    keyval: dict[str, str]


class TufThreshold(Struct, frozen=True, kw_only=True):
    """The keys of a role of the root, and how many of them have to sign."""

    keyids: tuple[str, ...]
    threshold: int


class TufDelegation(Struct, frozen=True, kw_only=True):
    """A role that another trusts with the targets of some paths."""

    name: str
    keyids: tuple[str, ...]
    threshold: int
    terminating: bool
    paths: tuple[str, ...] | UnsetType = UNSET


class TufDelegations(Struct, frozen=True, kw_only=True):
    """The roles that a targets file delegates to, and their keys by id."""

    keys: dict[str, TufKey]
    roles: tuple[TufDelegation, ...]


class TufRole(Struct, frozen=True, kw_only=True):
    """The signed part: of a root `keys` and `roles`, of timestamp and snapshot `meta`, of targets the rest."""

    type: str = field(name="_type")
    spec_version: str
    version: int
    expires: datetime.datetime
    consistent_snapshot: bool | UnsetType = UNSET
    keys: dict[str, TufKey] | UnsetType = UNSET
    roles: dict[str, TufThreshold] | UnsetType = UNSET
    meta: dict[str, TufMeta] = field(default_factory=dict)
    targets: dict[str, TufTarget] = field(default_factory=dict)
    delegations: TufDelegations | UnsetType = UNSET


class TufFile(Struct, frozen=True, kw_only=True):
    """A file of metadata: what is signed, and the signatures over it."""

    signed: TufRole
    signatures: tuple[TufSignature, ...]


def decode_tuf_file(data: bytes, *, subject: str = "") -> TufFile:
    """Decode the metadata in a file's bytes.

    Raises:
        TooLargeError, MalformedError: it is no metadata of TUF; the message says where.
    """
    return decode_json(data, TufFile, limit=LIMIT, subject=subject)
