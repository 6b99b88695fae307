"""`init` makes a hub or nothing, and says what it needs; what is wrong is a sentence, whatever it is."""

from __future__ import annotations

import errno
import json
import os
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from hypothesis import example, given
from hypothesis import strategies as st

from cloud_hub import main
from cloud_hub.config import HubConfig
from cloud_hub.errors import ConflictError, UnreachableError
from cloud_hub.identity.own import valid_for
from cloud_hub.objects import LocalObjects
from cloud_hub.opening import bootstrap
from cloud_hub.opening.bootstrap import initialise
from cloud_hub.opening.lock import hub_lock
from tests.support.hub import PASSPHRASE, make_hub


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run `cloud-hub …` in this process; gives exit code, standard output and standard error."""
    monkeypatch.setenv("EDGELOOP_PASSPHRASE", "secret")

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["cloud-hub", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


def entries(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize(
    "name",
    ["https://hub.example", "hub example", "hub_example", "", "hub.example:8443", "[::1]", "0.0.0.0", "-hub", "a..b"],
)
def test_a_host_name_that_is_none_is_refused_before_anything_is_written(
    command: Any, tmp_path: Path, name: str
) -> None:
    code, _, error = command("init", tmp_path / "hub", "--offline-keys", tmp_path / "off", "--hostname", name)
    assert code == 2 and error.startswith("error: host name ") and "\ntry: " in error and "Traceback" not in error
    assert entries(tmp_path) == []


@pytest.mark.parametrize(
    "wrong", [("--host", "https://0.0.0.0"), ("--port", "0"), ("--broker-port", "99999"), ("--broker-port", "x")]
)
def test_an_address_to_listen_on_that_is_none_is_refused(command: Any, tmp_path: Path, wrong: tuple[str, str]) -> None:
    assert command("init", tmp_path / "hub", "--offline-keys", tmp_path / "off", *wrong)[0] == 2
    assert entries(tmp_path) == []


def test_names_addresses_and_ports_are_written_and_certified(command: Any, tmp_path: Path) -> None:
    names = ("--hostname", "HÜB.example", "--hostname", "192.0.2.7", "--hostname", "192.0.2.7")
    where = ("--host", "0.0.0.0", "--port", "8443", "--broker-port", "8884")
    code, out, error = command("init", tmp_path / "hub", "--offline-keys", tmp_path / "off", *names, *where, "--json")
    assert code == 0, error
    made = json.loads(out)
    assert made["url"] == "https://xn--hb-xka.example:8443" and "admin_token" in made
    document = tomllib.loads((tmp_path / "hub" / "hub.toml").read_text())
    assert document == {
        "host": "0.0.0.0",
        "port": 8443,
        "hostnames": ["xn--hb-xka.example", "192.0.2.7"],
        "broker": {"port": 8884},
    }
    certificate = x509.load_pem_x509_certificate((tmp_path / "hub" / "keys" / "server.pem").read_bytes())
    assert valid_for(certificate) == {"xn--hb-xka.example", "192.0.2.7", "localhost", "127.0.0.1", "::1"}


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
@example(text='"quoted" \\ \x00\x07\x1b\x7f\x85\n\r\t')
def test_whatever_a_text_is_made_of_the_file_reads_back_as_what_was_chosen(text: str) -> None:
    assert tomllib.loads(f"key = {bootstrap._value([text, 5, True])}") == {"key": [text, 5, True]}


def test_loopback_is_said_aloud(command: Any, tmp_path: Path) -> None:
    code, out, error = command("init", tmp_path / "hub", "--offline-keys", tmp_path / "off", "--json")
    assert code == 0 and error.count("warning: devices on other machines cannot reach 127.0.0.1") == 2
    assert len(json.loads(out)["warnings"]) == 2


def test_a_place_that_cannot_be_written_is_a_sentence(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    code, _, error = command("init", tmp_path / "file" / "hub", "--offline-keys", tmp_path / "off")
    assert code == 1 and "Not a directory" in error and "try: " in error
    for number, expected in ((errno.EROFS, 1), (errno.EACCES, 4)):

        def refused(path: Path, *_: object, number: int = number, **__: object) -> None:
            raise OSError(number, os.strerror(number), str(path))

        with monkeypatch.context() as patched:
            patched.setattr(Path, "mkdir", refused)
            code, _, error = command("init", tmp_path / "hub", "--offline-keys", tmp_path / "off")
        assert code == expected and str(tmp_path / "hub") in error and "try: " in error and "Traceback" not in error
    assert entries(tmp_path) == ["file"]


def test_a_passphrase_file_that_is_none_is_a_sentence(command: Any, tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(os.urandom(8) + b"\xff\n")
    code, _, error = command(
        "init", tmp_path / "hub", "--offline-keys", tmp_path / "off", "--passphrase-file", tmp_path / "binary"
    )
    assert code == 1 and "is not text" in error
    assert entries(tmp_path) == ["binary"]


def test_a_token_file_that_cannot_be_written_costs_no_token(command: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, out, error = command(
        "init", tmp_path / "hub", "--offline-keys", tmp_path / "off", "--token-file", tmp_path / "file" / "token"
    )
    assert code == 1 and "el1." in out and "error: " in error


@pytest.mark.parametrize("step", ["_empty_objects", "_write_identity", "create_token", "_toml"])
def test_an_init_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    config = HubConfig.build(tmp_path / "deep" / "hub", {"objects": str(tmp_path / "elsewhere")})

    def fails(*_: object, **__: object) -> None:
        raise UnreachableError("gone", subject="disk")

    with monkeypatch.context() as patched:
        patched.setattr(bootstrap, step, fails)
        with pytest.raises(UnreachableError):
            initialise(config, tmp_path / "off" / "keys", PASSPHRASE)
    (tmp_path / "elsewhere").mkdir(exist_ok=True)
    assert [path for path in (tmp_path / "elsewhere").rglob("*") if path.is_file()] == []
    assert not (tmp_path / "deep").exists() and not (tmp_path / "off").exists()
    initialise(config, tmp_path / "off" / "keys", PASSPHRASE).hub.engine.dispose()


def test_what_lay_there_before_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub, off = tmp_path / "hub", tmp_path / "off"
    for folder in (hub, off):
        folder.mkdir()
        (folder / "mine").write_text("kept")
    monkeypatch.setattr(bootstrap, "create_token", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        initialise(HubConfig.build(hub, {}), off, PASSPHRASE)
    assert entries(tmp_path) == ["hub", "hub/mine", "off", "off/mine"]


def test_half_a_hub_of_an_init_that_was_killed_is_called_so(tmp_path: Path) -> None:
    make_hub(tmp_path)
    (tmp_path / "hub" / "hub.toml").unlink()
    with pytest.raises(ConflictError, match="half a hub") as caught:
        initialise(HubConfig.build(tmp_path / "hub", {}), tmp_path / "other", PASSPHRASE)
    assert "remove" in caught.value.hint and (tmp_path / "hub" / "keys").is_dir()


def test_an_object_store_that_another_hub_uses_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    objects = tmp_path / "objects"
    make_hub(tmp_path / "a", objects=str(objects))
    before = entries(objects)
    with pytest.raises(ConflictError, match="another hub's repository"):
        initialise(
            HubConfig.build(tmp_path / "b" / "hub", {"objects": str(objects)}), tmp_path / "b" / "off", PASSPHRASE
        )
    assert entries(objects) == before and not (tmp_path / "b" / "hub").exists()
    make_hub(tmp_path / "c", objects=str(objects / "fresh"))
    assert LocalObjects(objects / "fresh").exists("tuf/metadata/timestamp.json")


def test_a_directory_that_somebody_owns_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    with hub_lock(tmp_path / "hub", "init"), pytest.raises(ConflictError, match=rf"process {os.getpid()} .*init"):
        initialise(HubConfig.build(tmp_path / "hub", {}), tmp_path / "off", PASSPHRASE)
    assert entries(tmp_path) == ["hub", "hub/hub.lock"]
