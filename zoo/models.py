"""Base models: loading what people have, and making every network of one form.

The form is a functional model with one raw input and one output, probabilities over the classes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from fleetfoot.errors import ModelError, UsageError
from zoo.architectures import ARCHITECTURES, DEFAULT_ARCHITECTURE
from zoo.backend import keras
from zoo.datasets import Dataset

_TOLERANCE = 1e-3


def base_model(name: str | None, dataset: Dataset) -> Any:
    """The base model: loaded, and taken as trained, where a file is named; else new and untrained.

    Raises:
        UsageError: no such network.
        ModelError: the file cannot be loaded, or the model does not fit the dataset.
    """
    if name is not None and is_file(name):
        return load_base(Path(name), dataset)
    return new_base(name or DEFAULT_ARCHITECTURE[dataset.name], dataset)


def is_file(name: str | None) -> bool:
    """Whether the name of a model is that of a file rather than of a built-in network."""
    return (
        name is not None
        and name not in ARCHITECTURES
        and (os.sep in name or Path(name).suffix != "" or Path(name).exists())
    )


def new_base(name: str, dataset: Dataset) -> Any:
    """A built-in network for a dataset, untrained.

    Raises:
        UsageError: no such network.
    """
    if name not in ARCHITECTURES:
        raise UsageError(f"unknown model {name!r}: give the path of a .keras file, or {' or '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name](dataset.input, len(dataset.classes))


def load_base(path: Path, dataset: Dataset) -> Any:
    """Loads a trained Keras model and checks that it takes the dataset's raw inputs and names its classes.

    Raises:
        ModelError: the file cannot be loaded, or the model does not fit the dataset.
    """
    try:
        model = keras.saving.load_model(path, compile=False)
    except Exception as error:  # Keras raises whatever went wrong inside
        raise ModelError(f"{path} cannot be loaded as a Keras model: {str(error).splitlines()[0]}") from None
    model = _as_functional(model, path)
    _check_input(model, dataset, path)
    _check_type(model, dataset, path)
    return _check_output(model, dataset, path)


def _as_functional(model: Any, path: Path) -> Any:
    if isinstance(model, keras.Sequential):
        model = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    if not isinstance(model, keras.src.models.functional.Functional):
        raise ModelError(f"{path} is a subclassed model, whose layers cannot be seen: make it Sequential or Functional")
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ModelError(
            f"{path} has {len(model.inputs)} inputs and {len(model.outputs)} outputs: "
            "Fleetfoot takes classification networks of one input and one output"
        )
    return model


def _check_input(model: Any, dataset: Dataset, path: Path) -> None:
    shape = tuple(model.inputs[0].shape[1:])
    if shape != dataset.input.shape:
        raise ModelError(f"{path} takes inputs of shape {shape}, and {dataset.name} has {dataset.input.shape}")


def _check_type(model: Any, dataset: Dataset, path: Path) -> None:
    dtype = model.inputs[0].dtype
    if dtype != dataset.input.dtype:
        raise ModelError(f"{path} takes {dtype} inputs, and {dataset.name} has {dataset.input.dtype}")


def _check_output(model: Any, dataset: Dataset, path: Path) -> Any:
    """The model, ended by a softmax where it gives logits."""
    output = model.outputs[0]
    if tuple(output.shape[1:]) != (len(dataset.classes),):
        raise ModelError(
            f"{path} answers with shape {tuple(output.shape[1:])}, and {dataset.name} has "
            f"{len(dataset.classes)} classes: retrain its last layer for them"
        )
    if _answers_probabilities(model):
        return model
    last = output._keras_history.operation
    activation = getattr(getattr(last, "activation", None), "__name__", "linear")
    if activation != "linear":
        raise ModelError(f"{path} ends in {activation}, and must end in logits or a softmax over the classes")
    probabilities = keras.layers.Softmax(name="fleetfoot_probabilities")(output)
    return keras.Model(model.inputs[0], probabilities, name=model.name)


def _answers_probabilities(model: Any) -> bool:
    """Whether what a model answers to random inputs lies between 0 and 1 and adds up to 1."""
    shape = [size or 1 for size in model.inputs[0].shape[1:]]
    answers = model.predict(np.random.default_rng(0).random((8, *shape), np.float32), verbose=0)
    return bool((answers >= 0).all() and np.allclose(answers.sum(axis=1), 1, atol=_TOLERANCE))
