"""Dockerfiles and the compose file: every path, port, command, option and variable that they name is the code's.

No engine is needed: what a build does is proved by its commands, which `docs/how-to/run-in-containers.md` speaks of.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from cloud_hub.app import routers
from cloud_hub.config import HubConfig
from cloud_hub.config_tables import BrokerConfig
from edge_agent.cli_arguments import build_parser
from tests.support.commands import call

ROOT = Path(__file__).parents[2]
DOCKER, COMPOSE = ROOT / "deploy" / "docker", ROOT / "deploy" / "compose"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((COMPOSE / "compose.yaml").read_text())["services"]
WITH_MINIO: dict[str, dict[str, Any]] = yaml.safe_load((COMPOSE / "minio.yaml").read_text())["services"]
GUIDE = (ROOT / "docs" / "how-to" / "run-in-containers.md").read_text()


class Image:
    """A Dockerfile's instructions, stage by stage."""

    def __init__(self, name: str) -> None:
        text = re.sub(r"^#.*\n", "", (DOCKER / f"{name}.Dockerfile").read_text(), flags=re.MULTILINE)
        self.stages: list[list[tuple[str, str]]] = []
        for line in text.replace("\\\n", " ").splitlines():
            word, _, rest = line.strip().partition(" ")
            if word == "FROM":
                self.stages.append([])
            if word:
                self.stages[-1].append((word, rest.strip()))

    def all(self, word: str, stage: int = -1) -> list[str]:
        return [rest for name, rest in self.stages[stage] if name == word]

    def one(self, word: str) -> str:
        (found,) = self.all(word)
        return found

    def command(self) -> list[str]:
        """The command that a container runs by default."""
        return [*json.loads(self.one("ENTRYPOINT")), *json.loads(self.one("CMD"))]


IMAGES = {name: Image(name) for name in ("agent", "hub")}
images = pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)


def takes(program: str, words: list[str]) -> bool:
    """Tell whether the command of that name has these subcommands and options."""
    if program == "edge-agent":
        build_parser().parse_args(words)  # SystemExit where not
        return True
    return call(program, *words, "--help").returncode == 0


def test_the_source_distribution_holds_what_images_are_built_of_and_what_how_tos_name() -> None:
    kept = PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    assert all(pattern.startswith("/") and (ROOT / pattern[1:]).exists() for pattern in kept)  # else it is any folder's
    copied = {source for image in IMAGES.values() for line in image.all("COPY", 0) for source in shlex.split(line)[:-1]}
    always = {"/pyproject.toml"}
    assert {f"/{source}" for source in copied} | {"/deploy", "/scripts", "/docs", "/.dockerignore"} <= {
        *kept,
        *always,
    }


def extras() -> set[str]:
    return set(PROJECT["project"]["optional-dependencies"])


@images
def test_bases_have_a_tag_and_what_is_copied_is_there_and_not_ignored(image: Image) -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"
    copied = [source for line in image.all("COPY", 0) for source in shlex.split(line)[:-1]]
    assert set(copied) <= kept and all((ROOT / source).exists() for source in [*copied, *kept])
    assert set(PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) <= set(copied)
    for stage in range(len(image.stages)):
        (base,) = image.all("FROM", stage)
        assert re.fullmatch(r"python:3\.11-slim-bookworm( AS build)?", base)


@images
def test_what_the_build_installs_exists_and_only_the_environment_leaves_it(image: Image) -> None:
    (run,) = image.all("RUN", 0)
    constraints = re.findall(r"-c (\S+)", run)
    assert constraints and all((ROOT / name).is_file() for name in constraints)
    default = dict(line.split("=", 1) for line in image.all("ARG", 0))["EXTRAS"].strip('"')
    assert set(filter(None, default.split(","))) <= extras()
    assert f"python -m venv {environment(image)} " in run and f"{environment(image)}/bin/pip install " in run
    for line in re.findall(r"EXTRAS=\[?([a-z,]+)", GUIDE):
        assert set(line.split(",")) <= extras()


def environment(image: Image) -> str:
    """The one folder that comes out of the build."""
    _, source, target = image.one("COPY").split()
    assert source == target and f"PATH={source}/bin:" in image.one("ENV")
    return source


@images
def test_it_runs_as_a_user_of_its_own_that_owns_the_volume_and_no_more(image: Image) -> None:
    user, group = image.one("USER").split(":")
    assert int(user) > 1000 and int(group) > 1000  # a number, so that a cluster can see that it is not root
    run = " && ".join(image.all("RUN"))
    assert f"--uid {user} " in run and f"install -d -o {user} -g {group} " in run
    assert re.search(rf"install -d .* {image.one('VOLUME')}( &&|$)", run)
    assert [name for name, _ in image.stages[-1]].index("USER") > [name for name, _ in image.stages[-1]].index("RUN")


@images
def test_the_container_starts_a_command_that_exists_over_its_volume(image: Image) -> None:
    program, *words = image.command()
    assert program in PROJECT["project"]["scripts"] and takes(program, words)
    assert image.one("VOLUME") in words


def test_ports_and_the_checks_of_health_are_the_codes() -> None:
    hub, agent = IMAGES["hub"], IMAGES["agent"]
    config = HubConfig.build(Path("/var/lib/cloud-hub"), {})
    assert hub.one("EXPOSE").split() == [str(config.port), str(BrokerConfig().port)]
    (url,) = re.findall(r"https?://[^']+", hub.one("HEALTHCHECK"))
    assert urlsplit(url).port == config.port
    assert urlsplit(url).path in {route.path for router in routers() for route in router.routes}
    assert str(config.ca_file) in hub.one("HEALTHCHECK")
    (url,) = re.findall(r"https?://[^']+", agent.one("HEALTHCHECK"))
    options = build_parser().parse_args(agent.command()[1:])
    assert urlsplit(url).port == options.port and urlsplit(url).hostname == "127.0.0.1"
    assert urlsplit(url).path == "/v2/health/live"
    for image in IMAGES.values():
        words = json.loads(image.one("HEALTHCHECK").partition(" CMD ")[2])
        compile(words[2], "HEALTHCHECK", "exec")


def test_the_compose_file_gives_the_hub_its_database_and_nothing_to_strangers() -> None:
    hub, postgres = SERVICES["hub"], SERVICES["postgres"]
    given = {
        name: value.replace("${POSTGRES_PASSWORD:?run ./make-secrets}", "s3cret")
        for name, value in hub["environment"].items()
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in given.items():
            patch.setenv(name, value)
        url = urlsplit(HubConfig.build(Path("/var/lib/cloud-hub"), {}).database_url)
    theirs = postgres["environment"]
    assert (url.username, url.hostname, url.path[1:]) == (theirs["POSTGRES_USER"], "postgres", theirs["POSTGRES_DB"])
    assert url.password == "s3cret" and url.scheme == "postgresql+psycopg"
    assert "ports" not in postgres and postgres["networks"] == ["database"]
    assert [name for name, one in SERVICES.items() if "database" in one["networks"]] == ["hub", "postgres"]
    assert hub["volumes"] == [f"hub:{IMAGES['hub'].one('VOLUME')}"]
    assert (ROOT / hub["build"]["dockerfile"]).is_file()
    assert [line.split(":")[-1] for line in hub["ports"]] == IMAGES["hub"].one("EXPOSE").split()


def test_minio_is_the_hubs_alone_and_the_hub_finds_its_bucket_there() -> None:
    hub, minio, maker = (WITH_MINIO[name] for name in ("hub", "minio", "minio-bucket"))
    said = {
        name: value.replace("${MINIO_PASSWORD:?run ./make-secrets}", "s3cret")
        for name, value in hub["environment"].items()
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in said.items():
            patch.setenv(name, value)
        url = urlsplit(HubConfig.build(Path("/var/lib/cloud-hub"), {}).objects_url)
    assert (url.scheme, maker["entrypoint"][-1]) == ("s3", f"hub/{url.netloc}")
    assert urlsplit(said["AWS_ENDPOINT"]).hostname == "minio" and said["AWS_ALLOW_HTTP"] == "true"
    assert said["AWS_ACCESS_KEY_ID"] == minio["environment"]["MINIO_ROOT_USER"]
    assert said["AWS_SECRET_ACCESS_KEY"] == "s3cret" and "ports" not in minio and minio["networks"] == ["objects"]
    assert list(hub["depends_on"]) == ["minio-bucket"] and list(maker["depends_on"]) == ["minio"]
    assert "COMPOSE_FILE=compose.yaml:minio.yaml" in GUIDE
    for one in (minio, maker):
        assert one["read_only"] and one["cap_drop"] == ["ALL"] and re.search(r":RELEASE\.\d{4}-", one["image"])
    assert minio["image"] == maker["image"]


@pytest.mark.parametrize("name", SERVICES)
def test_each_container_is_bounded_and_its_image_has_a_version(name: str) -> None:
    service = SERVICES[name]
    assert "no-new-privileges:true" in service["security_opt"] and not service.get("privileged")
    if name != "postgres":  # whose start changes the owner of its volume
        assert service["read_only"] and service["cap_drop"] == ["ALL"]
    assert name == "hub" or re.search(r":v?\d+", service["image"])
    for line in service.get("volumes", []):
        source = line.split(":")[0]
        assert "docker.sock" not in line and (not source.startswith(".") or (COMPOSE / source).exists()), line
    for line in service.get("ports", []):
        assert name == "hub" or line.startswith("127.0.0.1:"), line


def test_every_secret_is_drawn_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    script = Path(shutil.copy(COMPOSE / "make-secrets", tmp_path))
    assert subprocess.run([script], capture_output=True, check=False).returncode == 0
    drawn = tmp_path / ".env"
    values = dict(line.split("=", 1) for line in drawn.read_text().splitlines())
    assert drawn.stat().st_mode & 0o777 == 0o600
    assert all(re.fullmatch("[0-9a-f]{48}", value) for value in values.values())
    assert len(set(values.values())) == len(values)
    text = (COMPOSE / "compose.yaml").read_text() + (COMPOSE / "minio.yaml").read_text()
    assert set(re.findall(r"\$\{([A-Z_]+)", text)) == set(values)
    assert all(asked.endswith(":?run ./make-secrets") for asked in re.findall(r"\$\{([^}]*)\}", text))
    before = drawn.read_bytes()
    again = subprocess.run([script], capture_output=True, text=True, check=False)
    assert again.returncode == 5 and "has every password already" in again.stderr and drawn.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"make-secrets", ".env", "secrets"}


def test_a_password_of_a_newer_version_is_added_and_none_is_replaced(tmp_path: Path) -> None:
    script, drawn = Path(shutil.copy(COMPOSE / "make-secrets", tmp_path)), tmp_path / ".env"
    drawn.write_text("POSTGRES_PASSWORD=old\nGRAFANA_PASSWORD=older\nCOMPOSE_FILE=compose.yaml:minio.yaml")
    drawn.chmod(0o644)
    done = subprocess.run([script], capture_output=True, text=True, check=True)
    kept = drawn.read_text().splitlines()
    assert kept[:3] == ["POSTGRES_PASSWORD=old", "GRAFANA_PASSWORD=older", "COMPOSE_FILE=compose.yaml:minio.yaml"]
    assert re.fullmatch("MINIO_PASSWORD=[0-9a-f]{48}", kept[3]) and len(kept) == 4
    assert drawn.stat().st_mode & 0o777 == 0o600
    assert "wrote MINIO_PASSWORD into" in done.stdout and kept[3].split("=")[1] not in done.stdout


def test_two_that_draw_at_once_do_not_mix_and_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    script = Path(shutil.copy(COMPOSE / "make-secrets", tmp_path))
    (tmp_path / ".env.lock").mkdir()
    other = subprocess.run([script], capture_output=True, text=True, check=False)
    assert other.returncode == 5 and "rmdir" in other.stderr and not (tmp_path / ".env").exists()
    (tmp_path / ".env.lock").rmdir()
    (tmp_path / "secrets").write_text("in the way")
    failed = subprocess.run([script], capture_output=True, text=True, check=False)
    assert failed.returncode != 0 and {path.name for path in tmp_path.iterdir()} == {"make-secrets", "secrets"}


def shown() -> Iterator[tuple[str, list[str]]]:
    """Program and words of each command that the guide runs in a container."""
    programs = {"hub": "cloud-hub", "edgeloop-agent": "edge-agent"}
    for line in re.findall(r"(?:^\$ |`)(docker [^`\n]*)", GUIDE, re.MULTILINE):
        words = shlex.split(line)
        at = next((words.index(name) for name in programs if name in words), None)
        if at is None or not words[at + 1 :] or words[1:3] in (["compose", "build"], ["compose", "up"]):
            continue
        if words[1:3] == ["compose", "exec"]:  # has the program itself
            yield words[at + 1], words[at + 2 :]
        elif words[1] == "run" or words[1:3] == ["compose", "run"]:
            yield programs[words[at]], words[at + 1 :]


def test_every_command_of_the_guide_exists() -> None:
    found = [(program, words) for program, words in shown() if program in PROJECT["project"]["scripts"]]
    assert {program for program, _ in found} == {"cloud-hub", "edge-agent", "fleet"}
    for program, words in found:
        assert takes(program, words), (program, words)


def test_a_command_that_does_not_exist_is_noticed() -> None:
    assert not takes("cloud-hub", ["serve", "/var/lib/cloud-hub", "--frobnicate"])
    with pytest.raises(SystemExit):
        takes("edge-agent", ["run", "--dir", "x", "--frobnicate"])
