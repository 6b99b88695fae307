"""The four commands' common dealings with the operating system: text that comes in, and text that goes out. Of the
standard library alone, and quick to import."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path


def write_any_letter() -> None:
    """Let standard output and error take every letter: one that their encoding lacks, as in the locale C, is written as
    its number, and ends nothing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def flush() -> None:
    """Write out what standard output still holds, while somebody can say that it was refused.

    Raises:
        OSError: the disk is full, or the reader is gone. Nothing more is written there.
    """
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # or the interpreter would say it once more at its end
        os.close(nowhere)
        raise


def installed_version() -> str:
    """The installed version of all four commands."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("edgeloop")
    except PackageNotFoundError:  # run from a folder of sources
        return "unknown"


def read_text(path: Path) -> str:
    """A text file as people's editors write them: UTF-8, with or without a mark of it, with any ends of lines.

    Raises:
        OSError: it cannot be read. UnicodeDecodeError: it is not UTF-8.
    """
    return path.read_text(encoding="utf-8-sig")


def cleaned(value: str) -> str:
    """A setting of the environment without what files of other systems leave around it: blanks, ends of lines, a mark
    of UTF-8."""
    return value.strip().removeprefix("\ufeff").strip()
