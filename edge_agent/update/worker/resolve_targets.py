"""One look, in the child: refresh, read the channel and what is this device's own, resolve, check manifests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from edge_agent.errors import AgentError, FetchError, RefusedError, TrustError, UnreachableError, said
from edge_agent.ports import HubCalls
from edge_agent.update.disk.state import Looked
from edge_agent.update.disk.store import Store
from edge_agent.update.download.manifest_patch import FromHeld
from edge_agent.update.messages import Beside, LookRequest, Offer, Refusal
from edge_agent.update.rules.model_state import HeldRelease, UpdateTarget
from edge_agent.update.worker.tuf_client import Trusted
from fleet.protocol import resolve
from fleet.protocol.channel import CHANNEL_LIMIT, Channel, decode_channel
from fleet.protocol.codec import decode_json
from fleet.protocol.errors import ProtocolError, UnsupportedError
from fleet.protocol.manifest import MANIFEST_LIMIT, Floor, Manifest, Variant, decode_manifest
from fleet.protocol.messages import HTTP_LIMIT, DeviceMe

if TYPE_CHECKING:
    from edge_agent.identity.upkeep import IdentityTrouble


def me(hub: HubCalls, asked: LookRequest) -> DeviceMe:
    """The device's channel, groups and pins; the ones it knows already when the hub does not answer this.

    Raises:
        UnreachableError: what came is no hub's answer.
    """
    from edge_agent.identity.http import read_answer

    try:
        answer = hub.request("GET", "/device/me", timeout=30.0)
    except UnreachableError:
        answer = None
    if answer is None or answer.status != 200:
        return DeviceMe(device_id=asked.device_id, channel=asked.channel, groups=asked.groups, pins=asked.pins)
    return read_answer(answer.data, DeviceMe, "/device/me")


def looked(trusted: Trusted, mine: DeviceMe, asked: LookRequest) -> Looked:
    """Read the channel and the hub's command key.

    Args:
        trusted: the verified metadata.
        mine: what the hub tells this device.
        asked: the look's request.

    Raises:
        TrustError, FetchError: the channel cannot be read.
        RefusedError: it is not valid (`bad-channel`).
        UnsupportedError: it requires what this agent lacks.
    """
    name = mine.channel or asked.channel
    data = _channel_file(trusted, name)
    channel = _decoded(data, name, frozenset(asked.capabilities)) if data is not None else None
    if channel is not None and channel.channel != name:
        raise TrustError(f"channels/{name}.json holds channel {channel.channel!r}", subject=name)
    key = trusted.read("hub/command-key.json", HTTP_LIMIT) or b""
    return Looked(
        channel=channel,
        channel_name=name,
        groups=mine.groups,
        pins=mine.pins,
        command_key=key,
        tuf=trusted.versions,
        tuf_expires=trusted.expires,
        clock="untrusted" if trusted.problem == "clock-untrusted" else "trusted",
        problem=trusted.problem or ("" if channel else "no-channel"),
        hint=trusted.detail,
    )


def _channel_file(trusted: Trusted, name: str) -> bytes | None:
    try:
        return trusted.read(f"channels/{name}.json", CHANNEL_LIMIT)
    except FetchError as error:
        if error.reason != "not-found":
            raise
        text = f"channel {name!r}, which this device follows, is signed, but its file is missing"
        raise FetchError(text, subject=name, reason=error.reason, hint=error.hint) from error


def _decoded(data: bytes, name: str, capabilities: frozenset[str]) -> Channel:
    try:
        return decode_channel(data, capabilities)
    except UnsupportedError:
        raise
    except ProtocolError as error:
        raise RefusedError(
            f"channels/{name}.json: {error}",
            subject=name,
            reason="bad-channel",
            hint=error.hint or "publish the channel again on the hub: fleet channel set",
        ) from error


def concluded(seen: Looked, trusted: Trusted) -> Looked:
    """`seen` with what only reading the releases brought to light: the role that signs them may have expired."""
    return replace(
        seen,
        tuf=trusted.versions,
        tuf_expires=trusted.expires,
        problem=trusted.problem or seen.problem,
        hint=trusted.detail or seen.hint,
    )


def identified(seen: Looked, identity: Path, trouble: IdentityTrouble) -> Looked:
    """Add to `seen` the end of this device's certificate, and any trouble with the identity.

    Args:
        seen: the look's result so far.
        identity: the folder of key and certificate.
        trouble: with the identity, as it was met.
    """
    from edge_agent.identity.certificates import expires_at

    if trouble.word and seen.problem in ("", "no-channel"):
        seen = replace(seen, problem=trouble.word, hint=trouble.detail)
    return replace(seen, certificate_expires=expires_at(identity))


def offers(
    trusted: Trusted, channel: Channel, mine: DeviceMe, asked: LookRequest, store: Store, hub: HubCalls | None = None
) -> Iterator[Offer | Refusal]:
    """Offer each model's release for this device, or refuse it with a reason; `hub` may have patches of manifests.

    Args:
        trusted: the verified metadata.
        channel: its document.
        mine: what the hub tells this device.
        asked: the look's request.
        store: holds manifests and blobs.
        hub: may have patches of manifests; None to fetch them whole.
    """
    for model in channel.models:
        target = resolve.resolve(
            channel,
            model,
            asked.device_id,
            groups=frozenset(mine.groups),
            pin=mine.pins.get(model),
            committed=asked.committed.get(model),
        )
        assert target is not None  # the model is on the channel
        try:
            held = _checked(trusted, model, target.release, asked, store, hub)
        except (AgentError, ProtocolError, OSError) as error:  # OSError: this disk takes no new manifest; other models
            word, hint = _said(error)  # may go back
            yield Refusal(
                model=model, release=target.release, reason=word, detail=str(error), hint=hint, rollout=target.rollout
            )
        else:
            yield Offer(model=model, target=UpdateTarget(held=held, rollout=target.rollout))


def beside(
    trusted: Trusted, channel: Channel, mine: DeviceMe, asked: LookRequest, store: Store, hub: HubCalls | None = None
) -> Iterator[Beside]:
    """Yield the releases that shadow stages want of this device; each passes the checks of one that is to serve.

    Args:
        trusted: the verified metadata.
        channel: its document.
        mine: what the hub tells this device.
        asked: the look's request.
        store: holds manifests and blobs.
        hub: may have patches of manifests; None to fetch them whole.
    """
    for model in channel.models:
        rollout = resolve.shadows(
            channel,
            model,
            asked.device_id,
            groups=frozenset(mine.groups),
            pin=mine.pins.get(model),
            committed=asked.committed.get(model),
        )
        if rollout is None:
            continue
        try:
            held = _checked(trusted, model, rollout.release, asked, store, hub)
        except (AgentError, ProtocolError, OSError) as error:
            word, _ = _said(error)
            yield Beside(model=model, rollout=rollout, reason=word, detail=str(error))
        else:
            yield Beside(model=model, rollout=rollout, held=held)


def _said(error: Exception) -> tuple[str, str]:
    if isinstance(error, ProtocolError) and not isinstance(error, UnsupportedError):
        return "bad-manifest", error.hint
    return said(error)


def _checked(
    trusted: Trusted, model: str, release: int, asked: LookRequest, store: Store, hub: HubCalls | None
) -> HeldRelease:
    for held in asked.held.get(model, ()):
        if held.release == release:
            _check_floor(trusted, model, release, held=True)
            return held
    _check_fresh(trusted, model)
    _check_floor(trusted, model, release, held=False)
    near = FromHeld(hub, store, asked.held.get(model, ())) if hub is not None else None
    data = trusted.read(f"models/{model}/{release}.json", MANIFEST_LIMIT, made=near)
    _check_fresh(trusted, model)  # once more: the role that signs releases was only read now
    if data is None:
        raise TrustError(f"nobody signed release {release} of {model!r}", subject=model, reason="unsigned")
    manifest = decode_manifest(data, frozenset(asked.capabilities))
    variant = choose_variant(manifest, asked.kinds, asked.variants, asked.runtimes)
    broken = manifest.gate.broken_by(variant.verdict)
    if broken:
        raise RefusedError(
            f"release {release}, variant {variant.name}: {'; '.join(broken)}", subject=model, reason="gate-broken"
        )
    return HeldRelease(release=release, variant=variant.name, manifest=store.put_manifest(data))


def _check_fresh(trusted: Trusted, model: str) -> None:
    """Under an untrusted clock or expired metadata nothing new begins."""
    if trusted.problem:
        raise TrustError(
            trusted.detail, subject=model, reason=trusted.problem, hint="what is installed goes on serving"
        )


def _check_floor(trusted: Trusted, model: str, release: int, *, held: bool) -> None:
    """A release that is held is not held back by a floor that cannot be fetched, or a halt would wait for the network;
    nor by one that is wrong where the metadata is no good anyway."""
    try:
        data = trusted.read(f"models/{model}/floor.json", MANIFEST_LIMIT)
    except (FetchError, UnreachableError):
        if not held:
            raise
        return
    except TrustError:
        if not (held and trusted.problem):
            raise
        return
    if data is None:
        return
    floor = decode_json(data, Floor, limit=MANIFEST_LIMIT, subject="floor")
    forbidden = floor.forbids(release)
    if forbidden:
        reason = "below-floor" if release < floor.min_release else "withdrawn"
        raise RefusedError(f"{model}: {forbidden}", subject=model, reason=reason, hint="choose another release")


def choose_variant(
    manifest: Manifest, kinds: tuple[str, ...], preferred: tuple[str, ...] = (), runtimes: tuple[str, ...] = ()
) -> Variant:
    """Choose the first edge variant that a runtime here can run: the device's preference, then the publisher's order.

    A variant that names the runtimes it was proven on is passed over where none of them is installed.

    Args:
        manifest: the release's.
        kinds: of variants that can run here.
        preferred: names of variants, the best first.
        runtimes: installed ones; empty where they are not known.

    Raises:
        RefusedError: there is none (`no-variant`).
    """
    rank = {name: position for position, name in enumerate(preferred)}
    for variant in sorted(manifest.placed("edge"), key=lambda v: rank.get(v.name, len(rank))):
        if variant.runtime in kinds and (not runtimes or not variant.runtimes or set(runtimes) & set(variant.runtimes)):
            return variant
    wanted = sorted({name for v in manifest.placed("edge") for name in (v.runtimes if runtimes else (v.runtime,))})
    here = ", ".join(runtimes or kinds) or "none"
    raise RefusedError(
        f"the release needs a runtime for {' or '.join(wanted) or 'the edge'}, here is {here}",
        reason="no-variant",
        hint="install a runtime, or publish a variant for this one",
    )
