"""Routes are thin: a model in, a use case, a model out. No database session, no SQL, no audit entry of their own."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROUTES = [
    *sorted((ROOT / "cloud_hub" / "api").glob("*.py")),
    ROOT / "cloud_hub" / "inference" / "routes.py",
    ROOT / "cloud_hub" / "inference" / "async_routes.py",
    ROOT / "cloud_hub" / "dashboard" / "live.py",
    ROOT / "cloud_hub" / "dashboard" / "routes.py",
    *sorted((ROOT / "cloud_hub" / "dashboard" / "pages").glob("*.py")),
    *sorted((ROOT / "cloud_hub" / "dashboard" / "acts").glob("*.py")),
]
OF_A_USE_CASE = {"session", "reading", "audit", "exec", "add", "commit"}  # methods of the hub and of its sessions
STATEMENTS = 15  # of one route, beside its docstring: more of them is a use case that wants a home
METHODS = {"get", "post", "put", "patch", "delete", "head"}


def decides(tree: ast.AST) -> list[str]:
    """The calls and imports of a module that belong into a use case."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = ast.unparse(node.func.value)
            if node.func.attr in OF_A_USE_CASE and owner.split(".")[-1] in ("hub", "session"):
                found.append(f"{owner}.{node.func.attr} in line {node.lineno}")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("sqlmodel", "sqlalchemy"):
            found += [f"{node.module}.{name.name}" for name in node.names if not name.name.endswith("Error")]
    return found


def routes(tree: ast.Module) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and any(
            isinstance(d, ast.Call) and isinstance(d.func, ast.Attribute) and d.func.attr in METHODS
            for d in node.decorator_list
        )
    ]


@pytest.mark.parametrize("path", ROUTES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_module_of_routes_opens_no_session_and_writes_no_query(path: Path) -> None:
    assert decides(ast.parse(path.read_text())) == []


@pytest.mark.parametrize("path", ROUTES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_route_is_a_few_statements(path: Path) -> None:
    long = {
        route.name: count
        for route in routes(ast.parse(path.read_text()))
        if (count := sum(isinstance(node, ast.stmt) for node in ast.walk(route)) - 2) > STATEMENTS
    }
    assert long == {}


def test_every_module_of_the_hub_that_makes_a_router_is_checked() -> None:
    made = {path for path in (ROOT / "cloud_hub").rglob("*.py") if "= APIRouter(" in path.read_text()}
    assert made - set(ROUTES) == set() and len(made) > 20


def test_the_check_sees_what_it_looks_for() -> None:
    thick = "from sqlmodel import select\nwith hub.session() as session:\n    session.exec(select(1))\n"
    assert len(decides(ast.parse(thick))) == 3
    assert sum(len(routes(ast.parse(path.read_text()))) for path in ROUTES) > 60
