"""The addresses that are bound, connected to and told: none is guessed where it cannot be meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_hub.addresses import Addresses, check_bind, check_hostname, is_hostname, is_wildcard
from cloud_hub.config import HubConfig
from cloud_hub.errors import InvalidError, UsageError

MOSQUITTO: dict[str, Any] = {"kind": "mosquitto"}


def addresses(broker: dict[str, Any] | None = None, **document: Any) -> Addresses:
    config = HubConfig.build(Path("/hub"), {**document, "broker": {**MOSQUITTO, **(broker or {})}})
    return config.addresses


def told(found: Addresses) -> tuple[str, str, str]:
    """The address by which the hub reaches its broker, and those of HTTP and the broker that devices are told."""
    return str(found.broker_connect), found.http_advertise, str(found.broker_advertise)


def test_loopback_is_told_as_long_as_nothing_else_is_known_and_said() -> None:
    found = addresses()
    assert told(found) == ("127.0.0.1:8883", "https://127.0.0.1:8080", "127.0.0.1:8883")
    assert len(found.remarks) == 2
    for remark in found.remarks:
        assert "devices on other machines cannot reach 127.0.0.1" in remark
        assert "--host 0.0.0.0" in remark and "--hostname NAME" in remark


def test_a_wildcard_is_neither_connected_to_nor_told() -> None:
    named = addresses(host="0.0.0.0", hostnames=["hub.example", "192.0.2.7"])
    assert told(named) == ("127.0.0.1:8883", "https://hub.example:8080", "hub.example:8883")
    assert (str(named.http), named.http_connect) == ("0.0.0.0:8080", "https://127.0.0.1:8080")
    assert named.names == ("hub.example", "192.0.2.7") and named.remarks == ()
    nameless = addresses(host="::")
    assert told(nameless) == ("[::1]:8883", "https://[::1]:8080", "[::1]:8883")
    assert len(nameless.remarks) == 2 and all("--hostname NAME" in remark for remark in nameless.remarks)
    assert all("--host 0.0.0.0" not in remark for remark in nameless.remarks)


def test_a_name_alone_opens_nothing_and_that_is_said() -> None:
    found = addresses(hostnames=["hub.example"])
    assert told(found) == ("127.0.0.1:8883", "https://127.0.0.1:8080", "127.0.0.1:8883")
    assert [remark.partition(";")[2] for remark in found.remarks] == [" listen on the network (--host 0.0.0.0)"] * 2


def test_an_address_of_this_machine_is_bound_connected_to_and_told() -> None:
    found = addresses(host="192.0.2.7")
    assert told(found) == ("192.0.2.7:8883", "https://192.0.2.7:8080", "192.0.2.7:8883")
    assert found.names == ("192.0.2.7",) and found.remarks == ()


def test_every_one_of_them_can_be_set() -> None:
    found = addresses(
        {
            "host": "10.0.0.1",
            "port": 1,
            "connect_host": "inside.example",
            "connect_port": 2,
            "advertise_host": "outside.example",
            "advertise_port": 3,
        },
        host="0.0.0.0",
        connect_url="https://inside.example:4",
        advertise_url="https://outside.example",
    )
    assert told(found) == ("inside.example:2", "https://outside.example", "outside.example:3")
    assert str(found.broker) == "10.0.0.1:1" and found.http_connect == "https://inside.example:4"
    assert set(found.names) == {"10.0.0.1", "inside.example", "outside.example"} and found.remarks == ()


def test_the_broker_may_listen_elsewhere_than_http() -> None:
    found = addresses({"host": "127.0.0.1"}, host="0.0.0.0", hostnames=["hub.example"])
    assert told(found) == ("127.0.0.1:8883", "https://hub.example:8080", "127.0.0.1:8883")
    (remark,) = found.remarks
    assert "(the broker)" in remark and 'broker.host = "0.0.0.0" in hub.toml' in remark


def test_the_embedded_broker_stays_on_loopback_whatever_http_does() -> None:
    found = addresses({"kind": "embedded"}, host="0.0.0.0", hostnames=["hub.example"])
    assert str(found.broker) == "127.0.0.1:8883" == str(found.broker_advertise)
    (remark,) = found.remarks
    assert "apt-get install mosquitto" in remark


def test_an_external_broker_is_where_it_is() -> None:
    found = addresses({"kind": "external", "host": "mqtt.example"}, host="0.0.0.0", hostnames=["hub.example"])
    assert found.broker is None and told(found)[::2] == ("mqtt.example:8883", "mqtt.example:8883")
    assert found.names == ("hub.example",)
    here = addresses({"kind": "external", "connect_port": 1884}, host="0.0.0.0", hostnames=["hub.example"])
    assert told(here)[::2] == ("127.0.0.1:1884", "127.0.0.1:1884")
    assert "broker.advertise_host" in here.remarks[0]


def test_the_names_of_0_1_are_read() -> None:
    found = addresses({"host": "0.0.0.0", "public_host": "mqtt.example"}, public_url="https://hub.example")
    assert told(found) == ("127.0.0.1:8883", "https://hub.example", "mqtt.example:8883")


def test_a_name_that_0_1_took_and_that_is_none_stops_no_hub() -> None:
    found = addresses(host="0.0.0.0", hostnames=["https://hub.example", "hub.example"])
    assert found.names == ("hub.example",) and told(found)[2] == "hub.example:8883"
    assert found.remarks == ("hostnames in hub.toml: 'https://hub.example' is no host name, and is left out",)


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("broker", {"advertise_host": "https://hub.example"}, "broker.advertise_host.*has a scheme|scheme"),
        ("broker", {"connect_host": "0.0.0.0"}, "broker.connect_host"),
        ("broker", {"advertise_port": 70_000}, "broker.advertise_port"),
        ("advertise_url", "hub.example:8080", "advertise_url.*an address such as"),
        ("advertise_url", "https://hub.example:99999", "advertise_url"),
        ("connect_url", "https://hub example", "connect_url"),
        ("port", 0, "port"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_named(key: str, value: Any, why: str) -> None:
    with pytest.raises(InvalidError, match=why):
        HubConfig.build(Path("/hub"), {key: value})


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("hub.example", "hub.example"),
        ("HUB.Example", "hub.example"),
        ("hub", "hub"),
        ("7-eleven.example", "7-eleven.example"),
        ("192.0.2.7", "192.0.2.7"),
        ("2001:DB8:0::7", "2001:db8::7"),
        ("::1", "::1"),
        ("hüb.example", "xn--hb-xka.example"),
        ("straße.example", "xn--strae-oqa.example"),  # the other standard, of 2003, makes another name of it
        ("xn--hb-xka.example", "xn--hb-xka.example"),
        ("a" * 63 + ".example", "a" * 63 + ".example"),
    ],
)
def test_host_names(text: str, name: str) -> None:
    assert check_hostname(text) == name


@pytest.mark.parametrize(
    ("text", "why", "hint"),
    [
        ("https://hub.example", "scheme", "give the name alone: hub.example"),
        ("https://hub.example:8080/x", "scheme", "hub.example"),
        ("hub example", "' '", "hub.example"),
        ("hub_1.example", "'_'", ""),
        ("hub.example:8080", "has a port", "hub.example"),
        ("hub.example:", "has a port", ""),
        ("192.0.2.7:8080", "has a port", "192.0.2.7"),
        ("[::1]", "brackets", "without"),
        ("[::1]:8080", "brackets", "without"),
        ("", "is empty", ""),
        ("  ", "is empty", ""),
        ("0.0.0.0", "no address that others can connect to", ""),
        ("::", "no address that others can connect to", ""),
        ("fe80::1%eth0", "no address", "zone"),
        ("224.0.0.1", "no address", ""),
        ("999.1.1.1", "looks like an IP address", ""),
        ("10.0.0", "looks like an IP address", ""),
        ("hub..example", "empty part", ""),
        (".example", "empty part", ""),
        ("hub.example.", "empty part", ""),
        ("-hub.example", "dash", ""),
        ("hub-.example", "dash", ""),
        ("*.example", r"'\*'", ""),
        ("hub.example/x", "'/'", ""),
        ("user@hub", "'@'", ""),
        ("hub\n.example", r"'\\n'", ""),
        ("hub\0", r"'\\x00'", ""),
        ("a" * 64 + ".example", "more than 63", ""),
        (".".join(["a" * 60] * 5), "longer than 253", ""),
        ("hüb_.example", "no international name", ""),
        ("☃\u2028.example", "no international name", ""),
    ],
)
def test_what_is_no_host_name(text: str, why: str, hint: str) -> None:
    with pytest.raises(UsageError, match=why) as caught:
        check_hostname(text)
    assert hint in caught.value.hint and caught.value.exit_code == 2


@given(st.text(max_size=80))
def test_any_text_is_a_name_or_refused_in_words(text: str) -> None:
    try:
        name = check_hostname(text)
    except UsageError as error:
        assert str(error) and error.hint
    else:
        assert is_hostname(name) and name.isascii() and name == name.lower()


def test_where_to_listen() -> None:
    assert [check_bind(host) for host in ("0.0.0.0", "::", "192.0.2.7", "hub.example")]
    with pytest.raises(UsageError):
        check_bind("https://0.0.0.0")
    assert all(map(is_wildcard, ("", "0.0.0.0", "::"))) and not is_wildcard("hub.example")
