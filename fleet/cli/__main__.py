"""The `fleet` command, also as `python -m fleet.cli`."""

from __future__ import annotations

from fleet.console.starting import start_command


def main() -> None:
    """Start it, or say which extra is missing."""
    start_command("fleet", "fleet.cli.main", "fleet")


if __name__ == "__main__":
    main()
