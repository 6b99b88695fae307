"""The maintenance window of a channel."""

from __future__ import annotations

import pytest

from fleet.protocol.channel import Channel, Fetching, decode_channel, encode_channel
from fleet.protocol.durations import DAY_S
from fleet.protocol.errors import MalformedError
from fleet.protocol.window import opens_at, parse_window

MIDNIGHT = 20_000 * DAY_S


@pytest.mark.parametrize(
    ("window", "hour", "opens"),
    [
        ("", 12, 12),
        ("02:00-05:00", 1.5, 2),
        ("02:00-05:00", 2, 2),
        ("02:00-05:00", 4.99, 4.99),
        ("02:00-05:00", 5, 26),
        ("22:30-05:00", 23, 23),
        ("22:30-05:00", 0, 0),
        ("22:30-05:00", 5, 22.5),
        ("22:30-05:00", 22, 22.5),
        ("00:00-23:59", 23.995, 24),
        ("23:59-00:00", 12, 23 + 59 / 60),
    ],
)
def test_when_an_install_may_begin(window, hour, opens):
    assert opens_at(window, MIDNIGHT + hour * 3600) == pytest.approx(MIDNIGHT + opens * 3600)


def test_every_minute_agrees_with_the_plain_definition():
    for window in ("02:00-05:00", "22:30-05:15", "23:59-00:01"):
        opens, closes = parse_window(window)
        open_minutes = set(range(opens // 60, (closes if closes > opens else closes + DAY_S) // 60))
        for minute in range(1440):
            open_now = minute in open_minutes or minute + 1440 in open_minutes
            found = opens_at(window, MIDNIGHT + minute * 60)
            assert (found == MIDNIGHT + minute * 60) == open_now
            assert opens_at(window, found) == found


@pytest.mark.parametrize(
    "window", ["2:00-5:00", "24:00-05:00", "02:00", "02:00-02:00", "02:60-03:00", "02:00-05:00Z", "02:00–05:00", " "]
)
def test_nonsense_is_refused_when_published_and_when_read(window):
    channel = Channel(channel="stable", version=1, fetching=Fetching(window=window))
    with pytest.raises(MalformedError, match="window"):
        encode_channel(channel)
    good = encode_channel(Channel(channel="stable", version=1, fetching=Fetching(window="02:00-05:00")))
    with pytest.raises(MalformedError, match="window"):
        decode_channel(good.replace(b"02:00-05:00", window.encode()))


def test_a_document_without_one_is_always_open():
    old = b'{"schema":1,"channel":"stable","version":1,"fetching":{"max_bytes_per_s":5}}'
    assert decode_channel(old).fetching.window == ""
