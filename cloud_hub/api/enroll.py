"""The calls by which a device enrols, gets a token, and learns its own assignment."""

from __future__ import annotations

import msgspec
from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from cloud_hub.api.access import DeviceCaller, HubDep
from cloud_hub.api.bodies import read_body, read_upload
from cloud_hub.api.openapi import errors, gives, takes
from cloud_hub.devices.held import HeldIntake
from cloud_hub.devices.told import told
from cloud_hub.identity.device_tokens import NONCE_LIFE_S, TOKEN_LIFE_S
from cloud_hub.identity.enroll import enroll
from cloud_hub.identity.first_contact import trust_bundle
from cloud_hub.identity.renewal import buy_token, reissue_certificate
from fleet.protocol.codec import decode_json
from fleet.protocol.messages import (
    HELD_LIMIT,
    HTTP_LIMIT,
    DeviceMe,
    EnrollRequest,
    EnrollResponse,
    Held,
    HeldAnswer,
    NonceRequest,
    NonceResponse,
    RenewRequest,
    RenewResponse,
    TokenRequest,
    TokenResponse,
    TrustBundle,
)
from fleet.protocol.names import check_name

router = APIRouter(tags=["devices"])


def _answer(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


@router.get("/enroll/trust", responses=gives(TrustBundle))
def trust(hub: HubDep) -> Response:
    """The first root and the hub's CA certificate; a claim token pins both."""
    return _answer(trust_bundle(hub))


@router.post(
    "/enroll", responses=gives(EnrollResponse) | errors(401, 403, 404, 409), openapi_extra=takes(EnrollRequest)
)
async def enroll_device(request: Request, hub: HubDep) -> Response:
    """Enrol with a claim token; see `identity.enroll`."""
    wanted = decode_json(await read_body(request, HTTP_LIMIT), EnrollRequest, limit=HTTP_LIMIT)
    return _answer(await run_in_threadpool(enroll, hub, wanted))


@router.post("/device/nonce", responses=gives(NonceResponse), openapi_extra=takes(NonceRequest))
async def nonce(request: Request, hub: HubDep) -> Response:
    """A nonce for a device id, known or not (the answer does not tell)."""
    wanted = decode_json(await read_body(request, HTTP_LIMIT), NonceRequest, limit=HTTP_LIMIT)
    check_name(wanted.device_id, "device")
    value = hub.device_tokens.nonce(wanted.device_id, now=hub.clock())
    return _answer(NonceResponse(nonce=value, expires_in_s=NONCE_LIFE_S))


@router.post("/device/token", responses=gives(TokenResponse) | errors(401), openapi_extra=takes(TokenRequest))
async def token(request: Request, hub: HubDep) -> Response:
    """A bearer token for a signed nonce."""
    wanted = decode_json(await read_body(request, HTTP_LIMIT), TokenRequest, limit=HTTP_LIMIT)
    value = await run_in_threadpool(buy_token, hub, wanted)
    return _answer(TokenResponse(token=value, expires_in_s=TOKEN_LIFE_S))


@router.post("/device/renew", responses=gives(RenewResponse) | errors(401, 409, 429), openapi_extra=takes(RenewRequest))
async def renew_certificate(request: Request, hub: HubDep) -> Response:
    """A new certificate for a device that proves its enrolled key; see `identity.renewal`."""
    wanted = decode_json(await read_body(request, HTTP_LIMIT), RenewRequest, limit=HTTP_LIMIT)
    return _answer(await run_in_threadpool(reissue_certificate, hub, wanted))


@router.post(
    "/device/held",
    responses=gives(HeldAnswer) | errors(403, 429, 503, 504),
    openapi_extra=takes(Held, media_type="application/msgpack"),
)
async def held(request: Request, device_id: DeviceCaller) -> Response:
    """Signed bytes that a device keeps and that are newer than this hub's, as after a restore from a backup."""
    intake: HeldIntake = request.app.state.held
    intake.admit(device_id)
    data = await read_upload(request, HELD_LIMIT)
    return _answer(HeldAnswer(lifted=await run_in_threadpool(intake.take, device_id, data)))


@router.get("/device/me", responses=gives(DeviceMe))
def me(hub: HubDep, device_id: DeviceCaller) -> Response:
    """The device's channel, groups, pins and broker. A release that its agent does not understand is pinned away."""
    return _answer(told(hub, device_id))
