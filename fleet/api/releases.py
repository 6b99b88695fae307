"""Releases: signed, numbered versions of a model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fleet.api.base import Page, RequestModel, ResponseModel
from fleet.api.types import INT32, Hex, Key, Text
from fleet.api.wire import Wire
from fleet.protocol.manifest import Manifest

ReleaseStatus = Literal["reserved", "awaiting-signature", "published", "withdrawn"]


class Withdrawal(RequestModel):
    """The reason for which a release is withdrawn."""

    reason: Text


class OutsideSignature(RequestModel):
    """Hex Ed25519 signature over the payload of `GET …/signing`, and the version it was for."""

    key_id: Key
    signature: Hex
    version: Annotated[int, Field(ge=0, le=INT32)]


class PublishedRelease(ResponseModel):
    """A release that was just published, or waits for its signature."""

    model: str
    number: int
    status: ReleaseStatus


class ReleaseInfo(PublishedRelease):
    """A release without its manifest."""

    note: str = ""
    created_at: float
    published_at: float | None = None
    created_by: str = ""


class MeasuredFigures(ResponseModel):
    """A variant's figures as devices of one hardware class measured them: medians over the devices, of latencies and
    load time (µs) and of memory (bytes); `worst_p95_us` is the slowest device's."""

    hardware: str
    variant: str
    runtime: str
    devices: int
    p50_us: float
    p95_us: float
    worst_p95_us: float
    load_us: float
    memory_bytes: int
    process_bytes: int


class ReleaseDetail(ReleaseInfo):
    """A release with its manifest (null while it is only reserved) and what devices measured of it."""

    manifest: Annotated[Manifest, Wire(Manifest)] | None = None
    measured: list[MeasuredFigures] = []


class ReleaseCard(ResponseModel):
    """A release's model card as Markdown (CommonMark with tables), for people."""

    model: str
    number: int
    markdown: str


class SigningPayload(ResponseModel):
    """The bytes that the holder of the release key signs: Ed25519 over the decoded (base64) `payload`."""

    payload: str
    version: int
    key_id: str = ""


class ReleasePage(Page[ReleaseInfo]):
    """A model's releases, newest first."""
