"""The whole loop in one process: a device's real engine and runtimes beside a hub's real application.

Nothing starts and nothing sleeps: the device asks the hub by its own cloud client over the application's routes, and
what it has spooled is read by the hub's own ingestion. Operators do what they would do: by the API and the commands.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from msgspec import Raw

from cloud_hub.execution.here import InlineExecutor
from cloud_hub.ingest.ingestor import Ingestor, Message
from cloud_hub.jobs import queue
from cloud_hub.jobs.worker import run_worker
from cloud_hub.samples import snapshots, store
from cloud_hub.store.tables import Device as DeviceRow
from cloud_hub.store.tables import Job
from cloud_hub.training.dealing import deal_run
from cloud_hub.training.handing import contract_of
from cloud_hub.training.kinds import kinds
from cloud_hub.training.recipe import load_recipe
from cloud_hub.training.run import settle_run
from cloud_hub.training.run_request import RunRequest
from cloud_hub.trust.rows import get_release, interface_release
from edge_agent import runtimes
from edge_agent.ports import InstalledRelease
from edge_agent.serving.cloud import HubCloud
from fleet.protocol import oip, topics
from fleet.protocol.channel import Channel, ModelEntry, Routing, Sampling, decode_channel
from fleet.protocol.codec import decode_msgpack, encode_json, encode_msgpack
from fleet.protocol.manifest import Manifest, decode_manifest
from fleet.protocol.messages import Envelope, SampleBatch
from fleet.protocol.selftest import from_array
from fleet.protocol.task import TaskSpec
from model_compiler import metrics
from model_compiler.evaluate import tasking
from model_compiler.inputs.dataset import Dataset, make_dataset
from tests.support.agent import Agent
from tests.support.commands import call
from tests.support.hub import HubFixture

Rows = Mapping[str, np.ndarray]
PATIENT_S = 60.0  # a model is loaded at its first request


class Said(NamedTuple):
    """`edge_agent.ports.HubResponse`."""

    status: int
    data: bytes
    headers: Mapping[str, str]


class Calls:
    """`edge_agent.ports.HubCalls` to a hub in this process, as an application that may ask the model.

    One at a time: each request of the test client has an event loop of its own, and the hub's models belong to one.
    """

    def __init__(self, hub: HubFixture, model: str) -> None:
        self._alone = threading.Lock()
        self._hub, self._auth = hub, hub.auth(hub.token("application", scope=f"infer:{model}"))

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 30.0,
    ) -> Said:
        with self._alone:
            answer = self._hub.client.request(method, path, content=body, headers={**self._auth, **(headers or {})})
        return Said(status=answer.status_code, data=answer.content, headers=dict(answer.headers))


class Real:
    """The device's own runtimes behind the one that `Agent` takes."""

    name = "its own"

    def load(self, model: bytes, manifest: Manifest, variant: object, **more: Any) -> object:
        return runtimes.for_variant(variant).load(model, manifest, variant, **more)  # type: ignore[arg-type]


class Device:
    """A device that is enrolled at the hub; what it installs comes from the hub's store, and all it sees is sampled."""

    def __init__(self, directory: Path, hub: HubFixture, model: str, name: str = "kiosk-1") -> None:
        directory.mkdir()
        self._runner = asyncio.Runner()
        self.agent = Agent(directory, runtime=Real())  # type: ignore[arg-type]
        self.cloud = HubCloud(Calls(hub, model))
        self.agent.auditor._cloud = self.agent.endpoint._cloud = self.cloud
        self.hub, self.model, self.name = hub, model, name
        sampling = Sampling(enabled=True, random_ppm=1_000_000)
        entry = ModelEntry(release=1, sampling=sampling, routing=Routing(cloud=False))
        self.agent.policies.apply(Channel(channel="stable", version=1, models={model: entry}))
        with hub.hub.session() as session:
            session.add(
                DeviceRow(
                    id=name,
                    public_key="-",
                    key_fingerprint=name,
                    certificate="-",
                    certificate_serial="-",
                    certificate_expires_at=0.0,
                    channel="stable",
                    enrolled_at=0.0,
                    info={"capabilities": list(runtimes.capabilities())},
                )
            )

    def close(self) -> None:
        """End its event loop, and close its files."""
        self._runner.close()
        self.cloud.close()
        self.agent.database.close()

    def follow(self, channel: str = "stable") -> None:
        """Take the hub's channel document, as it is signed."""
        answer = self.hub.client.get(f"/api/v1/channels/{channel}", headers=self.hub.auth()).json()
        self.agent.policies.apply(decode_channel(encode_json(answer["document"])))

    def serve(self, number: int, rows: Rows) -> dict[str, np.ndarray]:
        """Activate a release and ask it row by row, with audits as the channel has them; each output (n, …)."""
        release = self._installed(number)

        async def scenario() -> list[oip.InferResponse]:
            await self.agent.slots.activate(release, None, None)
            async with self.agent.auditing():
                found = [await self.agent.engine.infer(self.model, "", request) for request in requests_of(rows)]
            await self.agent.writer.flush()
            return found

        answers = self._runner.run(scenario())
        assert all(a.parameters["served_by"] == "edge" and not a.parameters["degraded"] for a in answers)
        return _stacked(answers)

    def ask_cloud(self, number: int, rows: Rows) -> dict[str, np.ndarray]:
        """Ask the hub for a release's answers, row by row; each output (n, …)."""

        async def scenario() -> list[oip.InferResponse]:
            return [await self.cloud.infer(self.model, number, one, PATIENT_S) for one in requests_of(rows)]

        return _stacked(self._runner.run(scenario()))

    def reproduces(self, number: int, data: Dataset, recipe: Path) -> None:
        """Check that a release's figures, at the edge and in the cloud, are what it answers to its validation set."""
        manifest, own = manifest_of(self.hub, self.model, number), load_recipe(str(recipe)).recipe
        asked = metrics.parse(own.metric) if own.metric else None
        spec = manifest.task if isinstance(manifest.task, TaskSpec) else None  # a classification names none
        metric = tasking.metric_for_task(spec, asked, manifest.labels, data.labels)
        answers = {"edge": self.serve(number, data.inputs), "cloud": self.ask_cloud(number, data.inputs)}
        for variant in (manifest.placed("edge")[0], manifest.placed("cloud")[0]):
            verdict, (value, interval) = variant.verdict, metric.measure(answers[variant.placement], data.labels)
            assert (verdict.metric, verdict.samples) == (metric.name, len(data))
            assert verdict.value == pytest.approx(value, abs=1e-6), variant.name
            assert verdict.interval == pytest.approx(interval, abs=1e-6), variant.name

    def report(self) -> None:
        """Let the hub take in what the device has spooled."""
        spool = self.agent.spool
        taken = spool.after(0, 1000)
        sent = [
            Envelope(
                device=self.name,
                spool=spool.id,
                seq=record.seq,
                base=spool.base,
                at=record.at,
                kind=record.kind,
                body=Raw(record.body),
            )
            for record in taken
        ]
        topic = topics.uplink(self.name, "report")
        Ingestor(self.hub.hub).take([Message(topic, encode_msgpack(envelope)) for envelope in sent])
        spool.commit(taken[-1].seq if taken else 0)

    def label(self, right: Callable[[Rows], Any], expected: int = 200) -> int:
        """Upload the device's samples, and say by the API what is right of each; how many they were.

        Args:
            right: the label of a sample, of its inputs by name. Samples come in the order of their random ids.
            expected: the HTTP status of the labels.
        """
        self.hub.clock.advance(60)  # labels come later than those before
        ids, body = self.agent.samples.batch()
        samples = decode_msgpack(body, SampleBatch, limit=1 << 24).samples
        store.commit(self.hub.hub, self.name, samples)
        self.agent.samples.delete(tuple(ids))
        labels = [
            {"id": sample.id, "label": right({a.name: from_array(a) for a in sample.inputs})} for sample in samples
        ]
        answer = self.hub.client.post(
            "/api/v1/samples/labels", json={"labels": labels, "by": "ada"}, headers=self.hub.auth()
        )
        assert answer.status_code == expected, answer.text
        return len(labels)

    def _installed(self, number: int) -> InstalledRelease:
        manifest, blobs = manifest_of(self.hub, self.model, number), self.agent.blobs
        blobs.mkdir(parents=True, exist_ok=True)
        for blob in manifest.blobs():
            (blobs / blob.sha256).write_bytes(self.hub.hub.objects.get(f"blobs/{blob.sha256}").data)
        variant = manifest.placed("edge")[0]
        return InstalledRelease(model=self.model, number=number, manifest=manifest, variant=variant, blobs=blobs)


DeviceOf = Callable[[HubFixture, str], Device]


def requests_of(rows: Rows) -> list[oip.InferRequest]:
    """One request for each row of inputs (n, …)."""
    count = len(next(iter(rows.values())))
    return [
        oip.InferRequest(
            inputs=tuple(oip.TensorValue(name, array[row : row + 1]) for name, array in rows.items()),
            binary_outputs=oip.ALL,
        )
        for row in range(count)
    ]


def _stacked(answers: list[oip.InferResponse]) -> dict[str, np.ndarray]:
    names = [output.name for output in answers[0].outputs]
    found = [{output.name: output.array for output in answer.outputs} for answer in answers]
    return {name: np.concatenate([answer[name] for answer in found]) for name in names}


def manifest_of(hub: HubFixture, model: str, number: int) -> Manifest:
    """A release's manifest, from the hub."""
    with hub.hub.reading() as session:
        return decode_manifest(get_release(session, model, number).manifest)


def publish(hub: HubFixture, release: Path, name: str) -> int:
    """Publish a release directory; its number."""
    for blob in (release / "blobs").iterdir():
        hub.hub.objects.put_new(f"blobs/{blob.name}", blob.read_bytes())
    return hub.hub.publisher.publish_release(name, (release / "manifest.json").read_bytes(), actor="t").number


def create(hub: HubFixture, name: str, source: str, **policy: Any) -> Path:
    """Put a recipe into the hub's folder, and make the model that it is for; the recipe's path."""
    path = hub.hub.config.directory / "recipes" / f"{name}.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text(source)
    document = {"name": name, "recipe": path.name, "policy": policy}
    answer = hub.client.post("/api/v1/models", json=document, headers=hub.auth())
    assert answer.status_code == 201, answer.text
    return path


def retrain(hub: HubFixture, model: str, **options: object) -> Job:
    """Order a retrain and do it; the job as it ended."""
    answer = hub.client.post(f"/api/v1/models/{model}/retrain", json=options, headers=hub.auth())
    assert answer.status_code == 201, answer.text
    run_worker(hub.hub, kinds(InlineExecutor()), once=True)
    return queue.get(hub.hub, answer.json()["id"])


def compiled(recipe: Path, trained: Path, out: Path) -> Path:
    """A release directory of what `cloud-hub train` made of a recipe, by the command."""
    own = load_recipe(str(recipe)).recipe
    student = next(path for path in (trained / "student.pt2", trained / "student.onnx") if path.exists())
    command = [
        "compile",
        student,
        "--calibration",
        trained / "calibration.npz",
        "--validation",
        trained / "validation.npz",
        "--out",
        out,
        *(word for target in own.targets for word in ("--target", target)),
    ]
    for option, value in (
        ("--task", own.task),
        ("--labels", ",".join(own.labels)),
        ("--metric", own.metric),
        ("--cloud", _there(trained / "teacher.onnx")),
        ("--preprocess", _there(trained / "steps.json")),
        ("--front", _front(trained)),
    ):
        command += [option, value] if value else []
    done = call("model-compiler", *command)
    assert done.returncode == 0, done.stderr
    return out


def _front(trained: Path) -> str:
    said = trained / "front.txt"
    return f"{trained}/{said.read_text()}" if said.exists() else ""


def _there(path: Path) -> Path | None:
    return path if path.exists() else None


def validation_of(hub: HubFixture, model: str, recipe: Path, snapshot: str, folder: Path) -> Dataset:
    """The validation set of a retrain with seed 1: the recipe's, and those labels of its snapshot that it kept out."""
    with hub.hub.reading() as session:
        fixed = interface_release(session, model)
    request = RunRequest(
        load_recipe(str(recipe)),
        folder / "again",
        seed=1,
        snapshot=snapshots.load(hub.hub, snapshot),
        contract=contract_of(hub.hub, model, fixed),
    )
    settled = settle_run(request)
    part = deal_run(request, settled).validation.with_labels()
    return make_dataset(part.inputs, part.y, "validation", non_finite=settled.loose, precise=True)
