"""A request seen from both sides of its preprocessing steps: what applications send, and what the file takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from msgspec import structs

from fleet.protocol.interface import steps_in_words
from fleet.protocol.preprocessing import kinds_of
from model_compiler.build import fronts
from model_compiler.errors import InterfaceError
from model_compiler.inputs import naming
from model_compiler.inputs.dataset import Dataset
from model_compiler.inputs.preprocessing import FrontFile, Preparation
from model_compiler.inputs.request import CompileRequest


@dataclass(frozen=True)
class ApplicationData:
    """The data as applications send it, called as in the release: what verdict, self-test and drift are of."""

    calibration: Dataset
    validation: Dataset
    preparation: Preparation


def single(request: CompileRequest) -> CompileRequest:
    """The request with its data in the datatypes of most models, or in those that applications of its model send: what
    the steps make does not depend on it, so nothing else says what they shall take."""
    kept, arrays = request.datatypes(), tuple(request.validation.inputs)
    if len(kept) == len(arrays) == 1:
        kept = dict(zip(arrays, kept.values(), strict=True))
    return replace(
        request,
        calibration=request.calibration.plain(kept),
        validation=request.validation.plain(kept),
        tuning=request.tuning.plain(kept) if request.tuning is not None else None,
    )


def asked_of(request: CompileRequest) -> ApplicationData:
    """The data of a request with steps, under the names of the release.

    Raises:
        InterfaceError: other inputs or kinds of steps than the model has, or than were asked for.
        DataError: the data does not fit the steps.
    """
    names = raw_names(request)
    calibration, validation = request.calibration.renamed(names), request.validation.renamed(names)
    front = _front_of(request, names)
    preparation = Preparation(
        steps=tuple(request.preprocess),
        loose=tuple(sorted(request.loose())),
        front=fronts.tried(front, validation) if front is not None else None,
    )
    preparation.pipeline(validation.inputs)
    if request.interface is not None:
        naming.check_inputs(request.interface, validation.inputs)
    if request.encoder is not None:
        naming.check_encoder(request.encoder, validation.inputs)
    naming.check_release_names(tuple(validation.inputs), ())
    return ApplicationData(calibration, validation, preparation)


def raw_names(request: CompileRequest) -> dict[str, str]:
    """The data's names of inputs to the release's, of a request with a front or steps; their constants do not matter.

    Raises InterfaceError when it has other inputs than the model, or than were asked for.
    """
    arrays = tuple(request.validation.inputs)
    first = request.front.inputs if request.front is not None else request.preprocess[0].takes
    own = first if len(arrays) == 1 else ()
    return naming.input_names(arrays, own, request.names()[0])


def behind(request: CompileRequest, asked: ApplicationData) -> CompileRequest:
    """The request as the model file sees it: no front, no steps, and data, names and interface of what they make.

    Raises DataError where they cannot work on the data.
    """
    before = asked.preparation
    pipeline = before.pipeline(asked.validation.inputs)
    assert pipeline is not None  # there is a front, or there are steps
    names = dict(zip(request.validation.inputs, asked.validation.inputs, strict=False))
    fixed = request.interface
    return replace(
        request,
        preprocess=(),
        front=None,
        calibration=fronts.ready(before, asked.calibration),
        validation=fronts.ready(before, asked.validation),
        tuning=fronts.ready(before, request.tuning.renamed(names)) if request.tuning is not None else None,
        inputs=tuple(tensor.name for tensor in pipeline.ready),
        interface=structs.replace(fixed, inputs=pipeline.ready, preprocess=()) if fixed is not None else None,
        encoder=None,
    )


def check_kinds(request: CompileRequest) -> None:
    """Raise InterfaceError unless the request has the kinds of steps that the model has, and a front where it has."""
    if request.interface is None:
        return
    front = _front_of(request, raw_names(request)) if request.front is not None else None
    kinds = kinds_of(request.preprocess, front.inputs if front is not None else ())
    if request.interface.preprocess != kinds:
        raise InterfaceError(
            f"the model's preprocessing is {steps_in_words(request.interface.preprocess)}; "
            f"this has {steps_in_words(kinds)}",
            hint="a changed interface is a new model name: fleet model create NAME",
        )


def _front_of(request: CompileRequest, names: Mapping[str, str]) -> FrontFile | None:
    return fronts.called(request.front, tuple(names.values())) if request.front is not None else None
