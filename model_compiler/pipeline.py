"""The whole job: build variants, measure them, gate them, calibrate them, try them, pack a release."""

from __future__ import annotations

from typing import Any

from fleet.protocol.manifest import Manifest
from model_compiler.build.artifacts import Artifact, build, float_bases, order
from model_compiler.build.prepared import Prepared, prepare
from model_compiler.evaluate import judging, tasking
from model_compiler.evaluate.judging import Judged
from model_compiler.inputs.dataset import check_pair
from model_compiler.inputs.request import CompileRequest
from model_compiler.package import assembling, pack
from model_compiler.package.delta import patches
from model_compiler.report.document import CompileReport, document_of, files
from model_compiler.search.improving import improve
from model_compiler.search.keeping import keep_grid


def compile_release(request: CompileRequest) -> CompileReport:
    """Compile, measure, gate and pack; nothing is written unless at least one edge variant passes.

    Raises:
        DataError, SourceError: the input is not usable.
        TargetError: not one target could be built or run.
        GateError: targets were built, none met the gate or the self-test.
    """
    check_pair(request.calibration, request.validation)
    pack.check_replaceable(request.out)
    prepared = prepare(request, tasking.metric_of(request))
    artifacts, left_out = build(prepared)
    artifacts = keep_grid(prepared, artifacts)
    judged, refused = _judge(prepared, artifacts)
    searched: dict[str, Any] = {}
    if request.search and any(item.broken for item in judged):
        artifacts, searched = improve(prepared, artifacts, judged)
        judged, refused = _judge(prepared, artifacts)
    left_out |= {name: why for name, why in refused.items() if name in request.targets}
    rank = [a.name for a in order(artifacts, request.targets)]
    asked = sorted((item for item in judged if item.name in rank), key=lambda item: rank.index(item.name))
    kept, missed = judging.passing(asked)
    left_out |= missed
    request.progress("choosing self-test vectors")
    manifest, blobs = assembling.assemble(_parts(prepared), kept)
    manifest, refusals = assembling.preflighted(manifest, blobs, request.pythons, request.progress)
    left_out |= _dropped(manifest, kept, refusals)
    document = document_of(prepared.metric.name, manifest, asked, left_out, refusals) | {"search": searched}
    request.progress("building patches")
    bare, blobs = assembling.for_devices(manifest, blobs, request.defer.describe())
    pack.write_release(request.out, bare, blobs, files(document), patches(bare, blobs, request.earlier))
    return CompileReport(request.out, manifest, left_out, document)


def _judge(prepared: Prepared, artifacts: list[Artifact]) -> tuple[list[Judged], dict[str, str]]:
    asked = prepared.asked
    prepared.request.progress("running every variant")
    ran, refused = judging.run(
        artifacts,
        asked.validation,
        prepared.outputs,
        prepared.metric,
        non_finite=prepared.request.loose(),
        preparation=asked.preparation,
    )
    bases = float_bases(artifacts)
    judged = judging.judge(prepared.request, prepared.metric, ran, asked.validation, bases, asked.preparation)
    return judged, refused


def _parts(prepared: Prepared) -> assembling.Parts:
    asked = prepared.asked
    return assembling.Parts(
        prepared.request, prepared.metric, asked.calibration, asked.validation, asked.validation, asked.preparation
    )


def _dropped(manifest: Manifest, kept: list[Judged], refusals: dict[str, dict[str, str]]) -> dict[str, str]:
    shipped = {variant.name for variant in manifest.variants}
    return {
        item.name: "; ".join(f"{runtime} refuses it: {why}" for runtime, why in refusals[item.name].items())
        or f"no runtime for {item.ran.artifact.target.runtime} is installed here"
        for item in kept
        if item.name not in shipped
    }
