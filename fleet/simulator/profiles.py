"""The behaviour of simulated devices. Pure: a profile is a value, and a seed decides which device has which."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from fleet.simulator.errors import ProfileError


class DeviceProfile(Struct, frozen=True, kw_only=True):
    """A kind of device. Shares lie in [0, 1], times are seconds; 0 leaves a misbehaviour out.

    `accuracy` is how often an answer agrees with the auditor's. What a rollout's new release does worse on this device:
    `failing` (share of its requests that fail), `loss` (share of inputs that only the release before answers right),
    `slower` (times as slow), `crash_loop`. After `shift_after_s` the inputs move by `shift` standard deviations of
    every feature. A device is off `offline_s` of every `offline_every_s`, and says nothing more after
    `silent_after_s`, though it stays connected. It downloads `bytes_per_s`, its clock runs `clock_ahead_s` ahead, it
    sends the share `duplicates` of its records twice, and `hostile_per_s` messages that no device should send.
    """

    requests_per_s: float = 1.0
    latency_us: float = 400.0
    accuracy: float = 0.93
    failing: float = 0.0
    loss: float = 0.0
    slower: float = 1.0
    crash_loop: bool = False
    shift: float = 0.0
    shift_after_s: float = 0.0
    offline_s: float = 0.0
    offline_every_s: float = 0.0
    silent_after_s: float = 0.0
    bytes_per_s: float = 2e6
    clock_ahead_s: float = 0.0
    duplicates: float = 0.0
    hostile_per_s: float = 0.0


HEALTHY = "healthy"
PROFILES: dict[str, DeviceProfile] = {
    HEALTHY: DeviceProfile(),
    "busy": DeviceProfile(requests_per_s=50.0),
    "wrong": DeviceProfile(loss=0.05),
    "failing": DeviceProfile(failing=0.2),
    "slow": DeviceProfile(slower=4.0),
    "crash-loop": DeviceProfile(crash_loop=True),
    "drifting": DeviceProfile(shift=0.1, shift_after_s=60.0),
    "offline": DeviceProfile(offline_s=30.0, offline_every_s=120.0),
    "silent": DeviceProfile(silent_after_s=30.0),
    "slow-link": DeviceProfile(bytes_per_s=2e3),
    "wrong-clock": DeviceProfile(clock_ahead_s=400 * 86_400.0),
    "duplicating": DeviceProfile(duplicates=0.5),
    "hostile": DeviceProfile(hostile_per_s=1.0),
    "flooding": DeviceProfile(hostile_per_s=200.0),
}

Mix = tuple[tuple[str, float], ...]


def parse_mix(texts: Sequence[str]) -> Mix:
    """Profiles with their shares from texts such as `wrong=10%` or `silent=0.05`; the rest is healthy.

    Raises:
        ProfileError: no such profile, no share, or more than 100 % in all.
    """
    found: dict[str, float] = {}
    for text in texts:
        name, _, share = text.partition("=")
        if name not in PROFILES:
            raise ProfileError(f"no profile {name!r}", subject=name, hint=f"one of {', '.join(PROFILES)}")
        found[name] = found.get(name, 0.0) + _share(text, share)
    total = sum(found.values())
    if total > 1.0 + 1e-9:
        raise ProfileError(f"the profiles' shares come to {total:.0%}", hint="at most 100 %; the rest is healthy")
    if total < 1.0:
        found[HEALTHY] = found.get(HEALTHY, 0.0) + 1.0 - total
    return tuple((name, share) for name, share in found.items() if share > 1e-9)


def _share(text: str, share: str) -> float:
    try:
        value = float(share.removesuffix("%")) / (100.0 if share.endswith("%") else 1.0)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise ProfileError(f"{text!r} is no profile with a share", subject=text, hint="for example wrong=10%")
    return value


def assign(mix: Mix, devices: int, seed: int) -> list[str]:
    """The profile of each device: as many of each as the shares say (largest remainders), shuffled by the seed."""
    exact = [share * devices for _, share in mix]
    counts = [int(value) for value in exact]
    by_remainder = sorted(range(len(mix)), key=lambda i: (counts[i] - exact[i], i))
    for index in by_remainder[: devices - sum(counts)]:
        counts[index] += 1
    names = [name for (name, _), count in zip(mix, counts, strict=True) for _ in range(count)]
    return [names[index] for index in randomness(f"{seed}:profiles").permutation(devices)]


def draw(share: float, devices: int, seed: int, what: str) -> list[bool]:
    """Draw the devices that are among the share, rounded to whole devices; another draw for each `what`."""
    order = randomness(f"{seed}:{what}").permutation(devices)
    return [bool(place < round(share * devices)) for place in order]


def is_off(profile: DeviceProfile, device_id: str, elapsed_s: float) -> bool:
    """Tell whether the device is off `elapsed_s` after the start; each has its own phase of the cycle."""
    if not 0 < profile.offline_s <= profile.offline_every_s:
        return False
    phase = float(randomness(f"{device_id}:offline").random()) * profile.offline_every_s
    return (elapsed_s + phase) % profile.offline_every_s >= profile.offline_every_s - profile.offline_s


def randomness(text: str) -> np.random.Generator:
    """A generator that is the same for the same text."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"))
