"""The rooms that each room may import, and no import goes round in a circle."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import grimp
import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("fleet", "edge_agent", "cloud_hub", "model_compiler")

# Room -> the other rooms of ours that it may import. The demo starts the commands as processes; only the command that
# begins it may import it.
ALLOWED = {
    "fleet.console": set(),
    "fleet.mqtt": set(),
    "fleet.durable": set(),
    "fleet.protocol": set(),
    "fleet.runtimes": {"fleet.protocol"},
    "fleet.tasks": {"fleet.protocol"},
    "fleet.rollouts": {"fleet.protocol"},
    "fleet.serving": set(),
    "fleet.tracing": set(),
    "fleet.rpc": {"fleet.protocol", "fleet.serving", "fleet.tracing"},
    "edge_agent": {
        "fleet.console",
        "fleet.durable",
        "fleet.mqtt",
        "fleet.protocol",
        "fleet.rpc",
        "fleet.runtimes",
        "fleet.serving",
        "fleet.tasks",
        "fleet.tracing",
    },
    "model_compiler": {"fleet.console", "fleet.protocol", "fleet.runtimes", "fleet.tasks"},
    "fleet.api": {"fleet.protocol", "fleet.rollouts"},
    "cloud_hub": {
        "fleet.api",
        "fleet.console",
        "fleet.durable",
        "fleet.mqtt",
        "fleet.protocol",
        "fleet.rpc",
        "fleet.runtimes",
        "fleet.rollouts",
        "fleet.serving",
        "fleet.tasks",
        "fleet.tracing",
        "model_compiler",
    },
    "fleet.simulator": {"fleet.protocol", "edge_agent"},
    "fleet": {"fleet.api", "fleet.durable", "fleet.protocol"},
    "fleet.demo": {"fleet", "fleet.api", "fleet.protocol"},
    "fleet.cli": {
        "fleet",
        "fleet.api",
        "fleet.console",
        "fleet.demo",
        "fleet.protocol",
        "fleet.rollouts",
        "fleet.simulator",
    },
}

CLIENT = "fleet.client"  # of the room `fleet`, with its errors; the client is also what commands and demo may import


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    """Every import, those inside functions and for type checks included."""
    return grimp.build_graph(*PACKAGES, cache_dir=None)


def room(module: str) -> str:
    """The most specific room that holds a module."""
    return max((r for r in ALLOWED if f"{module}.".startswith(f"{r}.")), key=len)


def imports(graph: grimp.ImportGraph) -> list[tuple[str, str]]:
    return [(m, n) for m in sorted(graph.modules) for n in sorted(graph.find_modules_directly_imported_by(m))]


def cycle(edges: dict[str, set[str]]) -> list[str]:
    """Some cycle of a graph, or an empty list."""
    done: set[str] = set()
    for begin in sorted(edges):
        path: list[str] = []
        stack = [(begin, iter(sorted(edges[begin])))] if begin not in done else []
        path += [begin] if stack else []
        while stack:
            node, rest = stack[-1]
            following = next((n for n in rest if n not in done), None)
            if following is None:
                done.add(node)
                stack.pop()
                path.pop()
            elif following in path:
                return [*path[path.index(following) :], following]
            else:
                path.append(following)
                stack.append((following, iter(sorted(edges.get(following, ())))))
    return []


def test_arrows_point_only_where_the_map_allows(graph: grimp.ImportGraph) -> None:
    wrong = [
        f"{source} imports {target}"
        for source, target in imports(graph)
        if room(source) != room(target) and room(target) not in ALLOWED[room(source)]
    ]
    assert wrong == []


def test_no_module_imports_itself_in_a_circle(graph: grimp.ImportGraph) -> None:
    edges = {m: set(graph.find_modules_directly_imported_by(m)) for m in graph.modules}
    assert cycle(edges) == []


def test_no_two_rooms_import_each_other(graph: grimp.ImportGraph) -> None:
    edges: dict[str, set[str]] = {r: set() for r in ALLOWED}
    for source, target in imports(graph):
        if room(source) != room(target):
            edges[room(source)].add(room(target))
    assert cycle(edges) == []


@pytest.mark.parametrize("package", ["cloud_hub", "cloud_hub.dashboard", "edge_agent.update"])
def test_no_package_of_a_room_imports_itself_in_a_circle(package: str) -> None:
    """Its modules at the top stand for themselves. Imports inside functions and for type checks count, too."""
    whole = grimp.build_graph(package.split(".")[0], cache_dir=None)
    inside = {name for name in whole.modules if name.startswith(f"{package}.")}
    edges: dict[str, set[str]] = {}
    for source in inside:
        for target in whole.find_modules_directly_imported_by(source) & inside:
            one, other = (".".join(name.split(".")[: package.count(".") + 2]) for name in (source, target))
            edges.setdefault(one, set()).update({other} - {one})
            edges.setdefault(other, set())
    assert edges and cycle(edges) == []


@pytest.mark.parametrize(
    ("package", "below"), [("edge_agent.host", set()), ("edge_agent.runtimes", {"edge_agent.host"})]
)
def test_the_lowest_packages_of_the_agent_know_none_above_them(
    graph: grimp.ImportGraph, package: str, below: set[str]
) -> None:
    """Modules at the top of the room, such as its errors and ports, are for all."""
    packages = {module for module in graph.modules if module.startswith("edge_agent.") and graph.find_children(module)}
    known = {
        ".".join(target.split(".")[:2])
        for source, target in imports(graph)
        if f"{source}.".startswith(f"{package}.") and target.startswith("edge_agent.")
    }
    assert package in packages and known & packages - {package} == below


def test_the_search_for_cycles_finds_one() -> None:
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_the_protocol_needs_only_msgspec_and_numpy() -> None:
    external = grimp.build_graph("fleet", include_external_packages=True, cache_dir=None)
    found = {
        target.split(".")[0]
        for module in external.modules
        if f"{module}.".startswith("fleet.protocol.")
        for target in external.find_modules_directly_imported_by(module)
    }
    assert found - set(sys.stdlib_module_names) - {"fleet"} == {"msgspec", "numpy"}


def contracts(kind: str = "forbidden") -> list[dict[str, Any]]:
    found = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    return [contract for contract in found if contract["type"] == kind]


def forbidden_to(room: str) -> set[str]:
    return {name for one in contracts() if room in one["source_modules"] for name in one["forbidden_modules"]}


def test_every_package_of_fleet_is_a_room() -> None:
    """One that comes later is given its arrows here, or is of the commands."""
    found = {f"fleet.{folder.parent.name}" for folder in (ROOT / "fleet").glob("*/__init__.py")}
    assert found - ALLOWED.keys() == {CLIENT}


@pytest.mark.parametrize("source", sorted({*ALLOWED, CLIENT} - {"fleet", "fleet.simulator"}))
def test_the_contract_of_a_room_names_all_that_it_may_not_import(source: str) -> None:
    there = {name for name in {*ALLOWED, CLIENT} - {"fleet"} if (ROOT / name.replace(".", "/")).is_dir()}
    may = ALLOWED[room(source)] | {source} | ({CLIENT} if "fleet" in ALLOWED[room(source)] else set())
    assert there - may <= forbidden_to(source)


def test_what_runs_users_code_may_import_no_other_package_of_the_hub() -> None:
    others = {f"cloud_hub.{folder.parent.name}" for folder in (ROOT / "cloud_hub").glob("*/__init__.py")}
    assert others - {"cloud_hub.execution"} <= forbidden_to("cloud_hub.execution")


def test_the_contracts_of_import_linter_hold() -> None:
    tool = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([tool, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture(scope="module")
def hub() -> grimp.ImportGraph:
    return grimp.build_graph("cloud_hub", cache_dir=None)


def arrows_up(graph: grimp.ImportGraph, container: str) -> set[tuple[str, str]]:
    """The arrows from a layer to one above or beside it, by the contract of the packages in `container`."""
    layers = next(one["layers"] for one in contracts("layers") if one["containers"] == [container])
    found = graph.find_illegal_dependencies_for_layers(
        [grimp.Layer(*(name.strip() for name in layer.split("|")), independent=True) for layer in layers],
        containers={container},
    )
    return {(one.importer, one.imported) for one in found}


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("api.devices", "dashboard.words"),
        ("backtest.replay", "api.errors"),
        ("devices.answers", "inference.parts"),
        ("services.supervisor", "rollouts.engine"),
        ("store.tables", "context"),
        ("rollouts.engine", "broker.leftover"),
    ],
)
def test_an_arrow_up_between_packages_of_the_hub_breaks_its_layers(
    hub: grimp.ImportGraph, source: str, target: str
) -> None:
    importer, imported = f"cloud_hub.{source}", f"cloud_hub.{target}"
    assert {importer, imported} <= hub.modules and arrows_up(hub, "cloud_hub") == set()
    hub.add_import(importer=importer, imported=imported)
    broken = arrows_up(hub, "cloud_hub")
    hub.remove_import(importer=importer, imported=imported)
    assert tuple(".".join(name.split(".")[:2]) for name in (importer, imported)) in broken


def test_every_package_of_the_hub_has_its_layer() -> None:
    (contract,) = (one for one in contracts("layers") if one["containers"] == ["cloud_hub"])
    assert contract["exhaustive"]
