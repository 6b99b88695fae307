"""The `model-compiler` command, also as `python -m model_compiler`."""

from __future__ import annotations

from fleet.console.starting import start_command


def main() -> None:
    """Start it, or say which extra is missing."""
    start_command("model-compiler", "model_compiler.main", "compiler")


if __name__ == "__main__":
    main()
