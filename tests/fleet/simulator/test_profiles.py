"""Profiles: who is what follows from the shares and the seed alone."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from fleet.simulator.errors import ProfileError
from fleet.simulator.profiles import HEALTHY, PROFILES, DeviceProfile, assign, draw, is_off, parse_mix
from tests.support.size import examples


@given(
    shares=st.dictionaries(st.sampled_from(sorted(PROFILES)), st.integers(0, 100 // len(PROFILES)), max_size=6),
    devices=st.integers(1, 3000),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=examples(50), deadline=None)
def test_as_many_of_each_as_the_shares_say(shares: dict[str, int], devices: int, seed: int) -> None:
    mix = parse_mix([f"{name}={share}%" for name, share in shares.items()])
    found = assign(mix, devices, seed)
    assert len(found) == devices
    assert abs(sum(share for _, share in mix) - 1) < 1e-6
    assert all(abs(found.count(name) - share * devices) <= 1 for name, share in mix)
    assert found == assign(mix, devices, seed)


def test_the_rest_is_healthy_and_a_seed_draws_another_order() -> None:
    mix = parse_mix(["wrong=10%", "silent=0.05"])
    assert dict(mix)[HEALTHY] == pytest.approx(0.85)
    assert assign(mix, 200, 0) != assign(mix, 200, 1)


@pytest.mark.parametrize("text", ["wrong", "wrong=", "wrong=x", "wrong=-1%", "wrong=101%", "wrong=nan", "nobody=10%"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(ProfileError):
        parse_mix([text])


def test_more_than_all_is_refused() -> None:
    with pytest.raises(ProfileError, match="110"):
        parse_mix(["wrong=60%", "silent=50%"])


def test_a_device_is_off_for_its_share_of_the_time_each_at_its_own() -> None:
    profile = DeviceProfile(offline_s=30, offline_every_s=120)
    times = [step * 0.5 for step in range(2400)]
    off = {name: [is_off(profile, name, now) for now in times] for name in ("a", "b")}
    assert all(sum(found) / len(found) == pytest.approx(0.25, abs=0.01) for found in off.values())
    assert off["a"] != off["b"]
    assert not any(is_off(DeviceProfile(), "a", now) for now in times)


def test_a_share_is_drawn_by_the_seed_and_rounded_to_whole_devices() -> None:
    drawn = draw(0.3, 10, 1, "shadows")
    assert sum(drawn) == 3 and drawn == draw(0.3, 10, 1, "shadows") != draw(0.3, 10, 2, "shadows")
    assert sum(draw(0.0, 10, 1, "shadows")) == 0 and all(draw(1.0, 10, 1, "shadows"))
