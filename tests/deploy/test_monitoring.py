"""Alert rules and dashboards ask for nothing that hub and agent do not export, by names and by labels."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from cloud_hub.app import create_app
from edge_agent.telemetry.local_draws import LocalDraws
from fleet.api.drift import AlarmStatus
from fleet.api.jobs import JobState
from fleet.rollouts.machine import State
from tests.support.agent import Agent
from tests.support.hub import make_hub
from tests.support.require import require

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES, CONFIG = DEPLOY / "prometheus" / "rules" / "edgeloop.yml", DEPLOY / "prometheus" / "prometheus.yml"
BOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
SELECTOR = re.compile(r"\b(edgeloop_[a-z_]+|edge_[a-z_]+|up)\b(?:\{([^}]*)\})?")
OF_PROMETHEUS = {"job", "instance", "le"}
STATES = {
    "edgeloop_hub_devices": {"online", "offline", "revoked"},
    "edgeloop_hub_rollouts": set(get_args(State)),
    "edgeloop_hub_jobs": set(get_args(JobState)),
    "edgeloop_hub_alarms": set(get_args(AlarmStatus)),
    "edgeloop_hub_metadata_expires_seconds": {"root", "targets", "models", "channels", "snapshot", "timestamp"},
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The labels of every series of hub and agent, by its name."""
    folder = tmp_path_factory.mktemp("exported")
    return {"up": set(), **of_hub(folder / "hub"), **of_agent(folder / "agent")}


def of_hub(folder: Path) -> dict[str, set[str]]:
    folder.mkdir()
    found: dict[str, set[str]] = {}
    registry = create_app(make_hub(folder).hub).state.registry
    declared = {name: one for one, names in registry._collector_to_names.items() for name in names}
    for family in registry.collect():
        labels = getattr(family, "_labelnames", None) or getattr(declared.get(family.name), "_labelnames", ())
        found |= series(family.name + ("_total" if family.type == "counter" else ""), family.type, labels)
    return found


def of_agent(folder: Path) -> dict[str, set[str]]:
    agent = Agent(folder)
    LocalDraws(folder, lambda drawn: True, agent.metrics)
    metrics, found = agent.metrics, {}
    for name, (_, labels, _) in metrics._counters.items():
        found |= series(name, "counter", labels)
    for name, _, labels, _ in metrics._gauges:
        found |= series(name, "gauge", labels)
    for name, (_, labels, _) in metrics._histograms.items():
        found |= series(name, "histogram", labels)
    return found


def series(name: str, kind: str, labels: Any) -> dict[str, set[str]]:
    ends = {"histogram": ("_bucket", "_sum", "_count"), "summary": ("_sum", "_count")}.get(kind, ("",))
    return {name + end: set(labels) for end in ends}


def alerts() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def asked() -> Iterator[tuple[str, str]]:
    """Places and queries: every expression, and every query of a variable."""
    for rule in alerts():
        yield rule["alert"], rule["expr"]
    for board in BOARDS:
        document = json.loads(board.read_text())
        for panel in document["panels"]:
            for target in panel["targets"]:
                yield f"{board.name}: {panel['title']}", target["expr"]
        for variable in document["templating"]["list"]:
            if variable["type"] == "query":
                yield f"{board.name}: ${variable['name']}", variable["query"]["query"]


@pytest.mark.parametrize(("where", "expression"), list(asked()), ids=lambda text: text if len(text) < 60 else "")
def test_every_series_and_label_that_is_asked_for_is_exported(where, expression, exported):
    used = SELECTOR.findall(expression)
    assert used, expression
    for name, matchers in used:
        assert name in exported, f"{where}: nobody exports {name}"
        for label, operator, value in re.findall(r'(\w+)(=~|!~|!=|=)"([^"]*)"', matchers):
            assert label in exported[name] | OF_PROMETHEUS, f"{where}: {name} has no label {label}"
            if name in STATES and label in ("state", "status", "role") and operator in ("=", "=~"):
                assert set(value.split("|")) <= STATES[name], f"{where}: {name} is never {value}"
    grouped = {label.strip() for found in re.findall(r"\bby \(([^)]*)\)", expression) for label in found.split(",")}
    assert grouped <= set().union(*(exported[name] for name, _ in used)) | OF_PROMETHEUS, where


def test_everything_that_is_exported_is_on_a_dashboard(exported):
    shown = {name for where, text in asked() if ".json" in where for name, _ in SELECTOR.findall(text)}
    missing = {re.sub(r"_(bucket|sum|count)$", "", name) for name in set(exported) - shown}
    assert missing <= {re.sub(r"_bucket$", "", name) for name in shown}


def test_every_job_that_a_rule_names_is_scraped_and_the_paths_are_those_of_compose():
    config = yaml.safe_load(CONFIG.read_text())
    text = CONFIG.read_text()
    for job in set(re.findall(r'job="([^"]+)"', RULES.read_text())):
        assert f"job_name: {job}" in text, job
    (scrape,) = config["scrape_configs"]
    compose = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())
    inside = {f"/run/secrets/{name}" for name in compose["services"]["prometheus"]["secrets"]}
    assert {scrape["authorization"]["credentials_file"], scrape["tls_config"]["ca_file"]} == inside
    assert scrape["static_configs"][0]["targets"] == ["hub:8080"] and "hub" in compose["services"]
    assert all((CONFIG.parent / name).is_file() for name in config["rule_files"])
    mounted = {line.split(":")[1]: line.split(":")[0] for line in compose["services"]["grafana"]["volumes"]}
    (provider,) = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/edgeloop.yml").read_text())["providers"]
    assert (DEPLOY / "compose" / mounted[provider["options"]["path"]]).resolve() == BOARDS[0].parent


def test_every_alert_says_what_to_do_and_how_bad_it_is():
    names = [rule["alert"] for rule in alerts()]
    assert len(names) == len(set(names))
    for rule in alerts():
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert rule["annotations"].keys() == {"summary", "action"}, rule["alert"]


def test_panels_have_numbers_of_their_own_and_do_not_overlap():
    for board in BOARDS:
        panels = json.loads(board.read_text())["panels"]
        assert len({panel["id"] for panel in panels}) == len(panels)
        taken: set[tuple[int, int]] = set()
        for panel in panels:
            at = panel["gridPos"]
            cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
            assert not cells & taken and max(x for x, _ in cells) < 24, panel["title"]
            taken |= cells


def test_prometheus_takes_rules_and_configuration_and_the_rules_hold_on_series(tmp_path):
    promtool = require("promtool", "prometheus")
    for words in (
        ("check", "rules", RULES),
        ("check", "config", "--syntax-only", CONFIG),
        ("test", "rules", Path(__file__).with_name("alerts_test.yml")),
    ):
        done = subprocess.run([promtool, *words], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
