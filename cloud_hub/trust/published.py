"""Reads what the object store proves beyond a database: newer roots and targets, and what an external key signed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from cloud_hub.errors import InvalidError
from cloud_hub.trust import repository
from cloud_hub.trust.evidence import MOST_ROOTS, verify
from fleet.protocol.messages import Held

Read = Callable[[str], bytes | None]


class Published(NamedTuple):
    """Verified files as they lie in the store: roots that follow the known one, and newer `targets` and `models`."""

    roots: tuple[bytes, ...]
    bodies: dict[str, bytes]


def proven(read: Read, known: Mapping[str, bytes]) -> Published:
    """Find what is published beyond `known`, the newest metadata of the database by its role.

    Args:
        read: a metadata file by its name; None where there is none.
        known: by role.
    """
    first = repository.version_of(known["root"]) + 1
    roots: dict[int, bytes] = {}
    for version in range(first, first + MOST_ROOTS):
        body = read(repository.metadata_name("root", version))
        if body is None:
            break
        roots[version] = body
    files = _listed(read)
    held = Held(roots=tuple(roots.values()), targets=files.get("targets", b""), models=files.get("models", b""))
    found = verify(known, held)
    newer: dict[str, bytes] = {}
    for role, body in files.items():
        if role in found.bodies and repository.version_of(body) > repository.version_of(known[role]):
            newer[role] = body
    return Published(tuple(roots[repository.version_of(body)] for body in found.roots), newer)


def _listed(read: Read) -> dict[str, bytes]:
    """The files that the published snapshot lists; which of them are genuine, `verify` says."""
    found: dict[str, bytes] = {}
    try:
        timestamp = read("timestamp.json")
        if timestamp is None:
            return found
        snapshot = read(repository.metadata_name("snapshot", repository.read(timestamp).signed.snapshot_meta.version))
        if snapshot is None:
            return found
        for role in ("targets", "models"):
            body = read(repository.metadata_name(role, repository.read(snapshot).signed.meta[f"{role}.json"].version))
            if body is not None:
                found[role] = body
    except InvalidError:
        return found  # torn by a power cut
    return found
