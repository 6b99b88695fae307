from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from fleet.cli.config import HubLogin, config_path, load_login, save_login
from fleet.errors import FailedError, NotAllowedError


def test_no_test_writes_to_the_home_of_whoever_runs_it() -> None:
    from model_compiler.main import _kept

    kept = _kept(None, again=False)
    assert kept is not None and not kept.is_relative_to(Path.home() / ".cache")
    assert not config_path(os.environ).is_relative_to(Path.home() / ".config")


def test_login_tries_the_token_before_it_is_stored(fleet, hub, tmp_path) -> None:
    hub.on("GET", "/models", {"error": "the token is not valid", "code": "unauthenticated"}, status=401)
    assert fleet("login", "http://hub", "--token", "t", environment={}).code == 4
    assert not (tmp_path / "config.toml").exists()


def test_login_stores_address_and_token_for_the_owner_only(fleet, hub, tmp_path) -> None:
    hub.on("GET", "/models", {"items": [], "next": None})
    outcome = fleet("login", "http://hub", "--token", 'a"\\b', "--json", environment={})
    path = tmp_path / "config.toml"
    assert outcome.code == 0 and outcome.document == {"hub": "http://hub", "config": str(path)}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_login({"EDGELOOP_CONFIG": str(path)}) == HubLogin(url="http://hub", token='a"\\b')


def test_the_environment_outranks_the_file(tmp_path) -> None:
    path = tmp_path / "deep" / "config.toml"
    save_login(path, HubLogin(url="http://a", token="1", ca="/ca.pem"))
    save_login(path, HubLogin(url="http://b", token="2", ca="/ca.pem"))
    environment = {"EDGELOOP_CONFIG": str(path), "EDGELOOP_TOKEN": "3"}
    assert load_login(environment) == HubLogin(url="http://b", token="3", ca="/ca.pem")


def test_a_broken_file_is_named(tmp_path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("url = [")
    with pytest.raises(FailedError, match=r"config\.toml"):
        load_login({"EDGELOOP_CONFIG": str(path)})
    with pytest.raises(NotAllowedError):
        load_login({"XDG_CONFIG_HOME": str(tmp_path / "none")})
