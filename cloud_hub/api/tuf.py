"""The signed repository over HTTP: numbered files never change, the timestamp is never cached."""

from __future__ import annotations

import re

from fastapi import APIRouter, Response

from cloud_hub.api.access import Fetcher, HubDep
from cloud_hub.api.openapi import errors, gives, gives_one_of
from cloud_hub.api.params import KeyPath
from cloud_hub.errors import NotFoundError
from cloud_hub.trust.transaction import METADATA, TARGETS
from fleet.protocol.channel import Channel
from fleet.protocol.manifest import Floor, Manifest
from fleet.protocol.messages import CommandKeys
from fleet.protocol.tuf_file import TufFile

router = APIRouter(tags=["devices"])

_METADATA = re.compile(r"timestamp\.json|[1-9][0-9]{0,9}\.(root|targets|models|channels|snapshot)\.json")
_TARGET = re.compile(r"(models/[a-z0-9-]{1,63}|channels|hub)/[0-9a-f]{64}\.[a-z0-9-]{1,63}\.json")
_TARGETS = gives_one_of(Channel, CommandKeys, Floor, Manifest)
IMMUTABLE = "public, max-age=31536000, immutable"


@router.get("/tuf/metadata/{name}", responses=gives(TufFile) | errors(404))
def metadata(name: KeyPath, hub: HubDep, caller: Fetcher) -> Response:
    """A metadata file."""
    if _METADATA.fullmatch(name) is None:
        raise NotFoundError(f"no metadata file {name!r}", subject=name)
    caching = "no-cache" if name == "timestamp.json" else IMMUTABLE
    return _json(hub.objects.get(METADATA + name).data, caching)


@router.get("/tuf/targets/{path:path}", responses=_TARGETS | errors(404))
def target(path: KeyPath, hub: HubDep, caller: Fetcher) -> Response:
    """A target file by its hash-prefixed name."""
    if _TARGET.fullmatch(path) is None:
        raise NotFoundError(f"no target {path!r}", subject=path)
    return _json(hub.objects.get(TARGETS + path).data, IMMUTABLE)


def _json(data: bytes, caching: str) -> Response:
    return Response(data, media_type="application/json", headers={"Cache-Control": caching})
