"""The tensors of a request: raw ones as the interface has them, or ready ones, with the steps done by the application.

Ready tensors are those of one release: the request's parameter `ready` is the digest of the steps that made them, as
the model's metadata says it. Another release may have fitted other constants, and would take them for what they are
not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fleet.protocol import oip
from fleet.protocol.codec import to_document
from fleet.protocol.inputs import check_arrays, refuse
from fleet.protocol.manifest import Manifest
from fleet.protocol.oip_messages import tensor_metadata
from fleet.protocol.preprocessing import Pipeline, Ready
from fleet.protocol.tensor_spec import Tensor
from fleet.protocol.tensors import AnyArray

READY = "ready"


def inputs_of(request: oip.InferRequest, manifest: Manifest, pipeline: Pipeline | None = None) -> dict[str, AnyArray]:
    """The inputs by name, of a request that the release takes; `Ready` where the application says so.

    Args:
        pipeline: the manifest's, where the caller has it at hand; else it is made when it is needed.

    Raises:
        RefusalError: as `oip.check_request`, or ready tensors that were made by other steps than the release's.
    """
    said = request.parameters.get(READY)
    if said is None:
        return oip.check_request(request, manifest.inputs, manifest.outputs)
    steps = _agreed(said, pipeline or manifest.pipeline)
    return Ready(oip.check_request(request, steps.ready, manifest.outputs))


def specs_of(arrays: Mapping[str, AnyArray], manifest: Manifest) -> tuple[Tensor, ...]:
    """Return the tensors that a request's arrays were checked against."""
    return manifest.ready if isinstance(arrays, Ready) else manifest.inputs


def ready_arrays(arrays: Mapping[str, AnyArray], said: object, pipeline: Pipeline | None) -> Ready:
    """Check the ready tensors of a request in process.

    Args:
        arrays: by name.
        said: the request's parameter `ready`.
        pipeline: the release's; None where it has no steps.

    Raises:
        RefusalError: as `inputs_of`.
    """
    check_arrays(arrays, _agreed(said, pipeline).ready)
    return Ready(arrays)


def release_parameters(manifest: Manifest) -> dict[str, Any]:
    """Return the parameters by which a model's metadata describes a release beyond the protocol's fields: its task, its
    class names, its steps, and the tensors that the front before them takes and makes.

    `ready` is the digest by which a request names all of these, and `ready_inputs` are the tensors that they make.
    """
    task, pipeline = manifest.named_task, manifest.pipeline
    found: dict[str, Any] = {"task": task.name if task is not None else "", "labels": list(manifest.labels)}
    if pipeline is not None:
        found |= {
            READY: pipeline.digest,
            "ready_inputs": [tensor_metadata(tensor) for tensor in pipeline.ready],
            "preprocess": to_document(pipeline.steps),
        }
    if pipeline is not None and pipeline.front is not None:
        made = [tensor_metadata(tensor) for tensor in pipeline.front.outputs]
        found["front"] = {"inputs": list(pipeline.front.inputs), "outputs": made}
    return found


def labels_of(manifest: Manifest, request: oip.InferRequest) -> dict[str, tuple[str, ...]]:
    """The class names by output, for an answer to a request that asks for classes by name."""
    return {manifest.outputs[0].name: manifest.labels} if request.classification else {}


def _agreed(said: object, pipeline: Pipeline | None) -> Pipeline:
    if pipeline is None:
        refuse("version", "the release has no preprocessing, so nothing can be ready for it", hint="send it raw")
    if said != pipeline.digest:
        refuse(
            "version",
            f"the inputs were made ready by steps {str(said)[:64]!r}, the release's are {pipeline.digest!r}",
            hint="do the steps that the model's metadata shows, or send the raw inputs",
        )
    return pipeline
