"""The release that a device should run, with the reason: the release is the one that the device finds."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.protocol.channel import Channel, ModelEntry, RolloutRef, Rule
from fleet.protocol.resolve import resolve
from fleet.rollouts.explain import HeldTo, Standing, explain
from tests.support.size import examples

GROUPS = ("g-1", "g-2", "g-3")
SOME = st.frozensets(st.sampled_from(GROUPS))
RELEASE = st.integers(1, 4)
ROLLOUT = st.builds(
    RolloutRef,
    id=st.just("r-1"),
    attempt=st.integers(1, 3),
    release=RELEASE,
    from_release=RELEASE,
    share_ppm=st.integers(0, 1_000_000),
    salt=st.sampled_from("abc"),
    groups=SOME.map(tuple),
)
ENTRY = st.builds(
    ModelEntry,
    release=RELEASE,
    rules=st.lists(st.builds(Rule, groups=SOME.map(tuple), release=RELEASE), max_size=3).map(tuple),
    rollout=st.none() | ROLLOUT,
)
WORDS = {
    "pin": "an operator pinned it",
    "rule": "a rule of the channel for ",
    "rollout": "rollout r-1, attempt ",
    "default": "the channel's default",
}


@given(
    entry=ENTRY,
    groups=SOME,
    pin=st.none() | RELEASE,
    committed=st.none() | RELEASE,
    device=st.integers(0, 50).map("d-{}".format),
)
@settings(max_examples=examples(200), deadline=None)
def test_it_is_what_the_device_finds(entry, groups, pin, committed, device) -> None:
    channel = Channel(channel="stable", version=1, models={"m": entry})
    target = resolve(channel, "m", device, groups=groups, pin=pin, committed=committed)
    standing = Standing(device_id=device, groups=groups, pin=pin, committed=committed)
    found = explain(channel, "m", standing, {"g-1": "site=berlin"})
    assert target is not None and (found.release, found.why) == (target.release, target.why)
    assert found.detail.startswith(WORDS[found.why])
    if found.why == "default" and entry.rollout is not None:
        assert "r-1" in found.detail.removeprefix(WORDS["default"])
    if found.why == "rule":
        assert any(name in found.detail for name in ("site=berlin", "g-2", "g-3"))


def test_what_an_agent_lacks_comes_before_all_else() -> None:
    channel = Channel(channel="stable", version=1, models={"m": ModelEntry(release=3)})
    for release, said in ((2, "keeps release 2"), (None, "has none to keep")):
        held = HeldTo(offered=3, lacks=("step:clip",), release=release)
        found = explain(channel, "m", Standing(device_id="d", held=held), {})
        assert (found.release, found.why) == (release, "held-back")
        assert "release 3" in found.detail and "step:clip" in found.detail and said in found.detail
