"""First contact: check the pin, then show the claim token's secret, then keep what the hub answers."""

from __future__ import annotations

import hashlib
import hmac
import logging
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from edge_agent.errors import (
    AgentError,
    ConflictError,
    DeniedError,
    IdentityError,
    PinError,
    UnreachableError,
    UsageError,
)
from edge_agent.host.clock import FILE as FLOOR
from edge_agent.host.clock import TimeFloor
from edge_agent.host.durable import make_folder, write_durably
from edge_agent.host.lock import agent_lock
from edge_agent.identity import pairs
from edge_agent.identity.keys import load_or_make_key, signing_request
from fleet.protocol.codec import decode_json, encode_json
from fleet.protocol.errors import ProtocolError
from fleet.protocol.hosts import is_loopback
from fleet.protocol.messages import HTTP_LIMIT, EnrollRequest, EnrollResponse, MqttEndpoint, TrustBundle

if TYPE_CHECKING:
    import urllib3
    from cryptography.hazmat.primitives.asymmetric import ec

T = TypeVar("T")

log = logging.getLogger(__name__)

FILE = "enrollment.json"
FIRST_ROOT = "first-root.json"
ENDPOINT_LIMITS = {"host": 253, "prefix": 255, "password": 1024}  # characters; a DNS name has 253 at most


class ClaimToken(NamedTuple):
    """The parts of `el1.<id>.<secret>.<pin>`."""

    id: str
    secret: str
    pin: str


class Enrollment(Struct, frozen=True, kw_only=True):
    """The facts about itself and its hub that a device has from its enrolment."""

    hub: str
    device_id: str
    channel: str
    mqtt: MqttEndpoint


def parse_claim(text: str) -> ClaimToken:
    """Split a claim token; raises UsageError when it is not one."""
    parts = text.strip().split(".")
    if len(parts) != 4 or parts[0] != "el1" or len(parts[3]) != 64:
        raise UsageError("not a claim token", subject="token", hint="make one: fleet token create --channel CHANNEL")
    return ClaimToken(parts[1], parts[2], parts[3])


def enroll(
    url: str,
    token: str,
    directory: Path,
    *,
    name: str,
    agent: str,
    hardware: dict[str, str],
    clock: Callable[[], float] = time.time,
) -> Enrollment:
    """Enrol this device with the hub at `url`; safe to repeat with the same token after any crash.

    Args:
        url: of the hub.
        token: a claim token, which names the hub's authority.
        directory: of the agent; it is made.
        name: wished for; empty for one that the hub chooses.
        agent: the version that the device tells.
        hardware: words about the machine, by kind.
        clock: Unix seconds.

    Raises:
        UsageError: not a claim token, or plain http beyond loopback.
        PinError: the hub is not the one the token was made for; nothing secret was sent.
        DeniedError: it refuses the token.
        ConflictError: the token was used by another key, the name is taken, this directory belongs to
            another hub, or an agent or another enrolment works in it.
        IdentityError: what the hub answers is no certificate for this device's key.
        UnreachableError: no answer.
    """
    from edge_agent import runtimes

    claim, base = parse_claim(token), _checked(url)
    identity = directory / "identity"
    make_folder(identity)
    with agent_lock(directory):  # of two at once, one would keep the certificate of the other's key
        _refuse_other_hub(identity, base)
        bundle = _trust(base)
        if not hmac.compare_digest(hashlib.sha256(bundle.root + bundle.ca).hexdigest(), claim.pin):
            raise PinError(
                "the hub at this address is not the one that made the token: the pin differs",
                subject=base,
                hint="check the address, or make a new token on that hub",
            )
        key = _key(identity / pairs.KEY)
        request = EnrollRequest(
            token=claim.id,
            secret=claim.secret,
            csr=signing_request(key, name),
            name=name,
            agent=agent,
            hardware=hardware,
            capabilities=runtimes.capabilities(),
        )
        answer = _post(base, bundle.ca, request)
        return _kept(directory, base, bundle, answer, key, clock())


def _kept(
    directory: Path, base: str, bundle: TrustBundle, answer: EnrollResponse, key: ec.EllipticCurvePrivateKey, now: float
) -> Enrollment:
    """Write what the hub answered, `FILE` last: its presence says that enrolment is complete."""
    from edge_agent.identity.certificates import check_certificate

    identity = directory / "identity"
    since = check_certificate(answer.certificate, key.public_key(), bundle.ca)
    write_durably(identity / FIRST_ROOT, bundle.root)
    write_durably(identity / "ca.pem", bundle.ca)
    write_durably(identity / pairs.CERTIFICATE, answer.certificate.encode())
    # The first moment that is signed: a clock that is lost before the first look must not make any old metadata good.
    TimeFloor(directory / FLOOR).raise_to(min(now, since))
    found = Enrollment(hub=base, device_id=answer.device_id, channel=answer.channel, mqtt=answer.mqtt)
    write_enrollment(identity, found)
    return found


def write_enrollment(identity: Path, enrollment: Enrollment) -> None:
    """Write what `load_enrollment` reads.

    Raises:
        IdentityError: it is larger than what is read again, or names what can be no broker's address.
    """
    mqtt, data = enrollment.mqtt, encode_json(enrollment)
    lengths = {"host": len(mqtt.host), "prefix": len(mqtt.prefix), "password": len(mqtt.password)}
    long = [name for name, length in lengths.items() if length > ENDPOINT_LIMITS[name]]
    if long or len(data) > HTTP_LIMIT:
        raise IdentityError(
            f"the hub names a broker whose {' and '.join(long) or 'device'} cannot be one: {len(data)} bytes",
            subject=enrollment.hub,
            hint="is this the hub? its operator sets the broker in hub.toml",
        )
    write_durably(identity / FILE, data)


def load_enrollment(directory: Path) -> Enrollment:
    """Read the facts that `enroll` kept.

    Raises:
        IdentityError: there is nothing, or nothing that can be understood. OSError: it cannot be read.
    """
    path = directory / "identity" / FILE
    try:
        return decode_json(path.read_bytes(), Enrollment, limit=HTTP_LIMIT, subject=str(path))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise IdentityError(
            f"{directory}: this device is not enrolled",
            subject=str(directory),
            hint=f"edge-agent enroll URL --token T --dir {directory}",
        ) from error
    except ProtocolError as error:
        raise IdentityError(f"{path}: {error}", subject=str(path), hint=enrol_again(directory)) from error


def first_root(directory: Path) -> bytes:
    """The hub's first root, whose keys began every trust; raises IdentityError when it is missing or torn."""
    path = directory / "identity" / FIRST_ROOT
    try:
        data = path.read_bytes()
        msgspec.json.decode(data)  # what it says, its signatures must bear out
        return data
    except (OSError, ValueError) as error:
        why = f"{path}: no first root of the hub: {error}"
        raise IdentityError(why, subject=str(path), hint=enrol_again(directory)) from error


def enrol_again(directory: Path) -> str:
    """Give the advice about a file of the identity that is missing or damaged."""
    return f"stop the agent, and enrol it again: edge-agent enroll URL --token T --dir {directory}"


def _checked(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"{url!r} is not an http(s) address", subject="url")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise UsageError(f"{url} would send secrets in the clear", subject="url", hint="use https beyond loopback")
    return f"{parts.scheme}://{parts.netloc}"


def _key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The device's key; a fresh one in the place of a file that the disk damaged, which is kept beside it."""
    try:
        return load_or_make_key(path)
    except IdentityError as error:
        aside = path.with_name(f"{path.name}.damaged")
        log.warning("%s; set aside as %s", error, aside.name)
        path.replace(aside)
        return load_or_make_key(path)


def _refuse_other_hub(identity: Path, base: str) -> None:
    try:
        other = load_enrollment(identity.parent).hub != base
    except IdentityError:
        return  # never enrolled, or what said with whom is damaged: the pin alone decides
    if other:
        raise ConflictError(
            f"{identity.parent} is enrolled with another hub",
            subject=base,
            hint="use another --dir, or remove this one",
        )


def _trust(base: str) -> TrustBundle:
    # Nothing is known yet, so nothing is verified here: the pin is what makes the answer trusted.
    import urllib3

    from edge_agent.identity.pool import pool_manager

    pool = pool_manager(cert_reqs="CERT_NONE", retries=False, timeout=10.0)
    urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    answer = _call(pool, "GET", f"{base}/enroll/trust", None)
    return _decode(answer, TrustBundle)


def _post(base: str, ca: bytes, request: EnrollRequest) -> EnrollResponse:
    from edge_agent.identity.pool import pool_manager

    context = ssl.create_default_context(cadata=ca.decode())
    pool = pool_manager(ssl_context=context, retries=False, timeout=30.0)
    return _decode(_call(pool, "POST", f"{base}/enroll", encode_json(request)), EnrollResponse)


def _call(pool: urllib3.PoolManager, method: str, url: str, body: bytes | None) -> bytes:
    from urllib3.exceptions import HTTPError

    try:
        answer = pool.request(method, url, body=body, redirect=False, preload_content=False)
        data = answer.read(HTTP_LIMIT + 1)
        answer.release_conn()
    except HTTPError as error:
        hint = "is the hub running?"
        if "not yet valid" in str(error) or "has expired" in str(error):  # OpenSSL's words
            hint = f"this device's clock says {time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC: set it"
        raise UnreachableError(f"{url} does not answer: {error}", subject=url, hint=hint) from error
    if answer.status == 200:
        return data
    refusal = _refusal(data)
    kinds: dict[int, type[AgentError]] = {401: DeniedError, 403: DeniedError, 409: ConflictError}
    raise kinds.get(answer.status, AgentError)(
        f"the hub refuses: {refusal.get('error') or f'HTTP {answer.status}'}",
        subject=url,
        hint=str(refusal.get("hint") or ""),
    )


def _refusal(data: bytes) -> dict[str, object]:
    """Return the hub's words of a refusal (`error`, `hint`); empty where another server answers."""
    try:
        return msgspec.json.decode(data, type=dict[str, object])
    except msgspec.DecodeError:
        return {}


def _decode(data: bytes, kind: type[T]) -> T:
    try:
        return decode_json(data, kind, limit=HTTP_LIMIT)
    except ProtocolError as error:
        raise AgentError(f"this is not an Edgeloop hub's answer: {error}", hint="check the address") from error
