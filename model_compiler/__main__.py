"""The `model-compiler` command, also as `python -m model_compiler`."""

from __future__ import annotations

from fleet.console.starting import start


def main() -> None:
    """Start it, or say which extra is missing."""
    start("model-compiler", "model_compiler.main", "compiler")


if __name__ == "__main__":
    main()
