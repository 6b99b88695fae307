"""The stages that an update goes between: a real hub's signed repository, and the device as it is before each."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from cloud_hub.identity.first_contact import FIRST_ROOT
from cloud_hub.opening.bootstrap import open_publisher
from cloud_hub.store.tables import Model
from cloud_hub.trust import ceremony
from cloud_hub.trust.publisher import TufPublisher
from edge_agent.identity import enroll
from fleet.protocol import selftest
from fleet.protocol.channel import Channel, ModelEntry, Probation
from fleet.protocol.codec import encode_json
from fleet.protocol.manifest import encode_manifest
from tests.support import agent_process
from tests.support.faults.static_hub import StaticHub
from tests.support.faults.zygote import MODEL, Case, Ended
from tests.support.hub import PASSPHRASE, HubFixture, make_hub
from tests.support.models import BIAS, answer, inputs, litert_bytes, release

PROBATION = Probation(seconds=1e9, requests=3)


def model_bytes(number: int, padding: int = 0) -> bytes:
    """The tiny classifier with `number` added to every logit, so that its answers say which release it is."""
    original = litert_bytes()
    bias = BIAS.tobytes()
    assert original.count(bias) == 1
    rng = np.random.default_rng(number)
    return original.replace(bias, (BIAS + np.float32(number)).tobytes()) + rng.bytes(padding)


def expected(number: int) -> np.ndarray:
    """The answer of release `number` to the probe: (1, 3)."""
    return answer(inputs(1)) + np.float32(number)


class Scenario(Struct, frozen=True, kw_only=True):
    """An update: the device before (`image`), what the hub holds (`stage`), and what must serve in the end."""

    name: str
    image: Path
    stage: str
    old: int  # 0: nothing served before
    new: int  # what may serve on the way
    wanted: int
    failing: tuple[int, ...] = ()


class World:
    """`stages` of a hub's repository in a `StaticHub`; `scenarios` by name, made with `run`."""

    def __init__(self, directory: Path, static: StaticHub, run: Any, *, padding: int = 0, start: float) -> None:
        self._directory, self._static, self._run, self._padding = directory, static, run, padding
        self.hub = make_hub(directory / "hub", start=start)
        self._publisher = self.hub.hub.publisher
        with self.hub.hub.session() as session:
            session.add(Model(name=MODEL, created_at=self.hub.clock()))
        self.scenarios: dict[str, Scenario] = {}
        self._stages()
        self._images()

    def _stages(self) -> None:
        self._follow(self._publish(1))
        self._keep("first")
        self._follow(self._publish(2))
        self._keep("second")
        self._follow(1)
        self._keep("halted")
        self._publisher = self._rotated("root", "snapshot", "timestamp")
        self._follow(2)
        self._keep("rotated")

    def _rotated(self, *names: str) -> TufPublisher:
        """The publisher of a hub that was started again after each rotation."""
        config, clock = self.hub.hub.config, self.hub.clock
        for name in names:
            transactions = open_publisher(config, clock=clock).transactions
            ceremony.rotate(transactions, name, config.keys_dir, self.hub.offline, PASSPHRASE)
        return open_publisher(config, clock=clock)

    def _publish(self, number: int) -> int:
        folder = self._directory / f"release-{number}"
        made = release(folder, data=model_bytes(number, self._padding), runtime="litert", cloud=False)
        vectors = [
            selftest.Vector(
                inputs=(selftest.to_array("input", row[None]),),
                outputs={"litert-fp32": (selftest.to_array("logits", answer(row[None]) + np.float32(number)),)},
            )
            for row in inputs(8, seed=1)
        ]
        from tests.support.models import put

        blob = put(folder, selftest.encode_vectors(vectors))
        manifest = msgspec.structs.replace(
            made.manifest, selftest=msgspec.structs.replace(made.manifest.selftest, blob=blob)
        )
        for path in folder.iterdir():
            self.hub.hub.objects.put_new(f"blobs/{path.name}", path.read_bytes())
        return self._publisher.publish_release(MODEL, encode_manifest(manifest), actor="test").number

    def _follow(self, number: int) -> None:
        entry = ModelEntry(release=number, probation=PROBATION)
        self._publisher.change_channel(
            "stable", lambda c: Channel(channel="stable", version=c.version, models={MODEL: entry}), actor="test"
        )

    def _keep(self, stage: str) -> None:
        objects = self.hub.hub.objects
        keys = [info.key for prefix in ("tuf", "blobs") for info in objects.list(prefix)]
        self._static.stages[self._name(stage)] = {key: objects.get(key).data for key in keys}

    def _name(self, stage: str) -> str:
        return f"{stage}-{self._padding}"

    def _images(self) -> None:
        fresh = self._directory / "fresh"
        agent_process.enrolled(fresh)
        (fresh / "identity" / enroll.FIRST_ROOT).write_bytes(self.hub.hub.objects.get(FIRST_ROOT).data)
        one = self._grown(fresh, "first", 1)
        two = self._grown(one, "second", 2)
        for scenario in (
            Scenario(name="install", image=fresh, stage=self._name("first"), old=0, new=1, wanted=1),
            Scenario(name="swap", image=one, stage=self._name("second"), old=1, new=2, wanted=2),
            Scenario(name="halt", image=two, stage=self._name("halted"), old=2, new=1, wanted=1),
            Scenario(name="rollback", image=one, stage=self._name("second"), old=1, new=2, wanted=1, failing=(2,)),
            Scenario(name="rotation", image=one, stage=self._name("rotated"), old=1, new=2, wanted=2),
        ):
            self.scenarios[scenario.name] = scenario

    def _grown(self, image: Path, stage: str, number: int) -> Path:
        """The device after an undisturbed update, whose reports have all reached the hub."""
        grown = self._directory / f"after-{stage}"
        copy(image, grown, f"{self._static.url}/{self._name(stage)}")
        ended: Ended = self._run(Case(directory=str(grown)))
        assert ended.seen is not None, ended.trace
        assert (ended.seen.state, ended.seen.active, ended.seen.errors) == ("committed", number, []), ended.seen
        return grown


def copy(image: Path, to: Path, url: str) -> Path:
    """A device's directory of its own, pointed at `url`."""
    if to.exists():
        shutil.rmtree(to)
    shutil.copytree(image, to, symlinks=True)
    point_at(to, url)
    return to


def point_at(directory: Path, url: str) -> None:
    """Make the device pull from `url`."""
    enrollment = enroll.load_enrollment(directory)
    (directory / "identity" / enroll.FILE).write_bytes(encode_json(msgspec.structs.replace(enrollment, hub=url)))


__all__ = ["HubFixture", "Scenario", "World", "copy", "expected", "model_bytes", "point_at"]
