"""`docs/how-to/bring-a-model.md` works as it stands: its files are written, its commands run, in an empty folder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fleet.protocol.manifest import decode_manifest
from tests.support.pages import follow

PAGE = (Path(__file__).parents[2] / "docs/how-to/bring-a-model.md").read_text()
PARTS = {part.split("\n", 1)[0]: part for part in PAGE.split("\n## ") if " file=" in part}


@pytest.mark.parametrize(
    ("part", "task", "variants"),
    [
        ("From scikit-learn", "classification", {"onnx-fp32"}),
        ("From a finished file: ONNX or TFLite", "regression", {"onnx-fp32"}),
        ("From torch", "classification", {"litert-int8", "onnx-fp32"}),
    ],
)
def test_what_the_page_says_makes_a_release(
    part: str, task: str, variants: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    follow(PARTS[part], tmp_path)
    for name in set(sys.modules) - before:  # `net.py` is this part's alone
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
    manifest = decode_manifest((tmp_path / "release" / "manifest.json").read_bytes())
    assert {variant.name for variant in manifest.placed("edge")} == variants
    assert manifest.named_task is not None and manifest.named_task.name == task


def test_every_part_with_files_is_run() -> None:
    (marked,) = (mark for mark in test_what_the_page_says_makes_a_release.pytestmark if mark.name == "parametrize")
    assert {case[0] for case in marked.args[1]} == set(PARTS)
