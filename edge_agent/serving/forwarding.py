"""A request as the cloud hears it."""

from __future__ import annotations

from edge_agent.serving.slots import Served
from fleet.protocol import oip
from fleet.protocol.asking import READY
from fleet.protocol.channel import ModelEntry


def forwarded(request: oip.InferRequest, served: Served | None) -> oip.InferRequest:
    """The same inputs, all of them and the answer binary; of the parameters only the steps that made them ready."""
    inputs = request.inputs
    if (
        served is not None and inputs and not inputs[0].name
    ):  # a raw body has no tensor names; the cloud hears the manifest's
        checked = oip.check_inputs(inputs, served.release.manifest.inputs)
        inputs = tuple(oip.TensorValue(*item) for item in checked.items())
    kept = {READY: request.parameters[READY]} if READY in request.parameters else {}
    return oip.InferRequest(
        id=request.id, parameters=kept, inputs=inputs, outputs=request.outputs, binary_outputs=oip.ALL
    )


def somebody(served: Served | None, entry: ModelEntry) -> bool:
    """Return whether the channel lets a request go to the cloud, and somebody there could answer it.

    A release without a cloud variant, on a channel without an auditor, has nobody to ask.
    """
    there = served is None or entry.routing.remote is not None or cloud_version(served, entry) is not None
    return entry.routing.cloud and there


def cloud_version(served: Served | None, entry: ModelEntry) -> int | None:
    """The release's own cloud variant, else the auditor, else whatever the hub holds current."""
    if served is not None and served.release.manifest.placed("cloud"):
        return served.release.number
    return entry.audit.auditor
