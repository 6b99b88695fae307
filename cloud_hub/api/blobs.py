"""Blobs by SHA-256: devices and mirrors read them by range, operators upload them."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from cloud_hub.api.access import Fetcher, HubDep, OperatorUser, Viewer
from cloud_hub.api.openapi import BINARY, errors, gives, takes
from cloud_hub.api.params import KeyPath
from cloud_hub.api.tuf import IMMUTABLE
from cloud_hub.context import Hub
from cloud_hub.errors import InvalidError, NotFoundError, TooLargeError
from cloud_hub.objects import blob_key, delta_key
from fleet.api.blobs import StoredBlob, StoredDelta
from fleet.protocol import delta
from fleet.protocol.errors import ProtocolError

router = APIRouter(tags=["blobs"])

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


_PIECES: dict[int | str, dict[str, Any]] = {
    **gives(media_type=BINARY),
    **gives(media_type=BINARY, status=206),
    **errors(404),
    304: {"description": "The caller has it already."},
    416: {"description": "The range begins after the end."},
}


@router.get("/blobs/{sha256}", response_class=Response, responses=_PIECES)
def download(
    sha256: KeyPath,
    hub: HubDep,
    caller: Fetcher,
    range_header: Annotated[str | None, Header(alias="Range")] = None,
    if_range: Annotated[str | None, Header()] = None,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """The bytes, whole or one range (RFC 9110); the ETag is the hash in quotes."""
    return _served(hub, blob_key(sha256), sha256, range_header, if_range, if_none_match)


@router.get("/blobs/{sha256}/from/{old}", response_class=Response, responses=_PIECES)
def download_delta(
    sha256: KeyPath,
    old: KeyPath,
    hub: HubDep,
    caller: Fetcher,
    range_header: Annotated[str | None, Header(alias="Range")] = None,
    if_range: Annotated[str | None, Header()] = None,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """The patch that makes blob `sha256` of blob `old`: an unsigned hint that devices check by the full hash."""
    return _served(hub, delta_key(sha256, old), f"{sha256}-{old}", range_header, if_range, if_none_match)


def _served(
    hub: Hub, key: str, name: str, range_header: str | None, if_range: str | None, if_none_match: str | None
) -> Response:
    found = hub.objects.info(key)
    if found is None:
        raise NotFoundError(f"no blob {name}", subject=name)
    tag = f'"{name}"'
    headers = {"ETag": tag, "Accept-Ranges": "bytes", "Cache-Control": IMMUTABLE}
    if if_none_match == tag:
        return Response(status_code=304, headers=headers)
    span = None
    if range_header is not None and if_range in (None, tag):
        span = parse_range(range_header, found.size)
    if span is not None and span[0] >= span[1]:
        return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{found.size}"})
    start, end = span or (0, found.size)
    headers["Content-Length"] = str(end - start)
    if span is not None:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{found.size}"
    pieces = hub.objects.stream(found.key, start, end - start)
    return StreamingResponse(
        pieces, 206 if span is not None else 200, media_type="application/octet-stream", headers=headers
    )


def parse_range(header: str, size: int) -> tuple[int, int] | None:
    """Start and end (exclusive) of a single byte range; None for a header to be ignored.

    An unsatisfiable range gives start >= end.
    """
    match = _RANGE.fullmatch(header.strip())
    if match is None or match.group(1) == match.group(2) == "":
        return None
    first, last = match.groups()
    if first == "":
        return max(0, size - int(last)), size if int(last) > 0 else 0
    if last and int(last) < int(first):
        return None
    return int(first), min(size, int(last) + 1 if last else size)


_STORED: dict[int | str, dict[str, Any]] = {
    200: {"model": StoredBlob, "description": "It was there before."},
    **errors(404),
}


@router.put("/api/v1/blobs/{sha256}", status_code=201, responses=_STORED, openapi_extra=takes(media_type=BINARY))
async def upload(
    sha256: KeyPath, request: Request, response: Response, hub: HubDep, caller: OperatorUser
) -> StoredBlob:
    """Store a blob: gathered beside, hashed while it comes in, and kept only when it is what it says."""
    key = blob_key(sha256)
    path, size = await _gather(request, hub, sha256)
    try:
        created = await run_in_threadpool(_store, hub, key, path, caller.actor, size)
    finally:
        path.unlink()
    if not created:
        response.status_code = 200
    return StoredBlob(sha256=sha256, size=size, created=created)


@router.head(
    "/api/v1/blobs/{sha256}",
    response_class=Response,
    responses={
        200: {"description": "It is there; `X-Blob-Size` has its size."},
        404: {"description": "It is not there."},
    },
)
def look(sha256: KeyPath, hub: HubDep, caller: Viewer) -> Response:
    """Whether a blob is there, and its size."""
    found = hub.objects.info(blob_key(sha256))
    if found is None:
        return Response(status_code=404)
    return Response(headers={"X-Blob-Size": str(found.size), "ETag": f'"{sha256}"'})


@router.put(
    "/api/v1/blobs/{sha256}/from/{old}",
    status_code=201,
    responses=errors(404),
    openapi_extra=takes(media_type=BINARY),
)
async def upload_delta(
    sha256: KeyPath, old: KeyPath, request: Request, hub: HubDep, caller: OperatorUser
) -> StoredDelta:
    """Store a patch between two blobs; it may not be larger than what it makes, and says what it is for."""
    key = delta_key(sha256, old)
    whole = await run_in_threadpool(hub.objects.info, blob_key(sha256))
    if whole is None:
        raise NotFoundError(f"no blob {sha256}", subject=sha256, hint="upload the blob before its patches")
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > whole.size:
            raise TooLargeError(f"the patch is larger than the {whole.size} bytes that it makes", subject=sha256)
    try:
        header = delta.decode_header(bytes(body[: delta.HEADER_SIZE]), total=len(body))
    except ProtocolError as error:
        raise InvalidError(f"not a patch: {error}", subject=sha256) from error
    if (header.new, header.old, header.new_size) != (sha256, old, whole.size):
        raise InvalidError("the patch is for other blobs", subject=sha256, hint=f"it makes {header.new}")
    created = await run_in_threadpool(hub.objects.put_new, key, bytes(body))
    if created:
        with hub.session() as session:
            hub.audit(session, caller.actor, "delta.upload", sha256, {"from": old, "size": len(body)})
    return StoredDelta.model_validate({"sha256": sha256, "from": old, "size": len(body), "created": created})


def _store(hub: Hub, key: str, path: Path, actor: str, size: int) -> bool:
    created = hub.objects.put_file(key, path)
    if not created:
        return False
    with hub.session() as session:
        hub.audit(session, actor, "blob.upload", key.removeprefix("blobs/"), {"size": size})
    return True


async def _gather(request: Request, hub: Hub, sha256: str) -> tuple[Path, int]:
    """The body in a temporary file, after its hash was compared; the caller removes the file."""
    limit, digest, size = hub.config.limits.blob, hashlib.sha256(), 0
    descriptor, name = tempfile.mkstemp(dir=hub.config.temporary_dir, prefix="upload-")
    path = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            async for piece in request.stream():
                size += len(piece)
                if size > limit:
                    raise TooLargeError(f"the blob has more than {limit} bytes", subject=sha256)
                digest.update(piece)
                await run_in_threadpool(file.write, piece)
        if digest.hexdigest() != sha256:
            raise InvalidError(
                f"the bytes hash to {digest.hexdigest()}, not to {sha256}", subject=sha256, hint="upload it again"
            )
    except BaseException:
        path.unlink()
        raise
    return path, size
