"""Sizes and habits that keep the code readable, checked on the syntax tree of every product module."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("fleet", "edge_agent", "cloud_hub", "model_compiler")
FORMATTED = (*PACKAGES, "tests", "benchmarks", "examples", "docs")
MODULE_LINES, FUNCTION_LINES, PARAMETERS = 350, 40, 7
GENERATED = ("migrations/versions",)  # written by a tool, one file per schema version
MODULES = sorted(p.relative_to(ROOT) for package in PACKAGES for p in (ROOT / package).rglob("*.py"))
ARCHIVES = {"pickle", "cPickle", "dill", "joblib", "cloudpickle", "shelve", "marshal", "tarfile"}

Function = ast.FunctionDef | ast.AsyncFunctionDef

each_module = pytest.mark.parametrize("path", MODULES, ids=str)


def tree(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(), str(path))


def code_lines(function: Function) -> int:
    """Lines of a function's body without its docstring. A signature is left out: a command's lists all its options."""
    statements = function.body[1:] if ast.get_docstring(function) is not None else function.body
    assert function.end_lineno is not None
    return function.end_lineno - statements[0].lineno + 1 if statements else 0


def reads_environment(node: ast.AST) -> bool:
    """Tell whether a node reads a variable; handing the whole environment to a child process does not count."""

    def environ(value: ast.AST) -> bool:
        return isinstance(value, ast.Attribute) and value.attr in ("environ", "environb")

    if isinstance(node, ast.Attribute) and node.attr in ("getenv", "getenvb"):
        return True
    if isinstance(node, ast.Attribute) and node.attr in ("get", "pop", "setdefault"):
        return environ(node.value)
    if isinstance(node, ast.Compare):
        return any(environ(c) for c in node.comparators)
    return isinstance(node, ast.Subscript) and environ(node.value)


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


def functions(path: Path) -> list[Function]:
    return [node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def is_option(parameter: ast.arg) -> bool:
    """Tell whether it is an option of a command, or a field of a query: a command line or an address names it, no
    call.
    """
    kind = ast.unparse(parameter.annotation) if parameter.annotation is not None else ""
    return "typer." in kind or "Query" in kind or kind.endswith(("Option", "Argument", "Flag"))


def parameters(function: Function) -> int:
    """Those of a call, of which the options of a command or a query are none."""
    if any("command" in ast.unparse(decorator) for decorator in function.decorator_list):
        return 0
    given = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return sum(not is_option(one) and one.arg not in ("self", "cls") for one in given)


def over(path: Path) -> dict[str, int]:
    """The sizes over the budget: of a module (""), a function, the parameters of one ("name()")."""
    lines = len((ROOT / path).read_text().splitlines())
    found = {"": lines} if lines > MODULE_LINES else {}
    found |= {one.name: code_lines(one) for one in functions(path) if code_lines(one) > FUNCTION_LINES}
    return found | {f"{one.name}()": parameters(one) for one in functions(path) if parameters(one) > PARAMETERS}


@each_module
def test_modules_and_functions_stay_within_their_budget(path: Path) -> None:
    if any(part in path.as_posix() for part in GENERATED):
        return
    assert over(path) == {}


def test_nothing_holds_the_formatter_off() -> None:
    """In tests, benchmarks and examples neither."""
    paths = [path for folder in FORMATTED for path in sorted((ROOT / folder).rglob("*.py"))]
    held = [str(path.relative_to(ROOT)) for path in paths if re.search(r"# fmt: (skip|off)", path.read_text())]
    assert held == []


@each_module
def test_the_environment_is_read_only_where_a_program_is_composed(path: Path) -> None:
    if path.name in ("config.py", "main.py", "__main__.py"):
        return
    assert [node.lineno for node in ast.walk(tree(path)) if reads_environment(node)] == []  # type: ignore[attr-defined]


@each_module
def test_nothing_unpickles_or_unpacks_archives(path: Path) -> None:
    assert ARCHIVES & set(imported(path)) == set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute):
            assert node.attr not in ("extractall", "unpack_archive"), f"line {node.lineno}"
        if isinstance(node, ast.Call):
            keywords = {k.arg: k.value for k in node.keywords}
            allows = keywords.get("allow_pickle")
            assert allows is None or (isinstance(allows, ast.Constant) and allows.value is False), f"line {node.lineno}"
            if ast.unparse(node.func) == "torch.load":
                safe = keywords.get("weights_only")
                assert isinstance(safe, ast.Constant) and safe.value is True, f"line {node.lineno}"


@each_module
def test_every_module_says_what_it_is_for(path: Path) -> None:
    module = tree(path)
    assert not module.body or ast.get_docstring(module), "add a docstring"


@each_module
def test_nothing_is_left_for_later(path: Path) -> None:
    text = (ROOT / path).read_text()
    assert not [word for word in ("TODO", "FIXME", "XXX", "NotImplementedError") if word in text]


def test_the_checks_see_what_they_look_for() -> None:
    reads = ["os.environ['A']", "os.environ.get('A')", "os.getenv('A')", "'A' in os.environ"]
    for text in reads:
        assert any(reads_environment(node) for node in ast.walk(ast.parse(text))), text
    assert not any(reads_environment(node) for node in ast.walk(ast.parse("{**os.environ, 'A': '1'}")))
    function = ast.parse("def f():\n    '''doc\n    string'''\n    return 1\n").body[0]
    assert isinstance(function, ast.FunctionDef) and code_lines(function) == 1
    texts = (
        "def f(self, a, *, b): ...",
        "def f(a, b): ...",
        "@app.command()\ndef f(a, b, c): ...",
        "def f(context: typer.Context, a: Annotated[int, typer.Option('--a')], json: JsonFlag): ...",
        "def f(hub: HubDep, limit: Annotated[Int64, Query()], after: KeyQuery): ...",
    )
    counted = [ast.parse(text).body[0] for text in texts]
    assert [parameters(one) for one in counted if isinstance(one, ast.FunctionDef)] == [2, 2, 0, 0, 1]
