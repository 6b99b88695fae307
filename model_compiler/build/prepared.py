"""Source and data made to fit each other, and called as in the release."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fleet.protocol.tensors import DTYPES, datatype_of
from model_compiler.build.adapting import Adapted, adapt, check_channels_last
from model_compiler.build.preprocessed import ApplicationData, asked_of, behind, check_kinds, single
from model_compiler.inputs import naming, ports, sources
from model_compiler.inputs.dataset import Array, Dataset, plain, wanted
from model_compiler.inputs.preprocessing import NO_STEPS
from model_compiler.inputs.request import CompileRequest
from model_compiler.metrics import Metric

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Prepared:
    """The source and the data, made to fit each other and called as in the release. `outputs` are the outputs' names.

    `tuning` is the request's training data, likewise. `cloud` is the teacher with the release's names. `names` maps the
    data's names of inputs to the release's; `notes` say which inputs have another datatype than in the data, or a
    size that the program leaves open. Where the
    request has preprocessing steps, these are what the steps make, and `asked` is what applications send.
    """

    request: CompileRequest
    metric: Metric
    calibration: Dataset
    validation: Dataset
    outputs: tuple[str, ...]
    asked: ApplicationData
    tuning: Dataset | None = None
    notes: tuple[str, ...] = ()
    module: torch.nn.Module | None = None
    onnx: bytes | None = None
    cloud: bytes | None = None
    names: Mapping[str, str] = field(default_factory=dict)


def prepare(request: CompileRequest, metric: Metric) -> Prepared:
    """Adapt a torch module to the data, or the data to an ONNX model, and settle all names.

    Raises:
        DataError, SourceError: they do not fit.
        InterfaceError: they fit, but not the interface of the model.
    """
    check_kinds(request)
    asked = asked_of(request := single(request)) if request.prepares else None
    source = behind(request, asked) if asked is not None else request
    if request.channels_last:
        check_channels_last(source.validation)
    prepared = _of_torch(source, metric) if request.module is not None else _of_onnx(source, metric)
    notes = (*_other_datatypes(source.validation, prepared), *_fixed_sizes(source, tuple(prepared.validation.inputs)))
    prepared = replace(prepared, request=request, asked=asked or prepared.asked, notes=notes)
    if request.cloud is None:
        return prepared
    teacher = sources.cloud_model(request.cloud, tuple(prepared.validation.inputs), prepared.outputs)
    return replace(prepared, cloud=teacher)


def adapt_module(request: CompileRequest, metric: Metric) -> Adapted:
    """The request's torch module, run once and checked against all that the request says of its interface.

    Raises:
        DataError, SourceError: module and data do not fit each other.
        InterfaceError: they fit, but not the interface of the model.
    """
    assert request.module is not None  # checked by the caller
    check_kinds(request)
    inputs, outputs = request.names()
    adapted = adapt(
        request.module,
        request.validation,
        channels_last=request.channels_last,
        classes=metric.classes,
        inputs=inputs,
        outputs=outputs,
        known=request.datatypes(),
    )
    if request.interface is not None:
        naming.check_early(request.interface, adapted.data.inputs, adapted.outputs, request.labels)
    _check_contract(request, adapted.data, tuple(adapted.outputs))
    return adapted


def _check_contract(request: CompileRequest, data: Dataset, outputs: tuple[str, ...]) -> None:
    naming.check_release_names(tuple(data.inputs), outputs)
    if request.encoder is not None:
        naming.check_encoder(request.encoder, data.inputs)


def _of_torch(request: CompileRequest, metric: Metric) -> Prepared:
    adapted = adapt_module(request, metric)
    tuning = adapted.fit(request.tuning) if request.tuning is not None else None
    calibration, validation = adapted.fit(request.calibration), adapted.fit(request.validation)
    names = tuple(adapted.outputs)
    asked = ApplicationData(calibration, validation, NO_STEPS)
    return Prepared(
        request, metric, calibration, validation, names, asked, tuning, module=adapted.module, names=adapted.names
    )


def _of_onnx(request: CompileRequest, metric: Metric) -> Prepared:
    assert request.onnx is not None  # one of the two is given
    model = sources.channels_first(request.onnx) if request.channels_last else request.onnx
    wanted = request.names()
    own_in, own_out = sources.onnx_names(model)
    inputs = naming.input_names(
        tuple(request.validation.inputs), own_in, wanted[0] or (own_in if len(own_in) == 1 else ())
    )
    outputs = naming.output_names(dict.fromkeys(own_out), wanted[1], named=True, lone="")
    model = sources.named(model, tuple(inputs.values()), tuple(outputs.values()))
    data = [d.renamed(inputs) for d in (request.calibration, request.validation)]
    dtypes = _dtypes_of_file(model, data[1], request.datatypes())
    calibration, validation = (d.cast(dtypes) for d in data)
    _check_contract(request, validation, tuple(outputs.values()))
    asked = ApplicationData(calibration, validation, NO_STEPS)
    return Prepared(request, metric, calibration, validation, tuple(outputs.values()), asked, onnx=model, names=inputs)


def _dtypes_of_file(model: bytes, data: Dataset, known: Mapping[str, str]) -> dict[str, np.dtype[Any]]:
    """Real numbers and truth values as the file takes them, or as applications of an existing model send them; integers
    as the data has them, which the runtime converts."""
    own = {tensor.name: tensor.datatype for tensor in ports.read("onnx", model).inputs}
    return {
        name: wanted(known, name, array.dtype)
        or (DTYPES[own[name]] if own[name].startswith(("FP", "BOOL")) else plain(array.dtype))
        for name, array in data.inputs.items()
    }


def _other_datatypes(given: Dataset, prepared: Prepared) -> tuple[str, ...]:
    """For people: the inputs that have another datatype in the release than in the data."""
    return tuple(
        f"input {name!r} is {datatype_of(made)}, which the model takes, and {datatype_of(array)} in the data"
        for (name, made), array in zip(prepared.validation.inputs.items(), _in_order(given, prepared), strict=True)
        if datatype_of(made) != datatype_of(array)
    )


def _fixed_sizes(request: CompileRequest, names: Sequence[str]) -> tuple[str, ...]:
    """For people: the sizes that an exported program leaves open, and the release, whose inputs have these `names`,
    does not."""
    if request.module is None:
        return ()
    import torch

    if not isinstance(request.module, torch.fx.GraphModule):
        return ()
    given = [node.meta.get("val") for node in request.module.graph.nodes if node.op == "placeholder"]
    shapes = {name: v.shape for name, v in zip(names, given, strict=False) if isinstance(v, torch.Tensor)}
    return tuple(
        f"input {name!r}: the program leaves the size of axis {axis} open, and this release has the data's; to keep it "
        "open, export the module as ONNX (torch.onnx.export, dynamic_shapes) and import that file"
        for name, shape in shapes.items()
        for axis, size in enumerate(shape)
        if axis and isinstance(size, torch.SymInt)
    )


def _in_order(given: Dataset, prepared: Prepared) -> list[Array]:
    """The data's arrays in the release's order."""
    return [given.inputs[old] for old in prepared.names]
