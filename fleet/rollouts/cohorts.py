"""The devices of a stage: draws the salt of a rollout.

A salt decides every cohort (`fleet.protocol.resolve.in_cohort`). Left to chance, a stage of 10 % of
five devices is empty more often than not, so salts are drawn until the stage counts fit the plan.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Sequence
from random import Random

from fleet.protocol.channel import MILLION
from fleet.protocol.resolve import cohort_place
from fleet.rollouts.errors import PlanError

MAX_SALTS = 1000
MAX_HASHES = 150_000  # a sixth of a second of hashing; at that many devices any salt comes near the plan


def stage_of(salt: str, device_id: str, shares_ppm: Sequence[int]) -> int | None:
    """Return the first stage whose cohort holds the device, or None when none does.

    Args:
        salt: the rollout's.
        device_id: the device's.
        shares_ppm: cumulative shares of the stages, rising.
    """
    stage = bisect_right(shares_ppm, cohort_place(salt, device_id))
    return stage if stage < len(shares_ppm) else None


def counts(salt: str, device_ids: Collection[str], shares_ppm: Sequence[int]) -> tuple[int, ...]:
    """Count the devices that each stage's cohort holds; cohorts are cumulative.

    Args:
        salt: the rollout's, or one that might become it.
        device_ids: those of the scope.
        shares_ppm: cumulative shares of the stages, rising.
    """
    places = sorted(cohort_place(salt, device_id) for device_id in device_ids)
    return tuple(bisect_left(places, share) for share in shares_ppm)


def draw_salt(
    rng: Random,
    device_ids: Collection[str],
    shares_ppm: Sequence[int],
    used: Collection[str],
    *,
    at_least: int = 1,
) -> str:
    """The best of up to 1,000 salts: its stage counts come nearest the plan.

    With at least two devices, every stage holds at least one of them and every stage but the last
    leaves at least one out; a single device belongs to every stage. With no devices any salt does.

    Args:
        rng: `random.SystemRandom()` in production.
        device_ids: the devices in the rollout's scope, each once.
        shares_ppm: rising; the last may be 1,000,000.
        used: salts of earlier rollouts; none of them is drawn again.
        at_least: devices that the first stage has to hold.

    Raises:
        PlanError: no salt met the conditions, because a share is too small for so few devices.
    """
    planned = planned_counts(len(device_ids), shares_ppm)
    best, best_gap = "", -1
    hashes = 0
    for _ in range(MAX_SALTS):
        salt = f"{rng.getrandbits(128):032x}"
        if salt in used:
            continue
        found = counts(salt, device_ids, shares_ppm)
        hashes += len(device_ids)
        gap = sum(abs(have - want) for have, want in zip(found, planned, strict=True))
        if _allowed(found, len(device_ids), shares_ppm, at_least) and (not best or gap < best_gap):
            best, best_gap = salt, gap
        if best and (best_gap == 0 or hashes > MAX_HASHES):
            break
    if not best:
        with_them = f" and holds {at_least} of them" if at_least > 1 else ""
        raise PlanError(
            f"no cohort of {shares_ppm[0] / 10_000:g} % fits {len(device_ids)} devices{with_them}",
            subject="stages",
            hint="raise the first stage's percentage",
        )
    return best


def planned_counts(devices: int, shares_ppm: Sequence[int]) -> tuple[int, ...]:
    """Return how many of so many devices each stage's cohort should hold; salts are drawn to come near."""
    wanted = []
    for share in shares_ppm:
        most = devices if share == MILLION or devices < 2 else devices - 1
        wanted.append(min(max(round(devices * share / MILLION), min(1, devices)), most))
    return tuple(wanted)


def _allowed(found: tuple[int, ...], devices: int, shares_ppm: Sequence[int], at_least: int) -> bool:
    if devices == 0:
        return True
    if found[0] < at_least:
        return False
    early = [have for have, share in zip(found, shares_ppm, strict=True) if share < MILLION]
    return devices == 1 or all(have < devices for have in early)
