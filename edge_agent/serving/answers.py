"""Checks an answer from elsewhere: it has the outputs of the model that was asked, by name, with values that count.

An answer that goes out as the cloud's must be as the device's own would be: the manifest's names, datatypes and shapes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from edge_agent.ports import InstalledRelease
from edge_agent.serving.cloud import CloudError
from edge_agent.serving.router import RoutingResult
from fleet import tasks
from fleet.protocol import oip
from fleet.protocol.asking import READY
from fleet.protocol.errors import MalformedError
from fleet.protocol.finite import not_finite
from fleet.protocol.manifest import Manifest, Tensor
from fleet.protocol.tensors import AnyArray, datatype_of

NON_FINITE = "non_finite"  # parameter of an answer whose model may give NaN and infinity

MISMATCH, NO_NUMBER = 502, 422  # as the hub would say it: a wrong gateway, and a request that the model cannot answer


def checked(answer: oip.InferResponse, manifest: Manifest | None, asked: oip.InferRequest) -> oip.InferResponse:
    """The answer with the outputs that were asked for (by default all), in the manifest's order.

    Args:
        manifest: None when no release is held here; then only the values are looked at.
        asked: the request that went there. An output that the model does not have is left to whoever encodes the
            answer.

    Raises:
        CloudError: an output is missing or of another datatype or shape than the manifest says, or has not the
            request's number of rows (status 502), or holds NaN or infinity where the model does not mean them (422).
    """
    found = {value.name: value.array for value in answer.outputs}
    if manifest is None:
        specs = [Tensor(name=name, datatype="", shape=()) for name in found]
        if answer.parameters.get(NON_FINITE) is not True:
            _check_values(found, specs)
        return answer
    specs, rows = [s for s in manifest.outputs if not asked.outputs or s.name in asked.outputs], _rows(asked, manifest)
    for spec in specs:
        _check(spec, found, rows)
    _check_values(found, specs)
    return replace(answer, outputs=tuple(oip.TensorValue(spec.name, found[spec.name]) for spec in specs))


def answers_of(answer: oip.InferResponse, manifest: Manifest) -> tuple[Any, ...]:
    """The answer of every row by the model's task; empty where it has none, or its outputs were not asked for."""
    try:
        return tasks.of_manifest(manifest).answers({value.name: value.array for value in answer.outputs})
    except MalformedError:
        return ()


def answer_parameters(
    verdict: RoutingResult,
    release: InstalledRelease | None,
    confidence: float | None,
    took_s: float,
    answer: oip.InferResponse | None,
) -> dict[str, Any]:
    """Make the parameters that every answer carries.

    Args:
        release: the one here; None without one.
        confidence: its lowest of the batch; None where the task has none.
        took_s: seconds since the request's first byte.
        answer: the cloud's, where that goes out: the variant is the cloud's own then, if it names one.
    """
    own = release.variant.name if release is not None and answer is None else ""
    said = answer.parameters.get("variant") if answer is not None else None
    parameters: dict[str, Any] = {
        "served_by": verdict.served_by,
        "release": release.number if release is not None else 0,
        "variant": said if isinstance(said, str) else own,
        "degraded": verdict.degraded,
        "deferred": verdict.deferred,
        "fallback_reason": verdict.fallback_reason,
        "latency_us": int(took_s * 1e6),
    }
    if confidence is not None:
        parameters["confidence"] = confidence
    return parameters


def _rows(asked: oip.InferRequest, manifest: Manifest) -> int | None:
    """The rows of a request; None where its inputs count none, or not the same."""
    specs = manifest.ready if READY in asked.parameters else manifest.inputs
    batched = {spec.name for spec in specs if spec.batched}
    counts = {len(value.array) for value in asked.inputs if value.name in batched}
    return counts.pop() if len(counts) == 1 else None


def _check(spec: Tensor, found: Mapping[str, AnyArray], rows: int | None) -> None:
    array = found.get(spec.name)
    if array is None:
        raise CloudError(
            f"the cloud answered {', '.join(map(repr, found)) or 'nothing'}, not {spec.name!r}", status=MISMATCH
        )
    shape = spec.shape if rows is None or not spec.batched else (rows, *spec.row)
    fits = len(array.shape) == len(shape) and all(
        want in (-1, have) for want, have in zip(shape, array.shape, strict=True)
    )
    if not fits or datatype_of(array) != spec.datatype:
        what = f"{datatype_of(array)} {list(array.shape)}, the model's is {spec.datatype} {list(shape)}"
        raise CloudError(f"the cloud's output {spec.name!r} is {what}", status=MISMATCH)


def _check_values(found: Mapping[str, AnyArray], specs: Sequence[Tensor]) -> None:
    broken = not_finite("output", found, specs)
    if broken:
        raise CloudError(f"the cloud's {broken}", status=NO_NUMBER)
