"""The place of a bundle; half a one never looks whole."""

from __future__ import annotations

import contextlib
import datetime
import errno
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from cloud_hub.errors import NotFoundError
from edge_agent.update.download.folder import check_bundle
from fleet.cli.main import run
from fleet.cli.session import Session
from fleet.client.bundle import LAST, Bundled, Bundler
from fleet.errors import ConflictError
from tests.support.device import follow, publish
from tests.support.hub import START, HubFixture, make_hub


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> HubFixture:
    folder = tmp_path_factory.mktemp("hub")
    hub = make_hub(folder)
    follow(hub, publish(hub, folder))
    return hub


class Files:
    """The hub's static files; `watch` is called before each."""

    def __init__(self, hub: HubFixture) -> None:
        self.objects, self.watch = hub.hub.objects, lambda path: None

    def static(self, path: str) -> bytes | None:
        self.watch(path)
        with contextlib.suppress(NotFoundError):
            return self.objects.get(path.removeprefix("/")).data
        return None

    def static_piece(self, path: str, start: int, count: int) -> bytes:
        data = self.static(path)
        assert data is not None
        return data[start : start + count]


@pytest.fixture
def files(hub: HubFixture) -> Files:
    return Files(hub)


def write(files: Files, out: Path) -> Bundled:
    return Bundler(files.static, files.static_piece, out).write("stable")


@pytest.fixture
def fleet(files: Files, capsys):
    def call(*arguments: str, now: float = START) -> SimpleNamespace:
        session = Session({}, now=lambda: now)
        session.client = files  # type: ignore[assignment]
        code = run(["release", "bundle", "--channel", "stable", *arguments], session)
        said = capsys.readouterr()
        return SimpleNamespace(code=code, out=said.out, err=said.err)

    return call


def test_an_empty_folder_is_filled_from_inside_as_a_mount_point_must_be(files: Files, tmp_path: Path) -> None:
    out = tmp_path / "stick"
    (out / "lost+found").mkdir(parents=True)
    before, beside = out.stat().st_ino, []
    files.watch = lambda path: beside.append(sorted(p.name for p in tmp_path.iterdir()))
    made = write(files, out)
    assert out.stat().st_ino == before and beside == [["stick"]] * len(beside) and beside
    assert sorted(p.name for p in out.iterdir()) == ["blobs", "bundle.json", "lost+found", "metadata", "targets"]
    check_bundle(out)
    assert made.folder == str(out)


def test_the_folder_that_one_stands_in_is_a_folder(files: Files, fleet, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert fleet("--out", ".").code == 0
    check_bundle(tmp_path)
    with pytest.raises(ConflictError, match="not an empty folder: there is blobs"):
        write(files, tmp_path)


@pytest.mark.parametrize("there", [True, False])
def test_whatever_ends_it_no_half_a_bundle_looks_whole(files: Files, tmp_path: Path, monkeypatch, there) -> None:
    """Every rename fails in its turn, until none is left to fail."""
    replace, left = Path.replace, 0

    def sometimes(path: Path, target: Path) -> Path:
        nonlocal left
        if left == 0:
            raise OSError(errno.EIO, "Input/output error", str(path))
        left -= 1
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", sometimes)
    for number in range(10):
        left, out = number, tmp_path / f"out{number}"
        if there:
            out.mkdir()
        try:
            write(files, out)
        except OSError:
            assert list(tmp_path.rglob("*")) == ([out] if there else [])
            out.rmdir() if there else None
            continue
        break
    check_bundle(out)
    assert number == (6 if there else 1)


def test_the_name_by_which_a_device_knows_a_bundle_comes_last(files: Files, tmp_path: Path, monkeypatch) -> None:
    replace, seen = Path.replace, []

    def watched(path: Path, target: Path) -> Path:
        seen.append((target.name, (tmp_path / "metadata" / LAST).exists()))
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", watched)
    write(files, tmp_path)
    assert seen[-1] == (LAST, False) and not any(whole for _, whole in seen)


@pytest.mark.parametrize(
    ("number", "code", "hint"),
    [(errno.ENOSPC, 1, "free space"), (errno.EACCES, 4, "right"), (errno.EROFS, 1, "writable")],
)
def test_a_medium_that_refuses_is_said_without_a_trace(files, fleet, tmp_path, monkeypatch, number, code, hint) -> None:
    def refuse(path: str) -> None:
        if path.startswith("/tuf/targets"):
            raise OSError(number, os.strerror(number), "/media/stick/x")

    files.watch = refuse
    outcome = fleet("--out", str(tmp_path / "stick"))
    assert outcome.code == code and f"error: /media/stick/x: {os.strerror(number)}\n" in outcome.err
    assert f"try: {'mount it ' if hint == 'writable' else ''}" in outcome.err and hint in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_the_roots_end_counts_and_one_that_has_passed_is_said(hub: HubFixture, files: Files, fleet, tmp_path) -> None:
    fresh = fleet("--out", str(tmp_path / "fresh"), "--json")
    assert "warning" not in fresh.err and json.loads(fresh.out)["valid_until"] > START + 5 * 86400
    late = fleet("--out", str(tmp_path / "late"), now=START + 8 * 86400)
    assert late.code == 0 and "warning: the hub's metadata ended on" in late.err and "cloud-hub serve" in late.err

    root = json.loads(files.static("/tuf/metadata/1.root.json") or b"")
    end = START + 3600
    root["signed"]["expires"] = datetime.datetime.fromtimestamp(end, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    static = files.static
    files.static = lambda path: json.dumps(root).encode() if path.endswith("1.root.json") else static(path)  # type: ignore[method-assign]
    assert write(files, tmp_path / "root").valid_until == end
