"""Names, topics and the way from a channel to a release, for any input."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.protocol import topics
from fleet.protocol.channel import Channel, ModelEntry, RolloutRef, Rule, check_channel
from fleet.protocol.errors import MalformedError
from fleet.protocol.names import check_name
from fleet.protocol.resolve import in_cohort, resolve, shadows, spread_delay
from fleet.protocol.shadow import Shadow

NAMES = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)
LEAVES = st.sampled_from(["status", "report", "telemetry"])


@given(NAMES)
def test_names_pass_through(name: str) -> None:
    assert check_name(name, "device") == name


@pytest.mark.parametrize("bad", ["", "-a", "A", "a/b", "a+b", "#", "..", "a b", "ä", "a" * 64, "a\n"])
def test_what_could_break_a_topic_or_a_path_is_no_name(bad: str) -> None:
    with pytest.raises(MalformedError, match="is not valid") as caught:
        check_name(bad, "device")
    assert caught.value.hint


@given(NAMES, LEAVES, st.sampled_from(["edgeloop/v1", "x"]))
def test_uplink_topics_come_back(device: str, leaf, prefix: str) -> None:
    topic = topics.uplink(device, leaf, prefix)
    assert topics.parse_uplink(topic, prefix) == topics.Uplink(device, leaf)
    assert topic.count("/") <= 7
    pattern = topics.uplink_filter(topics.shard(device), prefix).split("/")
    assert all(p in ("+", t) for p, t in zip(pattern, topic.split("/"), strict=True))


@given(NAMES, st.text(max_size=30))
def test_another_topic_is_refused(device: str, noise: str) -> None:
    wrong = "0123456789abcdef".replace(topics.shard(device), "")[0]
    for topic in (
        noise,
        f"edgeloop/v1/up/{wrong}/{device}/report",
        f"edgeloop/v1/up/{topics.shard(device)}/{device}/x",
    ):
        with pytest.raises(MalformedError):
            topics.parse_uplink(topic)


@given(NAMES, NAMES)
def test_downlinks_have_no_wildcards(channel: str, device: str) -> None:
    for topic in (topics.notify(channel), topics.command(device)):
        assert topic.count("/") <= 7 and not set(topic) & set("+#")


@given(st.text(max_size=20), NAMES, st.integers(0, 1_000_000))
def test_a_cohort_only_grows_with_its_share(salt: str, device: str, share: int) -> None:
    if in_cohort(salt, device, share):
        assert in_cohort(salt, device, min(1_000_000, share + 1))
    assert not in_cohort(salt, device, 0)
    assert in_cohort(salt, device, 1_000_000)


@given(st.integers(1, 10**9), NAMES, st.integers(-5, 10_000))
def test_a_spread_lies_within_its_bounds(version: int, device: str, spread: int) -> None:
    assert 0 <= spread_delay(version, device, spread) <= max(0, spread - 1)


# The share in parts per million at which a device joins: a contract between all releases of hub
# and agent. These numbers are never edited.
COHORT_VECTORS = [("", "a", 710_050), ("s1", "device-1", 495_231), ("0f" * 16, "berlin-7", 690_309)]
SHARDS = ["c", "0", "5"]
DELAYS = [942, 300, 446]


def first_share(salt: str, device: str) -> int:
    low, high = 0, 1_000_000
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if in_cohort(salt, device, middle) else (middle + 1, high)
    return low


@pytest.mark.parametrize(("salt", "device", "share"), COHORT_VECTORS)
def test_golden_cohorts(salt: str, device: str, share: int) -> None:
    assert first_share(salt, device) == share


def test_golden_shards_and_spreads() -> None:
    assert [topics.shard(d) for d in ("a", "device-1", "berlin-7")] == SHARDS
    assert [spread_delay(7, d, 1000) for d in ("a", "device-1", "berlin-7")] == DELAYS


def test_the_share_agrees_with_the_formula() -> None:
    digest = int.from_bytes(hashlib.sha256(b"s1:device-1").digest(), "big")
    assert first_share("s1", "device-1") == digest * 1_000_000 // 2**256 + 1


ROLLOUT = RolloutRef(id="r", attempt=1, release=2, from_release=1, share_ppm=500_000, salt="s")
RULE = Rule(groups=("g1",), release=7)


def channel(**changes: object) -> Channel:
    return Channel(channel="stable", version=3, models={"m": ModelEntry(release=1, **changes)})  # type: ignore[arg-type]


@given(NAMES, st.one_of(st.none(), st.integers(1, 3)))
def test_a_device_enters_a_rollout_only_from_its_origin(device: str, committed: int | None) -> None:
    target = resolve(channel(rollout=ROLLOUT), "m", device, committed=committed)
    inside = committed in (1, 2) and in_cohort("s", device, 500_000)
    assert target is not None
    assert (target.release, target.rollout) == ((2, ROLLOUT) if inside else (1, None))


@given(NAMES, st.integers(1, 99))
def test_a_pin_wins_over_a_rule_and_a_rule_over_a_rollout(device: str, pin: int) -> None:
    document, mine = channel(rollout=ROLLOUT, rules=(RULE,)), frozenset(("g1",))
    pinned = resolve(document, "m", device, groups=mine, pin=pin, committed=1)
    ruled = resolve(document, "m", device, groups=mine, committed=1)
    assert pinned is not None and ruled is not None
    assert (pinned.release, pinned.why, ruled.release, ruled.why) == (pin, "pin", 7, "rule")


def test_a_rollout_for_groups_leaves_the_others_alone() -> None:
    scoped = RolloutRef(id="r", attempt=1, release=2, from_release=1, share_ppm=1_000_000, salt="s", groups=("g2",))
    outside = resolve(channel(rollout=scoped), "m", "a", groups=frozenset(("g1",)), committed=1)
    inside = resolve(channel(rollout=scoped), "m", "a", groups=frozenset(("g2",)), committed=1)
    assert outside is not None and inside is not None
    assert (outside.release, inside.release) == (1, 2)
    assert resolve(channel(), "other", "a") is None


@given(
    st.sampled_from([None, 1, 2, 3]),
    st.sampled_from([None, 5]),
    st.sets(st.sampled_from("ab")),
    st.sampled_from([(), ("a",)]),
    st.booleans(),
    st.sampled_from([0, 500_000, 1_000_000]),
    st.booleans(),
)
def test_a_device_shadows_what_it_could_be_given_and_never_what_it_serves(
    committed, pin, groups, wanted, ruled: bool, share_ppm: int, shadow: bool
) -> None:
    rollout = RolloutRef(
        id="r",
        attempt=1,
        release=2,
        from_release=1,
        share_ppm=share_ppm,
        salt="s",
        groups=wanted,
        shadow=Shadow() if shadow else None,
    )
    rules = (Rule(groups=("b",), release=7),) if ruled else ()
    channel = Channel(channel="c", version=1, models={"m": ModelEntry(release=1, rules=rules, rollout=rollout)})
    asked = {"groups": frozenset(groups), "pin": pin, "committed": committed}
    found, target = shadows(channel, "m", "dev", **asked), resolve(channel, "m", "dev", **asked)
    assert target is not None
    if found is None:
        outside = bool(wanted) and not groups.intersection(wanted)
        assert not shadow or committed != 1 or pin or (ruled and "b" in groups) or outside or target.rollout
    else:
        assert found == rollout and target.release == committed == 1 and target.rollout is None


def test_an_agent_that_does_not_know_the_shadow_stage_reads_a_rollout_of_nobody() -> None:
    rollout = RolloutRef(id="r", attempt=1, release=2, from_release=1, share_ppm=0, salt="s", shadow=Shadow())
    channel = Channel(channel="c", version=1, models={"m": ModelEntry(release=1, rollout=rollout)})
    assert channel.requires == () and resolve(channel, "m", "dev", committed=1).release == 1


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5, float("nan"), float("inf")])
def test_a_share_of_a_core_that_is_none_is_refused(share: float) -> None:
    rollout = RolloutRef(
        id="r", attempt=1, release=2, from_release=1, share_ppm=0, salt="s", shadow=Shadow(cpu_share=share)
    )
    with pytest.raises(MalformedError):
        check_channel(Channel(channel="c", version=1, models={"m": ModelEntry(release=1, rollout=rollout)}))
