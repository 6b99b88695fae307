"""The `cloud-hub` script: says which extra is missing instead of showing a traceback."""

from __future__ import annotations

import sys


def main() -> None:
    """Start `cloud-hub`; exit code 1 when its packages are not installed."""
    try:
        from cloud_hub.main import main as run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("fleet", "edge_agent", "cloud_hub", "model_compiler"):
            raise
        print(f"error: cloud-hub needs the package {error.name}, which is not installed", file=sys.stderr)
        print("try: pip install 'edgeloop[hub]'", file=sys.stderr)
        sys.exit(1)
    run()
