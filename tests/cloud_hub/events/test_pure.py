"""An event, the times of its tries, its signature and its targets, without a hub."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from cloud_hub.events import kinds, schedule, signing
from cloud_hub.events.addresses import Address, check_addresses, is_public, read_url
from cloud_hub.events.bodies import body
from cloud_hub.events.kinds import (
    KINDS,
    MOST_AT_ALL,
    MOST_OF_ONE,
    MOST_PER_HOUR,
    Event,
    bounded,
    of_rollout,
    place_in_hour,
)
from cloud_hub.events.schedule import LIFE_S, PAUSES_S, AttemptResult, judge_attempt
from cloud_hub.events.standing import PATIENCE_S, looked, reminder
from cloud_hub.ports import Part
from fleet.rollouts import machine

NOW, DAY_S = 1_800_000_000.0, 86_400.0


# ---- kinds


def test_every_step_of_a_rollout_that_somebody_waits_for_is_an_event():
    told = {name: of_rollout(name, "r1", "why", {}) for name in (*kinds.ROLLOUT, *machine.ENDED)}
    assert {event.kind for event in told.values() if event} <= set(KINDS)
    assert all(told[state] is not None for state in machine.ENDED)
    assert of_rollout("paused", "r1", "an operator knows what she did", {}) is None
    approval = of_rollout("awaiting-approval", "r1", "stage 2", {"model": "m"})
    assert approval == Event(
        kind="rollout.approval", subject="r1", message="rollout r1 waits for approval: stage 2", data={"model": "m"}
    )


def test_what_devices_write_stays_one_line_of_bounded_length():
    event = bounded(Event(kind="k", subject="s\x00", message="a\nb\x1b[2J" + "x" * 9999, data={"big": "y" * 9999}))
    assert event.message.startswith("a b [2Jxx") and len(event.message) == kinds.MESSAGE
    assert event.data == {"left_out": "it is too long"} and event.subject == "s "


def test_of_a_flood_of_one_kind_the_hundredth_says_that_it_is_the_last():
    told = [place_in_hour(earlier, 1) for earlier in range(3 * MOST_PER_HOUR)]
    assert sum(kept for kept, _ in told) == MOST_PER_HOUR
    assert [bool(note) for _, note in told[:MOST_PER_HOUR]] == [False] * (MOST_PER_HOUR - 1) + [True]


def test_no_subject_takes_the_place_of_another():
    noisy = [place_in_hour(earlier, earlier) for earlier in range(200)]
    assert sum(kept for kept, _ in noisy) == MOST_OF_ONE and "the 20th of it" in noisy[MOST_OF_ONE - 1][1]
    first = [place_in_hour(earlier, 0) for earlier in range(2 * MOST_AT_ALL)]
    assert sum(kept for kept, _ in first) == MOST_AT_ALL and first[MOST_AT_ALL - 1][1]


@pytest.mark.parametrize("pattern", ["*", "rollout.*", "rollout.halted"])
def test_a_pattern_means_kinds(pattern):
    assert kinds.is_wanted((kinds.check_pattern(pattern),), "rollout.halted")
    assert kinds.is_wanted((pattern,), "job.failed") == (pattern == "*")


@pytest.mark.parametrize("pattern", ["rollout", "roll.*", "", "*.halted"])
def test_a_pattern_that_means_nothing_is_refused_with_what_there_is(pattern):
    with pytest.raises(ValueError, match=r"rollout\.halted"):
        kinds.check_pattern(pattern)


def test_the_page_lists_every_kind():
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "be-told.md").read_text("utf-8")
    assert [row for row in (f"| `{kind}` | {when} |" for kind, when in KINDS.items()) if row not in page] == []


# ---- schedule


def judged(outcome=None, **changes):
    fields = {"tries": 1, "most": 8, "expires_at": NOW + LIFE_S, "now": NOW, "chance": 0.5} | changes
    return judge_attempt(outcome or AttemptResult(status=500), **fields)


def test_pauses_grow_and_are_spread_by_a_fifth():
    middle = [judged(tries=tries).next_at - NOW for tries in range(1, 8)]
    assert middle == list(PAUSES_S) and middle == sorted(middle)
    spread = [judged(tries=3, chance=chance).next_at - NOW for chance in (0.0, 1.0)]
    assert spread == pytest.approx([0.8 * PAUSES_S[2], 1.2 * PAUSES_S[2]])


def test_a_delivery_ends_when_it_arrived_or_is_given_up():
    assert judged(AttemptResult(status=202)).state == "delivered"
    assert judged(AttemptResult(status=200, error="the broker refuses the hub: reason 0xc8")).state == "waiting"
    assert judged(tries=8).state == "dead" and "8 tries" in judged(tries=8).error
    assert judged(AttemptResult(status=410)).state == "dead"
    assert judged(expires_at=NOW + 1).state == "dead"
    assert judged(AttemptResult(error="no answer within 10 s")).error == "no answer within 10 s"


def test_a_target_is_believed_how_long_to_wait_within_an_hour():
    assert judged(AttemptResult(status=429, retry_after_s=90)).next_at == NOW + 90
    assert judged(AttemptResult(status=429, retry_after_s=10 * DAY_S)).next_at == NOW + schedule.LONGEST_WAIT_S
    assert judged(AttemptResult(status=503, retry_after_s=0.1)).next_at == NOW + PAUSES_S[0]


# ---- signing and bodies


def test_signatures_are_those_of_the_specifications_example():
    key = signing.read_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = signing.sign(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert headers["webhook-timestamp"] == "1614265330"


@pytest.mark.parametrize("text", ["whsec_c2hvcnQ=", "whsec_" + "A" * 200, "whsec_no base64, but secret"])
def test_a_secret_that_is_none_is_refused_and_not_repeated(text):
    with pytest.raises(ValueError) as refused:
        signing.read_secret(text)
    assert text.removeprefix("whsec_") not in str(refused.value)


EVENT = SimpleNamespace(
    id="evt_1", at=NOW, kind="rollout.halted", subject="r1", message="halted: <!channel> & more", data={"model": "m"}
)


def test_a_standard_body_has_type_timestamp_and_data():
    assert json.loads(body("standard", EVENT, "https://hub")) == {
        "type": "rollout.halted",
        "timestamp": "2027-01-15T08:00:00.000Z",
        "data": {
            "model": "m",
            "id": "evt_1",
            "subject": "r1",
            "message": "halted: <!channel> & more",
            "hub": "https://hub",
        },
    }


def test_no_text_calls_a_whole_channel_of_slack():
    text = json.loads(body("slack", EVENT, "https://hub"))["text"]
    assert text == "*rollout.halted* halted: &lt;!channel&gt; &amp; more\n<https://hub|evt_1>"


# ---- addresses


def test_an_address_is_https_with_a_host():
    assert read_url("https://hooks.example:8443/a?b=1") == Address("hooks.example", 8443, "/a?b=1")
    assert read_url("https://hooks.example") == Address("hooks.example", 443, "/")
    assert read_url("https://[2001:db8::1]/x").authority == "[2001:db8::1]"
    assert read_url("https://bücher.example/").host == "xn--bcher-kva.example"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://hooks.example/",
        "ftp://h/",
        "https:///path",
        "https://user:secret@h/",
        "https://h/#secret",
        "https://h:99999/",
        "https://[::1/",
        "https://h/a b",
        "https://h/\r\nX: secret",
    ],
)
def test_other_addresses_are_refused_and_not_repeated(url):
    with pytest.raises(ValueError) as refused:
        read_url(url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1%eth0",
        "fc00::1",
        "fec0::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::",
        "no address",
    ],
)
def test_addresses_inside_of_networks_are_seen_through_every_disguise(address):
    assert not is_public(address)
    assert "allow_private" in check_addresses([address], allow_private=False)


def test_public_addresses_pass_and_a_name_with_both_kinds_does_not():
    public = ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "64:ff9b::5db8:d70e"]
    assert all(map(is_public, public)) and check_addresses(public, allow_private=False) == ""
    assert "127.0.0.1" in check_addresses([*public, "127.0.0.1"], allow_private=False)
    assert check_addresses(["127.0.0.1"], allow_private=True) == ""
    assert check_addresses([], allow_private=True) != ""


# ---- standing


def after(looks):
    standing, events = {}, []
    for at, state in looks:
        standing, new = looked(standing, {"broker": Part(state, "it is gone")}, NOW + at, where="hub-a")
        events += new
    return [event.kind for event in events], standing


def test_a_part_is_in_trouble_once_it_has_failed_for_a_minute_and_told_once():
    assert after([(0, "failed"), (PATIENCE_S - 1, "failed")])[0] == []
    assert after([(0, "failed"), (PATIENCE_S, "failed"), (900, "failed"), (990, "unknown")])[0] == ["hub.trouble"]
    kinds_, standing = after([(0, "failed"), (PATIENCE_S, "failed"), (99, "ok"), (110, "ok")])
    assert kinds_ == ["hub.trouble", "hub.recovered"] and standing == {}
    assert after([(0, "failed"), (30, "ok"), (40, "failed"), (70, "failed")])[0] == []
    assert after([(0, "starting"), (900, "starting")])[0] == []


def test_a_clock_that_was_set_back_holds_no_trouble_up():
    assert after([(0, "failed"), (-9000, "failed"), (-9000 + PATIENCE_S, "failed")])[0] == ["hub.trouble"]


def test_an_end_is_told_again_as_it_comes_nearer():
    told = [reminder("key.expiring", "root", NOW + days * DAY_S, "renew", NOW) for days in (61, 59, 8, 6.5, 0.5, -1)]
    assert [found and found[1] for found in told] == [None, 60, 30, 7, 1, 1]
    assert told[-1] is not None and "ended on" in told[-1][0].message
