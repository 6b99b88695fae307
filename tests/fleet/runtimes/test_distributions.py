"""Versions by the names of folders: those that importlib.metadata reads."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from fleet import runtimes
from fleet.runtimes.distributions import distribution_version


@pytest.mark.parametrize(
    ("distribution", "module"),
    [("numpy", "numpy"), ("msgspec", "msgspec"), ("ai-edge-litert", "ai_edge_litert"), ("paho-mqtt", "paho")],
)
def test_the_version_is_that_of_the_metadata(distribution: str, module: str) -> None:
    assert distribution_version(distribution, module) == metadata.version(distribution)


def test_all_runtimes_that_are_here_say_theirs() -> None:
    assert runtimes.available() == {name: metadata.version(name) for name in runtimes.available()} != {}


def installed(folder: Path, *versions: str) -> None:
    (folder / "some_runtime").mkdir()
    (folder / "some_runtime" / "__init__.py").touch()
    for one in versions:
        made = folder / f"some_runtime-{one}.dist-info"
        made.mkdir()
        (made / "METADATA").write_text(f"Metadata-Version: 2.1\nName: some-runtime\nVersion: {one}\n")


def test_only_the_distribution_itself_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    installed(tmp_path, "1.2.3")
    (tmp_path / "some_runtime_gpu-9.9.dist-info").mkdir()
    assert distribution_version("some-runtime", "some_runtime") == "1.2.3"


def test_two_folders_and_none_are_left_to_the_metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    installed(tmp_path)
    with pytest.raises(metadata.PackageNotFoundError):
        distribution_version("some-runtime", "some_runtime")
    (tmp_path / "some_runtime" / "__init__.py").unlink()
    (tmp_path / "some_runtime").rmdir()
    installed(tmp_path, "1.2.3", "1.3.0")
    assert distribution_version("some-runtime", "some_runtime") == metadata.version("some-runtime")
