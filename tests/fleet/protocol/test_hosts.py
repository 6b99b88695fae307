"""The addresses that lead to the machine itself, and those that only look so."""

from __future__ import annotations

from fleet.protocol.hosts import is_loopback


def test_loopback_is_told_from_every_other_host() -> None:
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.8.8.8", "::1")))
    others = ("", "0.0.0.0", "::", "10.0.0.1", "hub.example", "127.0.0.1.example.org", "localhost.example")
    assert not any(map(is_loopback, others))
