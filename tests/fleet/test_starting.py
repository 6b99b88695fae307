"""Commands start by their script and by `python -m`, and say which extra is missing."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from fleet.console.starting import start_command

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = {
    "cloud-hub": "cloud_hub",
    "model-compiler": "model_compiler",
    "fleet": "fleet.cli",
    "edge-agent": "edge_agent",
}


@pytest.mark.parametrize(("command", "module"), COMMANDS.items())
def test_a_command_is_its_package_s_main(command: str, module: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.startswith(command), done.stderr
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts.keys() == COMMANDS.keys()
    assert scripts[command].split(":")[0] in (f"{module}.__main__", f"{module}.main")


def test_a_missing_package_is_named_with_the_extra_that_has_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wants_much.py").write_text("import a_package_that_nobody_has.part\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SystemExit) as ended:
        start_command("fleet", "wants_much", "fleet")
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert "error: fleet needs the package a_package_that_nobody_has, which is not installed" in said
    assert "try: pip install 'edgeloop[fleet]'" in said


def test_a_module_of_ours_that_is_missing_is_a_fault_and_shown_as_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "wants_ours.py").write_text("import fleet.no_such_module\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match=r"fleet\.no_such_module"):
        start_command("fleet", "wants_ours", "fleet")
