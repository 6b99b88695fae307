"""Text in and out of the four commands: any locale, a full disk, files and variables of other systems, --version."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest
import typer.main

from fleet import console
from fleet.protocol.bounds import whole_number

COMMANDS = {
    "fleet": "fleet.cli.main",
    "cloud-hub": "cloud_hub.main",
    "model-compiler": "model_compiler.main",
    "edge-agent": "edge_agent.main",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_says_its_version(name: str, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--version"])
    with pytest.raises(SystemExit) as end:
        import_module(COMMANDS[name]).main()
    assert not end.value.code and capsys.readouterr().out == f"{name} {version('edgeloop')}\n"


@pytest.mark.parametrize(
    ("words", "twice"),
    [
        (["edge-agent", "infer", "m", "--input", "a.npy", "--input", "b.npz", "--url", "a", "--url=b"], "--url"),
        (["edge-agent", "enroll", "https://h", "--token", "a", "--tok", "b"], "--token"),
        (["cloud-hub", "train", "recipe.py", "--seed", "1", "--out", "a", "--seed=2"], "--seed"),
        (["cloud-hub", "keys", "renew", "hub", "--offline-keys", "a", "--offline-keys", "b"], "--offline-keys"),
        (["model-compiler", "compile", "m.onnx", "--out", "a", "--out", "b"], "--out"),
        (["cloud-hub", "serve", "no/such/hub", "--port", "1", "--port", "2", "--what"], ""),  # the last one holds
        (["edge-agent", "run", "--dir", "a", "--port", "1", "--port", "2", "--what"], ""),
        (["fleet", "device", "list", "--by=a", "--limit", "1"], ""),
    ],
)
def test_no_command_takes_an_option_of_one_value_twice(
    words: list[str], twice: str, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as end:
        import_module(COMMANDS[words[0]]).main()
    said = capsys.readouterr().err
    assert end.value.code == 2 and (f"{twice} is given twice, and takes one value" in said) == bool(twice), said


@pytest.mark.parametrize("name", ["fleet", "cloud-hub", "model-compiler"])
def test_a_shell_completes_commands(name: str) -> None:
    assert typer.main.get_command(import_module(COMMANDS[name]).app).params[-1].opts == ["--show-completion"]


def test_what_a_shell_is_told() -> None:
    words = {"_FLEET_COMPLETE": "complete_bash", "COMP_WORDS": "fleet device di", "COMP_CWORD": "2"}
    code = "from fleet.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **words}, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout.split(), done.stderr) == (["diagnose"], "")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_locale_without_letters_ends_no_command(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "out").open("w", encoding="ascii") as out, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "argv", [name, "--help"])
        with pytest.raises(SystemExit) as end:
            import_module(COMMANDS[name]).main()
    assert not end.value.code
    assert "Exit codes" in (tmp_path / "out").read_text("ascii") or name in ("cloud-hub", "model-compiler")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_is_said_in_a_sentence(name: str, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    words = {"edge-agent": ["runtimes"]}.get(name, ["--help"])
    with open("/dev/full", "w", encoding="utf-8") as full, monkeypatch.context() as patch:  # noqa: PTH123 (a device)
        patch.setattr(sys, "stdout", full)
        patch.setattr(sys, "argv", [name, *words])
        try:
            code = import_module(COMMANDS[name]).main()
        except SystemExit as end:
            code = end.code
        assert code == 1
        assert capsys.readouterr().err.startswith("error: No space left on device")
        console.flush()  # nothing is held back that closing the file would say once more


def test_a_file_may_begin_with_a_mark_and_end_its_lines_as_it_likes(tmp_path: Path) -> None:
    path = tmp_path / "hub.toml"
    path.write_bytes(b'\xef\xbb\xbfport = 1\r\nhost = "x"\r\n')
    assert console.read_text(path) == 'port = 1\nhost = "x"\n'


def test_settings_are_read_from_files_and_variables_of_other_systems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cloud_hub.config import HubConfig
    from edge_agent.config import load_config
    from fleet.cli.config import load_login

    (tmp_path / "hub.toml").write_bytes(b"\xef\xbb\xbfport = 8081\r\n")
    (tmp_path / "agent.toml").write_bytes(b"\xef\xbb\xbfpoll_s = 5.0\r\n")
    (tmp_path / "config.toml").write_bytes(b'\xef\xbb\xbfurl = "http://file"\r\ntoken = "el1.f.f"\r\n')
    monkeypatch.setenv("EDGELOOP_HUB_HOST", "127.0.0.1\r\n")
    hub = HubConfig.load(tmp_path)
    assert (hub.port, hub.host) == (8081, "127.0.0.1")
    agent = load_config(tmp_path, environ={"EDGELOOP_LOG_LEVEL": "\ufeffDEBUG\r"})
    assert (agent.poll_s, agent.log_level) == (5.0, "DEBUG")
    config = {"EDGELOOP_CONFIG": str(tmp_path / "config.toml")}
    assert load_login(config).url == "http://file"
    login = load_login({**config, "EDGELOOP_HUB": "\ufeffhttp://hub\r\n", "EDGELOOP_TOKEN": " el1.a.b\r"})
    assert (login.url, login.token) == ("http://hub", "el1.a.b")


@pytest.mark.parametrize("token", ["el1.a\nb", "el1.\udcff", "el1.ü", "el1.\x1b"])
def test_a_token_that_no_header_takes_is_refused(token: str, fleet_of) -> None:
    assert fleet_of(EDGELOOP_TOKEN=token)[0] == 4


def test_a_login_file_that_is_no_text_is_named(tmp_path: Path, fleet_of) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(b"\xff\xfeu\x00")
    code, said = fleet_of(EDGELOOP_CONFIG=str(path))
    assert code == 1 and str(path) in said


@pytest.fixture
def fleet_of(capsys):
    """Run `fleet device list` with an environment: exit code and standard error."""
    from fleet.cli.main import run
    from fleet.cli.session import Session

    def call(**environment: str) -> tuple[int, str]:
        code = run(["device", "list"], Session({"EDGELOOP_HUB": "http://127.0.0.1:1", **environment}))
        return code, capsys.readouterr().err

    return call


@pytest.mark.parametrize("text", ["", "²", "٣", "-1", "+1", " 1", "1_0", "9" * 5000, "0x1", "½"])
def test_what_is_no_whole_number_is_none(text: str) -> None:
    assert whole_number(text) is None


def test_whole_numbers() -> None:
    assert [whole_number(text) for text in ("0", "007", "9" * 18)] == [0, 7, 10**18 - 1]


def test_text_that_is_not_a_terminals_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    console.write_any_letter()
    console.flush()
