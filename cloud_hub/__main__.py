"""The `cloud-hub` command, also as `python -m cloud_hub`."""

from __future__ import annotations

from fleet.console.starting import start_command


def main() -> None:
    """Start it, or say which extra is missing."""
    start_command("cloud-hub", "cloud_hub.main", "hub")


if __name__ == "__main__":
    main()
