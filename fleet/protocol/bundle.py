"""`bundle.json`: what whoever made a bundle says of it. Nobody signed it, so it may only explain, never permit."""

from __future__ import annotations

from msgspec import Struct

NAME = "bundle.json"
LIMIT = 64 << 10  # bytes


class Label(Struct, frozen=True, kw_only=True):
    """The channel that was bundled, and of its models those whose releases and files lie in the folder."""

    channel: str
    models: tuple[str, ...]
