"""A device in each state that its `state.json` can name, as an update leaves it on the disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from msgspec.structs import replace

from edge_agent.update.disk.state import read_state
from edge_agent.update.disk.store import Store
from edge_agent.update.rules.model_state import ModelState, UpdateTarget
from fleet.protocol.codec import encode_json
from tests.support.faults.world import MODEL, PROBATION, Scenario, World


def standing(world: World, folder: Path) -> Iterator[Scenario]:
    """Each state as a scenario of its own: what the hub holds then is new to the device, so that a look must write."""
    scenarios = world.scenarios
    yield replace(scenarios["install"], name="idle")
    yield replace(scenarios["rotation"], name="committed")
    two = scenarios["halt"].image
    known = read_state(two)
    for state in _moving(known.models[MODEL]):
        image = folder / state.state
        shutil.copytree(two, image, symlinks=True)
        (image / "state.json").write_bytes(encode_json(replace(known, models={MODEL: state})))
        _take_back(image, state)
        wanted = 1 if state.state == "rolled_back" else 2
        yield replace(scenarios["rotation"], name=state.state, image=image, wanted=wanted)


def _moving(two: ModelState) -> Iterator[ModelState]:
    """On the way from release 1 to release 2, and back."""
    old, new = two.previous, two.active
    assert old is not None and new is not None
    target = UpdateTarget(held=new)
    begun = ModelState(state="fetching", active=old, target=target, last=target.key, probation=PROBATION)
    yield begun
    yield replace(begun, state="verifying")
    yield replace(begun, state="trying", spent=1)
    yield replace(begun, state="probation", active=new, previous=old, spent=2)
    yield replace(
        begun, state="rolled_back", target=None, rejected=(target.key,), spent=2, reason="failures", detail="in a test"
    )


def _take_back(image: Path, state: ModelState) -> None:
    """Before it was tried, the model file was half here, or whole and not yet hashed."""
    if state.state not in ("fetching", "verifying"):
        return
    assert state.target is not None
    store, held = Store(image), state.target.held
    blob = store.manifest(held.manifest).variant(held.variant).blob
    data = (store.blobs / blob.sha256).read_bytes()
    (store.blobs / blob.sha256).unlink()
    store.part(blob).write_bytes(data if state.state == "verifying" else data[: len(data) // 2])
