"""Sizes and habits that keep the code readable, checked on the syntax tree of every product module.

One test for each rule: its failure lists every place that breaks it.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("fleet", "edge_agent", "cloud_hub", "model_compiler")
FORMATTED = (*PACKAGES, "tests", "benchmarks", "examples", "docs")
MODULE_LINES, FUNCTION_LINES, PARAMETERS = 350, 40, 7
GENERATED = ("migrations/versions",)  # written by a tool, one file per schema version
MODULES = sorted(p.relative_to(ROOT) for package in PACKAGES for p in (ROOT / package).rglob("*.py"))
ARCHIVES = {"pickle", "cPickle", "dill", "joblib", "cloudpickle", "shelve", "marshal", "tarfile"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def text(path: Path) -> str:
    return (ROOT / path).read_text()


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """The module's syntax tree, the module first."""
    return tuple(ast.walk(ast.parse(text(path), str(path))))


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
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


def functions(path: Path) -> list[Function]:
    return [node for node in nodes(path) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


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
    lines = len(text(path).splitlines())
    found = {"": lines} if lines > MODULE_LINES else {}
    found |= {one.name: code_lines(one) for one in functions(path) if code_lines(one) > FUNCTION_LINES}
    return found | {f"{one.name}()": parameters(one) for one in functions(path) if parameters(one) > PARAMETERS}


def unpacks(node: ast.AST) -> bool:
    """Tell whether a node unpacks an archive, or allows pickles to be read."""
    if isinstance(node, ast.Attribute):
        return node.attr in ("extractall", "unpack_archive")
    if not isinstance(node, ast.Call):
        return False
    keywords = {k.arg: k.value for k in node.keywords}
    allows = keywords.get("allow_pickle", ast.Constant(False))
    if not (isinstance(allows, ast.Constant) and allows.value is False):
        return True
    safe = keywords.get("weights_only")
    loads = ast.unparse(node.func) == "torch.load"
    return loads and not (isinstance(safe, ast.Constant) and safe.value is True)


def lines(path: Path, wrong: Callable[[ast.AST], bool]) -> list[str]:
    """`MODULE:LINE` of the nodes that are wrong."""
    return [f"{path}:{node.lineno}" for node in nodes(path) if wrong(node)]  # type: ignore[attr-defined]


def test_modules_and_functions_stay_within_their_budget() -> None:
    written = [path for path in MODULES if not any(part in path.as_posix() for part in GENERATED)]
    assert {str(path): found for path in written if (found := over(path))} == {}


def test_nothing_holds_the_formatter_off() -> None:
    marks = ("# fmt: skip", "# fmt: off")
    assert [f"{path}: {mark}" for path in MODULES for mark in marks if mark in text(path)] == []


def test_the_environment_is_read_only_where_a_program_is_composed() -> None:
    others = [path for path in MODULES if path.name not in ("config.py", "main.py", "__main__.py")]
    assert [line for path in others for line in lines(path, reads_environment)] == []


def test_nothing_unpickles_or_unpacks_archives() -> None:
    assert [f"{path}: {name}" for path in MODULES for name in sorted(ARCHIVES & set(imported(path)))] == []
    assert [line for path in MODULES for line in lines(path, unpacks)] == []


def test_every_module_says_what_it_is_for() -> None:
    modules = ((path, nodes(path)[0]) for path in MODULES)
    assert [str(p) for p, m in modules if isinstance(m, ast.Module) and m.body and not ast.get_docstring(m)] == []


def test_nothing_is_left_for_later() -> None:
    words = ("TODO", "FIXME", "XXX", "NotImplementedError")
    assert [f"{path}: {word}" for path in MODULES for word in words if word in text(path)] == []


def test_the_checks_see_what_they_look_for() -> None:
    reads = ["os.environ['A']", "os.environ.get('A')", "os.getenv('A')", "'A' in os.environ"]
    for code in reads:
        assert any(reads_environment(node) for node in ast.walk(ast.parse(code))), code
    archives = ["a.extractall()", "np.load(f, allow_pickle=True)", "np.load(f, allow_pickle=x)", "torch.load(f)"]
    for code in archives:
        assert any(unpacks(node) for node in ast.walk(ast.parse(code))), code
    safe = "np.load(f, allow_pickle=False); torch.load(f, weights_only=True); a.extract(b)"
    assert not any(unpacks(node) for node in ast.walk(ast.parse(safe)))
    assert len(MODULES) > 700
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
    counted = [ast.parse(code).body[0] for code in texts]
    assert [parameters(one) for one in counted if isinstance(one, ast.FunctionDef)] == [2, 2, 0, 0, 1]
