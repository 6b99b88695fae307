"""The recipe of the MNIST example: `EDGELOOP_DATA=… cloud-hub train examples.mnist.recipe --out DIR`."""

from __future__ import annotations

from cloud_hub.training.recipe import Examples, Hyper, Recipe, Sets
from examples.mnist import data as mnist
from examples.mnist import model


def sets() -> Sets:
    """12,000 training images; the official test set is halved into validation and exam."""
    parts = {name: Examples(*part) for name, part in mnist.splits().items()}
    return Sets(parts["train"], parts["calibration"], parts["validation"], parts["exam"])


RECIPE = Recipe(
    data=sets,
    teacher=model.teacher,
    student=model.student,
    labels=tuple("0123456789"),
    hyper=Hyper(teacher_epochs=4, student_epochs=5, batch=128),
    targets=("litert-int8", "litert-fp32", "litert-int8-dynamic", "onnx-int8", "onnx-fp32"),
    sources=(mnist, model),
)
