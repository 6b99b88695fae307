"""The agent stays light: what its modules pull into a fresh interpreter."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.support.agent_process import enrolled, running

ROOT = Path(__file__).parents[2]
HEAVY = {
    "fastapi",
    "pydantic",
    "sqlmodel",
    "sqlalchemy",
    "alembic",
    "torch",
    "onnx",
    "onnxruntime",
    "typer",
    "rich",
    "duckdb",
    "obstore",
    "sklearn",
    "scipy",
    "pandas",
}
OURS = {"cloud_hub", "model_compiler"}


def pulled_in(*modules: str) -> set[str]:
    """Top-level packages (and ours with their second level) in `sys.modules` after importing `modules`."""
    code = f"import sys, json\nfor m in {list(modules)!r}: __import__(m)\nprint(json.dumps(sorted(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert result.returncode == 0, result.stderr
    names = json.loads(result.stdout.splitlines()[-1])
    return {name.split(".")[0] for name in names} | {".".join(name.split(".")[:2]) for name in names}


def modules_of(package: str) -> list[str]:
    folder = ROOT / package.replace(".", "/")
    return [package, *sorted(f"{package}.{m.name}" for m in pkgutil.iter_modules([str(folder)]))]


def test_starting_the_agent_pulls_in_nothing_heavy() -> None:
    assert pulled_in("edge_agent.main", "edge_agent.agent") & (HEAVY | OURS) == set()


@pytest.mark.parametrize(
    "room", ["edge_agent.serving", "edge_agent.telemetry", "edge_agent.mqtt", "edge_agent.runtimes"]
)
def test_no_room_of_the_agent_pulls_in_anything_heavy(room: str) -> None:
    assert pulled_in(*modules_of(room)) & (HEAVY | OURS) == set()


def test_serving_needs_neither_tuf_nor_cryptography() -> None:
    """The serving process stays small: metadata and signatures are the update child's business."""
    assert pulled_in(*modules_of("edge_agent.serving")) & {"tuf", "securesystemslib", "cryptography"} == set()


def test_a_started_agent_has_neither_tuf_nor_cryptography(tmp_path: Path) -> None:
    """Of the real process, idle with a broker that does not answer: what is mapped into it."""
    with running(enrolled(tmp_path), "--port", "0") as (process, address):
        urllib.request.urlopen(f"{address}/status", timeout=30).read()
        maps = Path(f"/proc/{process.pid}/maps").read_text()
    assert "/msgspec/" in maps  # the check sees extension modules
    assert not [line for line in maps.splitlines() if "/cryptography/" in line or "/_cffi" in line]


def test_what_an_agent_is_made_of_needs_neither_tuf_nor_cryptography() -> None:
    found = pulled_in(
        "edge_agent.main",
        "edge_agent.agent",
        "edge_agent.identity.http",
        "edge_agent.update.updater",
        *modules_of("edge_agent.telemetry"),
        *modules_of("edge_agent.mqtt"),
    )
    assert found & {"tuf", "securesystemslib", "cryptography"} == set()


def test_an_agent_that_calls_nobody_needs_no_http_client_and_no_metadata() -> None:
    """2 MB and 1 MB of each idle device; they are imported where a call is made, or a folder does not say a version."""
    parts = (
        "edge_agent.main",
        "edge_agent.agent",
        "edge_agent.identity.connection",
        "edge_agent.update.updater",
        "edge_agent.update.install",
    )
    rooms = ("edge_agent.serving", "edge_agent.telemetry", "edge_agent.mqtt")
    found = pulled_in(*parts, *(module for room in rooms for module in modules_of(room)))
    assert found & {"urllib3", "importlib.metadata", "websockets", "edge_agent.bench"} == set()


def test_the_protocol_pulls_in_only_msgspec_and_numpy() -> None:
    found = {name for name in pulled_in(*modules_of("fleet.protocol")) if "." not in name}
    assert found - pulled_in("json", "msgspec", "numpy") - set(sys.stdlib_module_names) == {"fleet"}


def test_the_check_sees_a_heavy_package() -> None:
    assert pulled_in("rich") & HEAVY == {"rich"}
