"""docs/reference is what the code says."""

from __future__ import annotations

import importlib.machinery
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "write-reference"


@pytest.fixture(scope="module")
def writer() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("write_reference", str(SCRIPT))
    spec = importlib.util.spec_from_loader("write_reference", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_no_page_is_stale(writer: ModuleType) -> None:
    assert {path.stem for path in writer.OUT.glob("*.md")} == set(writer.PAGES)
    for name, page in writer.PAGES.items():
        written = (writer.OUT / f"{name}.md").read_text("utf-8")
        assert written == writer.HEAD + page().rstrip() + "\n", f"{name}.md is stale: run scripts/write-reference"


def test_pages_hold_what_a_reader_looks_for(writer: ModuleType) -> None:
    pages = {name: page() for name, page in writer.PAGES.items()}
    for words in (
        "`fleet rollout create NAME NUMBER`",
        "`edge-agent service install`",
        "`cloud-hub keys ",
        "`--stages`",
    ):
        assert words in pages["cli"], words
    assert "| `watchdog_s` | float | 60.0 |" in pages["agent-toml"]
    assert "## [inference.asynchronous]" in pages["hub-toml"] and "EDGELOOP_HUB_BROKER__PORT" in pages["hub-toml"]
    assert "`POST /api/v1/rollouts`" in pages["http"]
    assert "### Envelope" in pages["mqtt"] and "<prefix>/down/<id>/cmd" in pages["mqtt"]
    assert "`crash-loop`" in pages["words"] and "| `rate-limited` | 429 |" in pages["words"]
