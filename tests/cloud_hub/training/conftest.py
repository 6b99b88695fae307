"""Devices beside the hub, real engines, closed at the end; and a compiler that starts no processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.support.children import keep_children_here
from tests.support.loop import Device, DeviceOf


@pytest.fixture(autouse=True)
def children_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variants are run in this process."""
    keep_children_here(monkeypatch)


@pytest.fixture
def device_of(tmp_path: Path) -> Iterator[DeviceOf]:
    """Makes the device of a hub that serves one model."""
    with ExitStack() as stack:
        yield lambda hub, model: stack.enter_context(closing(Device(tmp_path / "device", hub, model)))
