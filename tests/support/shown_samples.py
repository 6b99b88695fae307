"""Models whose samples are labelled by eye and ear: pictures with boxes on them, and sounds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cloud_hub.samples import store
from cloud_hub.store.tables import Model
from fleet.protocol.manifest import Tensor
from fleet.protocol.messages import Array, Sample
from fleet.protocol.task import TaskSpec, task_capability
from fleet.protocol.tensors import to_array
from tests.support.hub import HubFixture

ROAD, SPEECH = "road", "speech"
KINDS = ("car", "person", "<b>bike")
WORDS = ("yes", "no", "noise")
WIDTH, HEIGHT, RATE, COUNT = 160, 120, 8000, 3
FOUND = (32.0, 60.0, 80.0, 96.0)  # a box that the device found, in pixels


def lay(hub: HubFixture) -> None:
    """Both models with three samples each."""
    detections(hub, ROAD)
    hub.model(SPEECH)
    hub.release(SPEECH, labels=WORDS, inputs=(Tensor(name="audio", datatype="FP32", shape=(-1, RATE)),))
    with hub.hub.session() as session:
        session.get_one(Model, SPEECH).policy = {"samples": {"sound": {"audio": RATE}}}
    times = np.arange(RATE) * 2 * np.pi / RATE
    tones = [np.sin(times * pitch) * np.linspace(1, 0, RATE) for pitch in (440, 880, 30)]
    said = (to_array("logits", np.array([[0.2, 0.5, 0.3]], np.float32)),)
    keep(hub, SPEECH, [(to_array("audio", tone[None].astype(np.float32)),) for tone in tones], said)


def detections(hub: HubFixture, model: str, scale: tuple[float, float] = (1.0, 1.0), found: bool = True) -> None:
    """A model of boxes in pixels, or divided by `scale`; `found`: whether its devices find one."""
    hub.model(model)
    image = Tensor(name="image", datatype="UINT8", shape=(-1, HEIGHT, WIDTH, 3))
    rows = Tensor(name="boxes", datatype="FP32", shape=(-1, -1, 6))
    task = TaskSpec(name="detection")
    hub.release(
        model,
        labels=KINDS,
        task=task,
        inputs=(image,),
        outputs=(rows,),
        requires=(task_capability(task.name),),
        cloud=None,
    )
    corners = np.array(FOUND) / (*scale, *scale)
    answer = np.array([[[*corners, 0.7, 0]]] if found else np.zeros((1, 0, 6)), np.float32)
    pictures = [(to_array("image", street(number)[None]),) for number in range(COUNT)]
    keep(hub, model, pictures, (to_array("boxes", answer),))


def street(number: int) -> np.ndarray:
    """A picture with a red car on a grey road: (HEIGHT, WIDTH, 3); each with a building of its own."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[:60] = (120, 170, 220)
    pixels[60:] = (90, 90, 95)
    pixels[10 + 10 * number : 60, 90 + 20 * number : 150] = np.roll((220, 190, 40), number)
    pixels[60:96, 32:80] = (200, 60, 50)
    return pixels


def keep(hub: HubFixture, model: str, inputs: Sequence[tuple[Array, ...]], outputs: tuple[Array, ...]) -> None:
    samples = [
        Sample(
            id=f"{model}-{number}",
            model=model,
            release=1,
            variant="v",
            at=hub.clock(),
            reason="uncertain",
            confidence=0.4,
            inputs=one,
            outputs=outputs,
            prediction=0,
        )
        for number, one in enumerate(inputs)
    ]
    store.commit(hub.hub, "kiosk-0", samples)
