"""The folder for machines without the internet: all that is needed is in it, in the versions that were asked for."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "gather-wheels"


def wheel(folder: Path, name: str, version: str, *about: str) -> Path:
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", "")
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *about]
        archive.writestr(f"{info}/METADATA", "\n".join(lines) + "\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def run(*words: object, index: Path) -> subprocess.CompletedProcess[str]:
    only = {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index), "PIP_CONFIG_FILE": os.devnull}
    return subprocess.run(
        [sys.executable, *map(str, words)], env=only, capture_output=True, text=True, check=False, timeout=120
    )


def test_all_that_is_needed_and_nothing_else_is_gathered(tmp_path: Path) -> None:
    index = tmp_path / "index"
    index.mkdir()
    needs = ("Requires-Dist: needed", "Provides-Extra: hub", 'Requires-Dist: more; extra == "hub"')
    ours = wheel(tmp_path, "edgeloop", "1.0", *needs)
    for name, version in (("needed", "1.0"), ("needed", "2.0"), ("more", "1.0"), ("other", "1.0")):
        wheel(index, name, version)
    (tmp_path / "constraints.txt").write_text("needed==1.0\n")
    out = tmp_path / "wheels"
    words = (SCRIPT, out, "--extras", "hub", "--wheel", ours, "--constraints", tmp_path / "constraints.txt")
    assert run(*words, index=index).stdout == f"3 wheels in {out}\n"
    names = sorted(path.name.split("-py3")[0] for path in out.glob("*.whl"))
    assert names == ["edgeloop-1.0", "more-1.0", "needed-1.0"]
    checked = subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=out, check=False)
    assert checked.returncode == 0 and len((out / "SHA256SUMS").read_text().splitlines()) == 3
    for taken in (out, out / "SHA256SUMS"):
        again = run(SCRIPT, taken, *words[2:], index=index)
        assert again.returncode == 1 and again.stderr.startswith(f"error: {taken} is not an empty folder")


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    ours = wheel(tmp_path, "edgeloop", "1.0", "Requires-Dist: absent")
    (tmp_path / "index").mkdir()
    words = (SCRIPT, tmp_path / "out", "--wheel", ours, "--constraints", os.devnull, "--architecture", "aarch64")
    failed = run(*words, index=tmp_path / "index")
    assert failed.returncode == 1 and "absent" in failed.stderr
