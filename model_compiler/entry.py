"""The `model-compiler` script: says which extra is missing instead of showing a traceback."""

from __future__ import annotations

import sys


def main() -> None:
    """Start `model-compiler`; exit code 1 when its packages are not installed."""
    try:
        from model_compiler.main import main as run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("fleet", "edge_agent", "cloud_hub", "model_compiler"):
            raise
        print(f"error: model-compiler needs the package {error.name}, which is not installed", file=sys.stderr)
        print("try: pip install 'edgeloop[compiler]'", file=sys.stderr)
        sys.exit(1)
    run()
