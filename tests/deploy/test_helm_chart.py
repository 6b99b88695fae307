"""The Helm chart, by what Helm has made of it: each command, port, path, variable and metric is the code's.

`scripts/render-chart` keeps what Helm renders for the values in `helm/`, after lint and Kubernetes' own schemas; no
Helm is needed here, and what is kept of an older chart is noticed.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import os
import shlex
import socket
import subprocess
import time
from collections.abc import Iterator
from getpass import getuser
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import pytest
import yaml

from cloud_hub.app import routers
from cloud_hub.broker.link import Address, Link
from cloud_hub.config import BrokerConfig, HubConfig
from cloud_hub.identity.ca import HUB_IDENTITY
from tests.deploy.test_containers import IMAGES, takes
from tests.support.hub import HubFixture, make_hub
from tests.support.hub_process import free_port
from tests.support.require import require

ROOT = Path(__file__).parents[2]
CHART, KEPT = ROOT / "deploy" / "helm" / "edgeloop", Path(__file__).parent / "helm"
GUIDE = (ROOT / "docs" / "how-to" / "run-on-kubernetes.md").read_text()
SETS = ("small", "large", "shared")
OBJECTS: dict[str, list[dict[str, Any]]] = {
    name: list(yaml.safe_load_all((KEPT / f"rendered-{name}.yaml").read_text())) for name in SETS
}
DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
INSTANCE = {"hub.toml", "ca.pem", "server.pem", "server.key", "token-secret"}
either = pytest.mark.parametrize("name", SETS)


@pytest.fixture(scope="module")
def renderer() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("render_chart", str(ROOT / "scripts" / "render-chart"))
    spec = importlib.util.spec_from_loader("render_chart", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def merged(values: dict[str, Any], into: dict[str, Any] = DEFAULTS) -> dict[str, Any]:
    """Values over the chart's own, as Helm lays them."""
    found = dict(into)
    for key, value in values.items():
        found[key] = merged(value, into[key]) if isinstance(value, dict) and isinstance(into.get(key), dict) else value
    return found


def given(name: str) -> dict[str, Any]:
    return yaml.safe_load((KEPT / f"values-{name}.yaml").read_text())


def of_kind(name: str, *kinds: str) -> list[dict[str, Any]]:
    return [made for made in OBJECTS[name] if made["kind"] in kinds]


def pods(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each workload's part and its pod."""
    for made in of_kind(name, "StatefulSet", "Deployment"):
        yield made["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"], made["spec"]["template"]


def ours(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The pods that run `cloud-hub`."""
    return ((part, pod) for part, pod in pods(name) if part != "mosquitto")


def containers(name: str) -> Iterator[dict[str, Any]]:
    for _, pod in pods(name):
        yield from pod["spec"].get("initContainers", []) + pod["spec"]["containers"]


@either
def test_what_is_kept_was_rendered_from_this_chart(renderer: ModuleType, name: str) -> None:
    first = (KEPT / f"rendered-{name}.yaml").read_text().splitlines()[0]
    wanted = f"# Written by scripts/render-chart of {renderer.source_hash(KEPT / f'values-{name}.yaml')}"
    assert first == wanted, "the chart or its values have changed: run scripts/render-chart, which says what it needs"


@either
def test_the_schema_takes_what_is_meant(name: str) -> None:
    jsonschema.validate(merged(given(name)), SCHEMA)


@pytest.mark.parametrize(
    "wrong",
    [
        {"image": {"repository": ""}},
        {"directory": {"existingSecret": ""}},
        {"database": {"existingSecret": ""}},
        {"objects": {"url": "https://bucket"}},
        {"objects": {"url": "s3://a/b", "persistence": {"enabled": True}}},
        {"objects": {"url": "", "persistence": {"enabled": False}}},
        {"broker": {"kind": "external", "host": ""}},
        {"broker": {"kind": "embedded"}},
        {"broker": {"kind": "mosquitto"}},  # devices have to be told of it
        {"broker": {"kind": "mosquitto", "advertiseHost": "mqtt.example", "host": "another.example"}},
        {"broker": {"kind": "mosquitto", "advertiseHost": "mqtt.example", "port": 8884}},
        {"hub": {"replicas": 0}},
        {"monitoring": {"enabled": True}},
        {"advertiseUrl": "http://plain.example"},
        {"unheard": 1},
        {"infer": {"autoscaling": {"cpu": 80}}},
    ],
)
def test_the_schema_refuses_what_would_not_run(wrong: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(merged(wrong, merged(given("small"))), SCHEMA)


@either
def test_nothing_runs_as_root_or_writes_to_its_image(name: str) -> None:
    user, group = map(int, IMAGES["hub"].one("USER").split(":"))
    for _, pod in pods(name):
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False and "hostNetwork" not in spec
        said = spec["securityContext"]
        assert (said["runAsUser"], said["runAsGroup"], said["fsGroup"]) == (user, group, group)
        assert said["runAsNonRoot"] and said["seccompProfile"] == {"type": "RuntimeDefault"}
    for one in containers(name):
        said = one["securityContext"]
        assert said["readOnlyRootFilesystem"] and said["allowPrivilegeEscalation"] is False
        assert said["capabilities"] == {"drop": ["ALL"]}
        assert one["resources"]["limits"]["memory"] and one["resources"]["requests"]["cpu"]


@either
def test_every_volume_that_is_mounted_is_there_and_no_secret_is_in_a_value(name: str) -> None:
    for made in of_kind(name, "StatefulSet", "Deployment"):
        spec = made["spec"]["template"]["spec"]
        claims = {one["metadata"]["name"] for one in made["spec"].get("volumeClaimTemplates", [])}
        known = claims | {one["name"] for one in spec["volumes"]}
        inside = spec.get("initContainers", []) + spec["containers"]
        assert {mount["name"] for one in inside for mount in one["volumeMounts"]} == known
        for one in spec["containers"]:
            if one["name"] == "mosquitto":
                assert "env" not in one and "envFrom" not in one
                continue
            database = next(item for item in one["env"] if item["name"] == "EDGELOOP_HUB_DATABASE")
            assert database["valueFrom"]["secretKeyRef"]["name"] == "edgeloop-database" and "value" not in database


@either
def test_each_part_runs_a_command_that_exists_over_the_images_volume(name: str) -> None:
    wanted = {"hub": ["serve"], "infer": ["serve", "--roles", "infer"], "worker": ["worker"]}
    for part, pod in ours(name):
        (one,) = pod["spec"]["containers"]
        assert [word for word in one["args"] if not word.startswith("/")] == wanted[part]
        assert takes("cloud-hub", one["args"]) and IMAGES["hub"].one("VOLUME") in one["args"]
        assert "command" not in one and IMAGES["hub"].command()[0] == "cloud-hub"
    found = {"small": {"hub", "infer"}, "large": set(wanted), "shared": {"hub", "mosquitto"}}
    assert {part for part, _ in pods(name)} == found[name]


@either
def test_variables_are_settings_and_say_what_the_values_do(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (pod,) = (pod for part, pod in pods(name) if part == "hub")
    for item in pod["spec"]["containers"][0]["env"]:
        monkeypatch.setenv(item["name"], item.get("value", "postgresql+psycopg://edgeloop:x@db/edgeloop"))
    config = HubConfig.build(Path("/var/lib/cloud-hub"), {"host": "127.0.0.1", "hostnames": ["hub.example"]})
    assert config.host == "0.0.0.0" and not config.worker.local  # in a pod
    assert config.database_url.startswith("postgresql+psycopg://")
    broker = config.broker.resolved()
    if name == "small":
        assert (broker.kind, broker.port, broker.tls) == ("mosquitto", 8883, True)
        mounts = {mount["name"]: mount["mountPath"] for mount in pod["spec"]["containers"][0]["volumeMounts"]}
        assert str(Path(config.objects_url).parent) == mounts["objects"]  # where the lock beside them is written
    elif name == "shared":
        (service,) = (one for one in of_kind(name, "Service") if one["metadata"]["name"] == broker.host)
        assert broker.kind == "external" and [port["port"] for port in service["spec"]["ports"]] == [broker.port]
        assert broker.advertise_host == "mqtt.example" and broker.tls
    else:
        assert (broker.kind, broker.host, broker.port) == ("external", "mqtt.edgeloop.svc", 8884)
        assert config.objects_url == "s3://edgeloop/hub" and config.log_format == "json"
        assert config.advertise_url == "https://hub.example" and broker.advertise_host == "mqtt.example"


@either
def test_probes_and_services_lead_to_ports_that_the_hub_listens_on(name: str) -> None:
    config, known = HubConfig.build(Path("/hub"), {}), {route.path for router in routers() for route in router.routes}
    for part, pod in ours(name):
        (one,) = pod["spec"]["containers"]
        ports = {port["name"]: port["containerPort"] for port in one.get("ports", [])}
        hears = {"https": config.port} | ({"mqtts": BrokerConfig().port} if (part, name) == ("hub", "small") else {})
        assert ports == ({} if part == "worker" else hears)
        for probe in [one[key] for key in one if key.endswith("Probe")]:
            assert probe["httpGet"]["path"] in known and probe["httpGet"]["scheme"] == "HTTPS"
            assert probe["httpGet"]["port"] in ports
        assert ("livenessProbe" in one) == (part != "worker")
    for service in of_kind(name, "Service"):
        part = service["spec"]["selector"]["app.kubernetes.io/component"]
        (one,) = next(pod for known_part, pod in pods(name) if known_part == part)["spec"]["containers"]
        names = {port["name"] for port in one["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= names


@either
def test_every_pod_has_a_network_policy_with_its_ports_and_no_more(name: str) -> None:
    policies = {
        made["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"]: made["spec"]
        for made in of_kind(name, "NetworkPolicy")
    }
    assert set(policies) == {part for part, _ in pods(name)}
    for part, pod in pods(name):
        policy, (one,) = policies[part], pod["spec"]["containers"]
        assert policy["policyTypes"] == ["Ingress", "Egress"]
        opened = [port["port"] for rule in policy.get("ingress", []) for port in rule["ports"]]
        assert opened == [port["containerPort"] for port in one.get("ports", [])]
        assert policy["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
        outward = {port["port"] for rule in policy["egress"] for port in rule.get("ports", [])}
        values = merged(given(name))
        if part == "mosquitto":
            assert not outward
            (rule,) = policy["ingress"]
            assert {"podSelector": policies["hub"]["podSelector"]} in rule["from"]
            continue
        assert outward == {53, *values["networkPolicy"]["egressPorts"]}
        if values["broker"]["kind"] == "external":
            assert values["broker"]["port"] in outward


def test_instances_are_scaled_by_a_metric_that_they_export(tmp_path: Path) -> None:
    (scaler,) = of_kind("large", "HorizontalPodAutoscaler")
    (metric,) = scaler["spec"]["metrics"]
    (deployment,) = (made for made in of_kind("large", "Deployment") if made["metadata"]["name"] == "edge-infer")
    assert scaler["spec"]["scaleTargetRef"]["name"] == "edge-infer" and "replicas" not in deployment["spec"]
    assert (scaler["spec"]["minReplicas"], scaler["spec"]["maxReplicas"]) == (2, 20)
    hub = make_hub(tmp_path)
    page = hub.client.get("/metrics", headers=hub.auth()).text
    assert f"# TYPE {metric['pods']['metric']['name']} gauge" in page and metric["pods"]["metric"]["name"] in GUIDE
    assert not of_kind("small", "HorizontalPodAutoscaler")
    (budget,) = of_kind("small", "PodDisruptionBudget")
    assert budget["spec"]["maxUnavailable"] == 1


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> HubFixture:
    return make_hub(tmp_path_factory.mktemp("made"), start=time.time())  # Mosquitto reads the certificates


def test_a_volume_is_filled_once_and_what_the_hub_renews_in_it_stays(made: HubFixture, tmp_path: Path) -> None:
    source = made.hub.config.directory
    secret, volume = tmp_path / "secret", tmp_path / "volume"
    secret.mkdir()
    (secret / "hub.toml").write_text('hostnames = ["hub.example"]\n')
    for path in (source / "keys").iterdir():
        (secret / path.name).write_bytes(path.read_bytes())
    (pod,) = (pod for part, pod in pods("small") if part == "hub")
    (fill,) = pod["spec"]["initContainers"]
    (script,) = fill["args"]
    script = script.replace("/var/lib/cloud-hub", str(volume)).replace("/secret", str(secret))

    def run() -> None:
        subprocess.run([*fill["command"], script], check=True, env={"PATH": os.environ["PATH"]})

    run()
    assert (volume / "hub.toml").read_text() == 'hostnames = ["hub.example"]\n'
    kept = {path.name: path.read_bytes() for path in (volume / "keys").iterdir()}
    assert kept == {path.name: path.read_bytes() for path in (source / "keys").iterdir()}
    assert all(path.stat().st_mode & 0o077 == 0 for path in volume.rglob("*"))
    (volume / "keys" / "server.pem").write_text("renewed")
    (secret / "hub.toml").write_text("port = 8443\n")
    run()
    assert (volume / "keys" / "server.pem").read_text() == "renewed"
    assert (volume / "hub.toml").read_text() == "port = 8443\n"


@either
def test_an_instance_is_given_no_key_that_signs_or_certifies(name: str) -> None:
    given = {}
    for part, pod in ours(name):
        (secret,) = (volume["secret"] for volume in pod["spec"]["volumes"] if volume["name"] == "secret")
        given[part] = {item["path"] for item in secret.get("items", [])}
    assert given.pop("infer", INSTANCE) == INSTANCE
    assert set.union(*given.values()) == set()  # the whole Secret


def test_the_charts_mosquitto_runs_on_its_files_and_lets_a_hub_in(made: HubFixture, tmp_path: Path) -> None:
    (pod,) = (pod for part, pod in pods("shared") if part == "mosquitto")
    (container,) = pod["spec"]["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    (configuration,) = of_kind("shared", "ConfigMap")
    (volume,) = (one["projected"] for one in pod["spec"]["volumes"] if one["name"] == "files")
    keys = [item["path"] for source in volume["sources"] for item in source.get("secret", {}).get("items", [])]
    files, sessions, port = tmp_path / "files", tmp_path / "sessions", free_port()
    files.mkdir(), sessions.mkdir()
    for name in keys:
        (files / name).write_bytes((made.hub.config.directory / "keys" / name).read_bytes())
    for name, text in configuration["data"].items():
        assert text == (ROOT / "deploy" / "mosquitto" / name).read_text(), "run scripts/render-chart"
        moved = text.replace(mounts["files"], str(files)).replace(mounts["sessions"], str(sessions))
        (files / name).write_text(moved.replace("listener 8883", f"listener {port} 127.0.0.1\nuser {getuser()}"))
    assert set(keys) == {"ca.pem", "server.pem", "server.key"}, "no key that signs or certifies"
    binary = str(require("mosquitto", "mosquitto"))
    command = [word.replace(mounts["files"], str(files)) for word in container["command"]]
    assert command[0] == "mosquitto"
    config = made.hub.config
    address = Address(
        host="127.0.0.1",
        port=port,
        client_id=HUB_IDENTITY,
        ca_file=str(config.ca_file),
        cert_file=str(config.client_certificate),
        key_file=str(config.client_key),
    )
    with subprocess.Popen([binary, *command[1:]], stderr=subprocess.DEVNULL) as child:
        try:
            listens(port)
            with Link(address, config.broker.prefix, lambda *_: None) as link:
                assert link.hears
        finally:
            child.terminate()


def listens(port: int) -> None:
    """Wait until somebody does."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"nobody listens on {port}")


def test_the_guides_commands_exist_and_it_says_what_was_not_run() -> None:
    commands = [line[2:] for line in GUIDE.splitlines() if line.startswith("$ cloud-hub")]
    assert commands and all(takes("cloud-hub", shlex.split(line)[1:]) for line in commands)
    assert "**Not run**" in GUIDE and "helm upgrade --install" in GUIDE
    for key in DEFAULTS:
        assert f"`{key}" in GUIDE, f"{key} of values.yaml is not in the guide"
