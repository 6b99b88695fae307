"""One table of exit codes: the errors of every room have its numbers, and the four commands end alike."""

from __future__ import annotations

import errno
import os
import ssl
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import cloud_hub.errors
import edge_agent.errors
import fleet.errors
import model_compiler.errors
from fleet.console.exits import MEANING, SHORT, Exit, of_os_error
from tests.support.commands import call

PROGRAMS = ("fleet", "cloud-hub", "edge-agent", "model-compiler")
LOGIN = {"EDGELOOP_HUB": "http://127.0.0.1:1", "EDGELOOP_TOKEN": "el1.a.b"}
SAME = {  # names of errors that mean the same in each room
    "UsageError": Exit.USAGE,
    "NotFoundError": Exit.NOT_FOUND,
    "NotAllowedError": Exit.NOT_ALLOWED,
    "DeniedError": Exit.NOT_ALLOWED,
    "PinError": Exit.NOT_ALLOWED,
    "UnauthenticatedError": Exit.NOT_ALLOWED,
    "ForbiddenError": Exit.NOT_ALLOWED,
    "ConflictError": Exit.CONFLICT,
    "UnreachableError": Exit.UNREACHABLE,
    "KeptError": Exit.UNREACHABLE,
    "HaltedError": Exit.HALTED,
    "LateError": Exit.LATE,
    "DeadlineError": Exit.LATE,
    "TimedOutError": Exit.LATE,
}


def kinds(module: Any) -> Iterator[type[Any]]:
    yield from (kind for kind in vars(module).values() if isinstance(kind, type) and hasattr(kind, "exit_code"))


def test_the_errors_of_every_room_have_the_numbers_of_the_table() -> None:
    found = {
        (module.__name__, kind.__name__): kind.exit_code
        for module in (cloud_hub.errors, edge_agent.errors, fleet.errors, model_compiler.errors)
        for kind in kinds(module)
    }
    assert {module for module, _ in found} == {
        "cloud_hub.errors",
        "edge_agent.errors",
        "fleet.errors",
        "model_compiler.errors",
    }
    assert {key: code for key, code in found.items() if code != SAME.get(key[1], Exit.FAILED)} == {}


def test_every_number_is_explained_once() -> None:
    assert set(MEANING) == set(Exit)
    assert all(f" {code:d} " in SHORT for code in Exit)


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_help_shows_the_table(program: str) -> None:
    said = " ".join(call(program, "--help", COLUMNS="200").stdout.split())
    assert "2 usage, 3 not found" in said and "130 interrupted" in said


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_means_nothing_is_2(program: str) -> None:
    assert call(program, "no-such-command").returncode == Exit.USAGE


@pytest.mark.parametrize(
    "words",
    [
        ("fleet", "release", "publish", "{}/gone", "--model", "m"),
        ("fleet", "sample", "import", "{}/gone.csv", "--format", "csv"),
        ("cloud-hub", "serve", "{}/gone"),
        ("cloud-hub", "restore", "{}/gone", "{}/hub"),
        ("edge-agent", "status", "--dir", "{}/gone"),
        ("edge-agent", "install", "{}/gone", "--dir", "{}/agent"),
        ("model-compiler", "inspect", "{}/gone"),
        ("model-compiler", "import", "{}/gone.onnx", "--validation", "{}/gone.npz", "--out", "{}/out"),
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_what_is_not_there_is_3(words: tuple[str, ...], tmp_path: Path) -> None:
    done = call(*(word.replace("{}", str(tmp_path)) for word in words), **LOGIN)
    assert done.returncode == Exit.NOT_FOUND, done.stderr


def test_who_does_not_answer_is_6(tmp_path: Path) -> None:
    assert call("fleet", "device", "list", **LOGIN).returncode == Exit.UNREACHABLE
    token = f"el1.{'a' * 8}.{'b' * 43}.{'c' * 64}"
    done = call("edge-agent", "enroll", LOGIN["EDGELOOP_HUB"], "--token", token, "--dir", tmp_path / "agent")
    assert done.returncode == Exit.UNREACHABLE, done.stderr


@pytest.fixture(params=PROGRAMS)
def ends(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[BaseException], int]:
    """The exit code of a command when a piece of its work raises an error."""
    edge_agent_cli = import_module("edge_agent.cli")

    def after(error: BaseException) -> int:
        def fails(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr("fleet.cli.session.Session.client", property(fails))
        monkeypatch.setattr("cloud_hub.config.HubConfig.load", fails)
        monkeypatch.setitem(edge_agent_cli.COMMANDS, "status", fails)
        monkeypatch.setattr("model_compiler.main.read_release", fails, raising=False)
        monkeypatch.setattr("model_compiler.inputs.release_folder.read_release", fails, raising=False)
        words = {
            "fleet": ("device", "list"),
            "cloud-hub": ("serve", tmp_path),
            "edge-agent": ("status", "--dir", tmp_path),
            "model-compiler": ("inspect", tmp_path),
        }[request.param]
        return call(request.param, *words).returncode

    return after


def refusal(number: int) -> OSError:
    return OSError(number, os.strerror(number), "/x")


def test_a_file_of_another_user_is_4_a_missing_one_3_and_a_full_disk_1(ends) -> None:
    codes = [ends(refusal(number)) for number in (errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOSPC, errno.EIO)]
    assert codes == [4, 4, 3, 1, 1]
    assert [of_os_error(refusal(number)) for number in (errno.EACCES, errno.ENOENT, errno.EIO)] == [4, 3, 1]


def test_a_number_of_openssl_is_none_of_the_system() -> None:
    assert ssl.SSLError(1, "a record is broken").errno == errno.EPERM
    assert [of_os_error(ssl.SSLError(1, "broken")), of_os_error(ssl.SSLWantReadError(2, "more"))] == [1, 1]


def test_ctrl_c_is_130_and_a_reader_who_is_gone_1(ends) -> None:
    assert (ends(KeyboardInterrupt()), ends(refusal(errno.EPIPE))) == (130, 1)
