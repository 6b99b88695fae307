"""A recipe: registered code that says how a model is made.

A recipe is a Python module with a variable `RECIPE`. It is named by module (`examples.digits.recipe`) or,
on the hub, by a file in `DIR/recipes`; the command line takes any file. It is never uploaded.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from cloud_hub.errors import ForbiddenError, InvalidError, NotFoundError
from cloud_hub.training.examples import Examples as Examples
from cloud_hub.training.examples import Sets as Sets
from fleet.protocol.steps import AnyStep
from model_compiler.inputs.dataset import Array

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Hyper:
    """Numbers of a run. `soft_share` weighs the teacher's soft answers against labels when distilling. `precision` is
    `fp32`, `bf16` (mixed), or `auto`: mixed on a GPU; `compiled`: whether torch.compile is used, None: on a GPU."""

    teacher_epochs: int = 30
    student_epochs: int = 60
    batch: int = 64
    teacher_rate: float = 2e-3
    student_rate: float = 3e-3
    weight_decay: float = 1e-4
    distill_temperature: float = 2.0
    soft_share: float = 0.7
    sample_repeats: int = 3  # how often a labelled sample counts beside one original example
    warm_share: float = 0.4  # of a student's weights that may change where it starts from the release before
    warm_epochs: int | None = None  # of a student that starts there; None: as many as of one that starts anew
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compiled: bool | None = None


@dataclass(frozen=True)
class Fitting:
    """The input of a recipe's own `fit`.

    `train` are the rows to fit to, inputs called as in `data`, or behind preprocessing steps as these call them; some
    may have no label. `soft` are the teacher's answers to them, (n, …), None without one. `start` holds the weights of
    the release before by name, empty where there are none; `released` is its model file (ONNX or LiteRT), empty
    likewise. `folder` keeps the state from which a killed run shall go on.
    """

    train: Examples
    seed: int
    folder: Path
    soft: Array | None = None
    start: Mapping[str, Array] = field(default_factory=dict)
    released: bytes = b""


@dataclass(frozen=True)
class Recipe:
    """The recipe of a model: its data, and a student that the kit's loop trains, or that `fit` makes.

    `task` is the kind of answer as `model-compiler --task` takes it (`regression:tolerance=0.5`); empty for the
    model's own, else a classification. `metric` likewise as `--metric`, a file of one's own lies beside the recipe;
    empty for the task's. `teacher` is a larger network that the student learns from, and becomes the cloud variant;
    None for none. `loss` is the kit's loop's: `loss(answer, batch)` of what the student's `forward` gives and a
    `losses.Batch`, or a name (`losses`). `fit` is in place of `student`: it gets a `Fitting` and returns a torch
    module, the bytes of an ONNX model, or an estimator of scikit-learn. `augment` changes a training batch (n, …),
    by name where there are several inputs, with a seeded generator. `warm`: whether a retrain starts from the
    weights of the release before, where they fit. By default the student does, and changes those of its weights that
    matter most (`Hyper.warm_share`), so that devices fetch a small patch; the teacher starts anew. True: both,
    False: neither.

    `inputs` and `outputs` are the names that applications use; by default those of the data, of the parameters of the
    student's `forward`, and of the dict that it answers with. Of several outputs the first is trained. In a retrain the
    model's interface at the hub outranks all names that are not said here, and what is said here must agree with it.
    A network with several inputs gets them by name, so `forward` calls its parameters as the data does. `sources` are
    further modules whose code belongs to the recipe's hash.

    `preprocess` are the steps between what the data holds, which is what applications send, and what the networks take
    (`fleet.protocol.steps`); constants that are left out are fitted to the rows that are trained on. `front` is a model
    file before these, beside the recipe, as `model-compiler --front` takes it, or a function that returns a torch
    module, which is not trained. `augment`, losses and `fit` see what they make. `non_finite` names inputs and outputs
    that may hold NaN and infinity. `features` says what the numbers of an input are called, by its name, or "" for the
    only one: alarms name what moved by them.
    """

    data: Callable[[], Sets]
    teacher: Callable[[], torch.nn.Module] | None = None
    student: Callable[[], torch.nn.Module] | None = None
    labels: tuple[str, ...] = ()
    features: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    augment: Callable[[Any, torch.Generator], Any] | None = None
    hyper: Hyper = field(default_factory=Hyper)
    targets: tuple[str, ...] = ("litert-int8", "litert-fp32")
    sources: tuple[ModuleType, ...] = ()
    task: str = ""
    metric: str = ""
    loss: str | Callable[[Any, Any], torch.Tensor] = ""
    fit: Callable[[Fitting], Any] | None = None
    warm: bool | None = None
    preprocess: tuple[AnyStep, ...] = ()
    front: str | Callable[[], torch.nn.Module] = ""
    non_finite: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.student is None) == (self.fit is None):
            raise InvalidError(
                "a recipe has either a student, which the kit trains, or its own fit",
                subject="recipe",
                hint="Recipe(data=…, student=…), or Recipe(data=…, fit=…)",
            )


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe with its name and the SHA-256 of its code."""

    name: str
    sha256: str
    recipe: Recipe


def load_recipe(name: str, *, folder: Path | None = None) -> LoadedRecipe:
    """Load a recipe by module name or `.py` file; with `folder`, files must lie directly in it.

    Raises:
        NotFoundError: no such module or file. ForbiddenError: a file outside `folder`.
        InvalidError: it does not load, or has no `RECIPE`.
    """
    if not name:
        raise NotFoundError("the model has no recipe", subject="recipe", hint="set one: fleet model create … --recipe")
    module = _from_file(name, folder) if name.endswith(".py") else _from_module(name)
    recipe = getattr(module, "RECIPE", None)
    if not isinstance(recipe, Recipe):
        raise InvalidError(f"recipe {name} has no RECIPE", subject=name, hint="RECIPE = Recipe(data=…, teacher=…, …)")
    digest = hashlib.sha256()
    for part in (module, *recipe.sources):
        digest.update(inspect.getsource(part).encode())
    recipe, files = _located(recipe, Path(str(module.__file__)).parent)
    for file in files:
        digest.update(file.read_bytes())
    return LoadedRecipe(name, digest.hexdigest(), recipe)


def with_hyper(loaded: LoadedRecipe, hyper: Mapping[str, Any]) -> LoadedRecipe:
    """A recipe with other numbers, which then belong to its hash; as it is without any.

    Raises InvalidError when its own `fit` would not hear of them.
    """
    if not hyper:
        return loaded
    if loaded.recipe.fit is not None:
        raise InvalidError(
            f"recipe {loaded.name} has its own fit, which knows no hyper-parameters",
            subject="hyper",
            hint="change the numbers in the recipe's file",
        )
    digest = hashlib.sha256(f"{loaded.sha256} {json.dumps(dict(hyper), sort_keys=True)}".encode()).hexdigest()
    recipe = replace(loaded.recipe, hyper=replace(loaded.recipe.hyper, **hyper))
    return LoadedRecipe(loaded.name, digest, recipe)


def with_epochs(loaded: LoadedRecipe, share: float) -> LoadedRecipe:
    """A recipe whose networks are trained for a share of their epochs, at least one."""
    hyper = loaded.recipe.hyper
    fewer = {name: getattr(hyper, name) for name in ("teacher_epochs", "student_epochs", "warm_epochs")}
    fewer = {name: max(1, round(share * epochs)) for name, epochs in fewer.items() if epochs}
    return with_hyper(loaded, fewer) if share < 1 else loaded


def _located(recipe: Recipe, folder: Path) -> tuple[Recipe, list[Path]]:
    """The recipe with its own files, which lie beside it in `folder`, found wherever it is run; and these files."""
    files = []
    path, _, function = recipe.metric.partition(":")
    if path.endswith(".py") and (folder / path).is_file():
        files.append(folder / path)
        recipe = replace(recipe, metric=f"{folder / path}:{function}")
    if recipe.front and isinstance(recipe.front, str):
        files.append(folder / recipe.front.partition(":")[0])
        if not files[-1].is_file():
            raise NotFoundError(f"no front {files[-1]}", subject="recipe", hint="put it beside the recipe")
        recipe = replace(recipe, front=f"{folder}/{recipe.front}")
    return recipe, files


def _from_module(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise InvalidError(f"{name!r} is not a module's name", subject=name)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise NotFoundError(
            f"recipe {name}: {error}", subject=name, hint="install it, or put its file into DIR/recipes"
        ) from error


def _from_file(name: str, folder: Path | None) -> ModuleType:
    if folder is not None and Path(name).name != name:
        raise ForbiddenError(
            f"recipe {name} is not in {folder}", subject=name, hint="give the bare name of a file in DIR/recipes"
        )
    path = (folder / name if folder is not None else Path(name)).resolve()
    if not path.is_file():
        raise NotFoundError(f"no recipe {path}", subject=name)
    loaded = f"_recipe_{path.stem}"
    spec = importlib.util.spec_from_file_location(loaded, path)
    if spec is None or spec.loader is None:
        raise InvalidError(f"{path} is not a Python file", subject=name)
    module = importlib.util.module_from_spec(spec)
    sys.modules[loaded] = module
    try:
        spec.loader.exec_module(module)
    except (ImportError, SyntaxError) as error:
        raise InvalidError(f"recipe {path} does not load: {error}", subject=name) from error
    return module


def swap_labels(sets: Sets, first: int, second: int) -> Sets:
    """Sets in which two classes' labels are exchanged, the exam's excepted: how a bad release is made."""

    def swapped(part: Examples) -> Examples:
        y = part.y.copy()
        y[part.y == first], y[part.y == second] = second, first
        return Examples(part.x, y, part.known)

    return Sets(swapped(sets.train), swapped(sets.calibration), swapped(sets.validation), sets.exam)
