"""`cloud-hub train`: run a recipe by hand; `model-compiler compile` takes it from there."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cloud_hub.errors import InvalidError
from cloud_hub.training.recipe import load_recipe

if TYPE_CHECKING:
    from cloud_hub.samples.dataset import Dataset


def main(arguments: Sequence[str]) -> None:
    """Parse, train, say what came of it. Errors are HubErrors."""
    from cloud_hub.training.run import RunRequest, run

    options = _parser().parse_args(list(arguments))
    request = RunRequest(
        loaded=load_recipe(options.recipe),
        out=options.out,
        seed=options.seed,
        snapshot=_snapshot(options.snapshot, options.hub),
        swap=_pair(options.swap_labels),
        progress=_show if sys.stderr.isatty() else lambda step, share: None,
    )
    metrics = run(request)
    if options.json:
        print(json.dumps({"out": str(options.out), "metrics": metrics}))
    else:
        print(f"exam accuracy: teacher {metrics['teacher']:.3f}, student {metrics['student']:.3f}; in {options.out}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cloud-hub train",
        description="Train a recipe's teacher and distil its student.",
        epilog="Example: cloud-hub train examples.digits.recipe --out trained --seed 1",
    )
    parser.add_argument("recipe", help="a module's name or a .py file")
    parser.add_argument("--out", type=Path, required=True, help="directory to write; checkpoints in it are resumed")
    parser.add_argument("--snapshot", default="", help="train on a snapshot as well: its id with --hub, else its file")
    parser.add_argument("--hub", type=Path, help="directory of the hub that keeps the snapshot")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--swap-labels", default="", help="A,B: exchange two classes' labels (makes a bad release)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser


def _snapshot(name: str, hub: Path | None) -> Dataset | None:
    """A snapshot by id from a hub's directory, or from its file; None when none was named."""
    from cloud_hub.samples.dataset import read_dataset

    if hub is None:
        return read_dataset(Path(name)) if name else None
    if not name:
        raise InvalidError("--hub needs a snapshot", subject="--hub", hint="add --snapshot ID: fleet snapshot list")
    from cloud_hub.bootstrap import open_hub
    from cloud_hub.config import HubConfig
    from cloud_hub.samples import snapshots

    return snapshots.load(open_hub(HubConfig.load(hub)), name)


def _pair(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    try:
        first, second = (int(part) for part in text.split(","))
    except ValueError:
        raise InvalidError(f"--swap-labels takes two classes, not {text!r}", subject="--swap-labels") from None
    return first, second


def _show(step: str, share: float) -> None:
    print(f"\r{step}: {share:4.0%}", end="" if share < 1 else "\n", file=sys.stderr, flush=True)
