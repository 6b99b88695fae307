"""Blobs by SHA-256: devices and mirrors read them by range, operators upload them."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from cloud_hub.api.access import Fetcher, HubDep, OperatorUser, Viewer
from cloud_hub.api.bodies import read_upload, uploaded
from cloud_hub.api.openapi import BINARY, errors, gives, takes
from cloud_hub.api.params import KeyPath
from cloud_hub.api.tuf import IMMUTABLE
from cloud_hub.context import Hub
from cloud_hub.errors import NotFoundError
from cloud_hub.objects import blob_key, delta_key
from cloud_hub.trust.blobs import Upload, keep_delta, size_of
from fleet.api.blobs import StoredBlob, StoredDelta

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
    **errors(404, 504),
}


@router.put("/api/v1/blobs/{sha256}", status_code=201, responses=_STORED, openapi_extra=takes(media_type=BINARY))
async def upload(
    sha256: KeyPath, request: Request, response: Response, hub: HubDep, caller: OperatorUser
) -> StoredBlob:
    """Store a blob: gathered beside, hashed while it comes in, and kept only when it is what it says."""
    with Upload(hub, sha256) as upload:
        async for piece in uploaded(request):
            await run_in_threadpool(upload.write, piece)
        stored = await run_in_threadpool(upload.keep, actor=caller.actor)
    response.status_code = 201 if stored.created else 200
    return stored


@router.head(
    "/api/v1/blobs/{sha256}",
    response_class=Response,
    responses={
        200: {"description": "It is there; `X-Blob-Size` has its size."},
        404: {"description": "It is not there."},
    },
)
def look(sha256: KeyPath, hub: HubDep, caller: Viewer) -> Response:
    """Tell whether a blob is there, and its size."""
    found = hub.objects.info(blob_key(sha256))
    if found is None:
        return Response(status_code=404)
    return Response(headers={"X-Blob-Size": str(found.size), "ETag": f'"{sha256}"'})


@router.put(
    "/api/v1/blobs/{sha256}/from/{old}",
    status_code=201,
    responses=errors(404, 504),
    openapi_extra=takes(media_type=BINARY),
)
async def upload_delta(
    sha256: KeyPath, old: KeyPath, request: Request, hub: HubDep, caller: OperatorUser
) -> StoredDelta:
    """Store a patch between two blobs; it may not be larger than what it makes, and says what it is for."""
    limit = await run_in_threadpool(size_of, hub, sha256)
    patch = await read_upload(request, limit, hint="a patch is no larger than the blob that it makes")
    return await run_in_threadpool(keep_delta, hub, sha256, old, patch, actor=caller.actor)
