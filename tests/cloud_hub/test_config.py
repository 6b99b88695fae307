"""Configuration: file, environment over file, command line over both; a typo is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloud_hub.config import HubConfig, read_passphrase
from cloud_hub.errors import InvalidError, NotFoundError


def write(directory: Path, text: str) -> Path:
    (directory / "hub.toml").write_text(text)
    return directory


def test_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 'port = 1\nhost = "::1"\n[broker]\nport = 2\nhost = "localhost"\n')
    config = HubConfig.load(tmp_path)
    assert (config.port, config.broker.port, config.addresses.http_connect) == (1, 2, "https://[::1]:1")
    monkeypatch.setenv("EDGELOOP_HUB_PORT", "3")
    monkeypatch.setenv("EDGELOOP_HUB_BROKER__PORT", "4")
    config = HubConfig.load(tmp_path)
    assert (config.port, config.broker.port, config.broker.host) == (3, 4, "localhost")
    assert HubConfig.load(tmp_path, port=5).port == 5


@pytest.mark.parametrize(
    ("text", "name"),
    [("prot = 1", "prot"), ("port = 'x'", "port"), ("[broker]\nkid = 1", "broker.kid"), ("port =", "not valid TOML")],
)
def test_mistakes_are_named(tmp_path: Path, text: str, name: str) -> None:
    with pytest.raises(InvalidError, match=name):
        HubConfig.load(write(tmp_path, text))


def test_overrides_are_checked(tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match="release_key"):
        HubConfig.load(write(tmp_path, ""), release_key="lost")


def test_no_hub_here(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as caught:
        HubConfig.load(tmp_path)
    assert "cloud-hub init" in caught.value.hint


def test_the_broker_is_decided_by_what_is_installed(tmp_path: Path) -> None:
    installed = HubConfig.build(tmp_path, {"broker": {"mosquitto": "/usr/sbin/mosquitto"}}).broker.resolved()
    assert (installed.kind, installed.tls) == ("mosquitto", True)
    embedded = HubConfig.build(tmp_path, {"broker": {"kind": "embedded"}}).broker.resolved()
    assert (embedded.kind, embedded.tls) == ("embedded", False)


def test_passphrase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGELOOP_PASSPHRASE", raising=False)
    assert read_passphrase(None) is None
    monkeypatch.setenv("EDGELOOP_PASSPHRASE", "from env")
    assert read_passphrase(None) == b"from env"
    file = tmp_path / "p"
    file.write_text("from file\nmore\n")
    assert read_passphrase(file) == b"from file"
    file.write_text("\n")
    for wrong in (file, tmp_path / "none"):
        with pytest.raises(InvalidError):
            read_passphrase(wrong)
    file.write_bytes(b"\xff\xfes\x00e\x00")
    with pytest.raises(InvalidError, match="is not text"):
        read_passphrase(file)
