"""The agent's Debian package: what it puts where, and what stays when it goes. dpkg itself, in a folder as its root."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from edge_agent.host import service
from tests.support.require import require

BUILD = Path(__file__).parents[2] / "scripts" / "build-deb"
STATE = "var/lib/edge-agent"
LINK = "etc/systemd/system/multi-user.target.wants/edge-agent.service"


def wheel(folder: Path, version: str) -> Path:
    """One of the distribution's name that holds next to nothing: what is in a real one, `test_wheel` looks at."""
    path = folder / f"edgeloop-{version}-py3-none-any.whl"
    about = f"edgeloop-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("edge_agent/__init__.py", "")
        archive.writestr("edge_agent/main.py", "def main(): return 0\n")
        archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: edgeloop\nVersion: {version}\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    return path


def build(folder: Path, version: str) -> Path:
    words = [sys.executable, BUILD, wheel(folder, version), "--out", folder, "--bare"]
    built = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert built.returncode == 0, built.stderr
    return Path(built.stdout.strip())


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A development version, and the release after it."""
    require("dpkg-deb", "dpkg")
    folder = tmp_path_factory.mktemp("deb")
    return build(folder, "0.2.0.dev0"), build(folder, "0.2.0")


class System:
    """A folder that dpkg takes for a system's root; maintainer scripts find it in DPKG_ROOT."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/dpkg/triggers", "etc"):
            (root / name).mkdir(parents=True)
        (root / "var/lib/dpkg/status").touch()

    def dpkg(self, *words: str | Path) -> str:
        forced = ["--force-script-chrootless", "--force-not-root", "--force-depends"]
        command = ["dpkg", f"--root={self.root}", f"--log={self.root}/log", *forced, *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def enrol(self) -> Path:
        key = self.root / STATE / "identity" / "device.key"
        key.parent.mkdir(parents=True)
        key.write_text("key")
        return key


@pytest.fixture
def system(tmp_path: Path) -> System:
    require("systemd-sysusers", "systemd")
    require("deb-systemd-helper", "init-system-helpers")
    return System(tmp_path)


def test_the_package_says_what_it_is_and_holds_the_service(packages, system):
    old, new = packages
    compared = subprocess.run(["dpkg", "--compare-versions", "0.2.0~dev0", "lt", "0.2.0"], check=False)
    assert compared.returncode == 0 and "0.2.0~dev0" in old.name and "_0.2.0_" in new.name
    fields = subprocess.run(["dpkg-deb", "--field", new], capture_output=True, text=True, check=True).stdout
    assert f"python3 (>= 3.{sys.version_info.minor})" in fields and "Package: edge-agent" in fields
    listed = subprocess.run(["dpkg-deb", "--contents", new], capture_output=True, text=True, check=True).stdout
    assert all(line.split()[1] == "root/root" for line in listed.splitlines())
    said = system.dpkg("--install", new)
    assert "enroll" in said
    asked = service.ServiceUnit(program=Path("/opt/edgeloop/bin/edge-agent"), directory=Path("/", STATE), port=8200)
    unit = (system.root / "lib/systemd/system/edge-agent.service").read_text().splitlines()
    assert unit[1:] == service.unit_of(asked).splitlines()[1:]
    assert (system.root / LINK).is_symlink() and (system.root / STATE).is_dir()
    assert "\nedge-agent:" in "\n" + (system.root / "etc/passwd").read_text()
    program = system.root / "opt/edgeloop/bin/edge-agent"
    assert program.stat().st_mode & 0o777 == 0o755 and "#!/opt/edgeloop/bin/python3" in program.read_text()
    assert str((system.root / "usr/bin/edge-agent").readlink()) == "/opt/edgeloop/bin/edge-agent"


def test_removal_leaves_identity_and_models_and_purging_does_not(packages, system):
    old, new = packages
    system.dpkg("--install", old)
    key = system.enrol()
    assert "enroll" not in system.dpkg("--install", new)  # an upgrade of an enrolled device
    assert key.exists() and (system.root / LINK).is_symlink()
    assert "stays" in system.dpkg("--remove", "edge-agent")
    assert key.exists() and not (system.root / "opt/edgeloop").exists()
    assert not (system.root / "lib/systemd/system/edge-agent.service").exists()
    system.dpkg("--install", new)  # goes on with what is there
    assert key.exists() and (system.root / LINK).is_symlink()
    system.dpkg("--purge", "edge-agent")
    assert not (system.root / STATE).exists() and not (system.root / LINK).is_symlink()


def test_what_an_administrator_disabled_stays_so(packages, system):
    old, new = packages
    system.dpkg("--install", old)
    (system.root / LINK).unlink()
    system.dpkg("--install", new)
    assert not (system.root / LINK).is_symlink()


def test_what_is_no_wheel_of_ours_gives_no_package(tmp_path):
    for data in (
        b"no archive",
        wheel(tmp_path, "0.2.0").read_bytes().replace(b"edgeloop-0.2.0.dist", b"another__0.2.0.dist"),
    ):
        (tmp_path / "x.whl").write_bytes(data)
        words = [sys.executable, BUILD, tmp_path / "x.whl", "--out", tmp_path / "out", "--bare"]
        built = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
        assert built.returncode == 1 and "is no wheel of edgeloop" in built.stderr
        assert not list((tmp_path / "out").glob("*.deb"))
