"""Base models: loading what people have, and making every network of one form.

The form is a functional model with one raw input, which it scales itself, and one output, probabilities
over the classes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fleetfoot.console import note
from fleetfoot.errors import ModelError, UsageError
from zoo.architectures import ARCHITECTURES, DEFAULT_ARCHITECTURE
from zoo.backend import keras
from zoo.catalog import InputSpec
from zoo.datasets import Dataset, Indices
from zoo.formats import call_builder, read_network
from zoo.graph import apply_layers, calls

_SCALING_EXAMPLES = 512
_SCALING_LAYERS = (keras.layers.Rescaling, keras.layers.Normalization)
_TOLERANCE = 1e-3


class Base(NamedTuple):
    """A base model, and whether it comes with trained weights."""

    model: Any
    trained: bool


def base_model(name: str | None, dataset: Dataset, examples: Indices) -> Base:
    """The base model of a zoo.

    Args:
        name: the path of a trained model, ``package.module:function`` for one that a function builds, a
            built-in network, or None for the one that goes with the dataset.
        dataset: what it must fit.
        examples: indices of training examples, by which the scaling of a trained model's inputs is found.

    Raises:
        UsageError: no such network.
        ModelError: it cannot be loaded, or does not fit the dataset.
    """
    if name is not None and _is_path(name):
        return Base(_conform(read_network(Path(name)), dataset, name, examples), trained=True)
    if name is not None and ":" in name:
        return Base(_conform(call_builder(name), dataset, name, None), trained=False)
    return Base(_built_in(name or _default_network(dataset), dataset), trained=False)


def image_size(name: str | None) -> tuple[int, int] | None:
    """Height and width of the images that a trained model takes; None where it is no such model, or takes any."""
    if name is None or not _is_path(name):
        return None
    shape = read_network(Path(name)).inputs[0].shape[1:]
    return (shape[0], shape[1]) if len(shape) == 3 and shape[0] and shape[1] else None


def find_scaling(model: Any, dataset: Dataset, examples: Indices) -> Scaling:
    """The range of values under which a trained model is right most often on raw training examples."""
    # At random, because datasets are often ordered by class.
    chosen = np.sort(np.random.default_rng(0).permutation(examples)[:_SCALING_EXAMPLES])
    x, y = dataset.x[chosen].astype(np.float32), dataset.y[chosen]
    candidates = [Scaling(dataset.input, low, high) for low, high in _ranges(dataset.input)]
    accuracies = [
        float((model.predict(scaling.apply(x), verbose=0).argmax(axis=1) == y).mean()) for scaling in candidates
    ]
    best = int(np.argmax(accuracies))
    measured = ", ".join(f"{c.low:g} to {c.high:g}: {a:.0%}" for c, a in zip(candidates, accuracies, strict=True))
    note(f"inputs are scaled to {candidates[best].low:g} to {candidates[best].high:g} (right by scaling: {measured})")
    return candidates[best]


class Scaling(NamedTuple):
    """A linear map from the raw values of an input to the range from ``low`` to ``high``."""

    spec: InputSpec
    low: float
    high: float

    @property
    def scale(self) -> float:
        """The factor."""
        return (self.high - self.low) / (self.spec.maximum - self.spec.minimum)

    @property
    def offset(self) -> float:
        """What is added after the factor."""
        return self.low - self.spec.minimum * self.scale

    def apply(self, x: Any) -> Any:
        """Scaled values."""
        return x * self.scale + self.offset


def _ranges(spec: InputSpec) -> list[tuple[float, float]]:
    """The ranges that networks are trained on: as the values come, 0 to 1, and -1 to 1."""
    return list(dict.fromkeys([(spec.minimum, spec.maximum), (0.0, 1.0), (-1.0, 1.0)]))


def _is_path(name: str) -> bool:
    return os.sep in name or (Path(name).suffix != "" and ":" not in name) or Path(name).exists()


def _default_network(dataset: Dataset) -> str:
    """The built-in network for a dataset: its own, or that for its kind of input."""
    own = DEFAULT_ARCHITECTURE.get(dataset.name.partition(":")[0])
    return own or DEFAULT_ARCHITECTURE[dataset.input.kind]


def _built_in(name: str, dataset: Dataset) -> Any:
    if name not in ARCHITECTURES:
        raise UsageError(
            f"unknown model {name!r}: give the path of a Keras file or a SavedModel, a package.module:function, "
            f"or one of {', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[name](dataset.input, len(dataset.classes))


def _conform(model: Any, dataset: Dataset, name: str, examples: Indices | None) -> Any:
    """Brings somebody's model to the form, or says why it cannot be."""
    model = _as_functional(model, name)
    _check_shapes(model, dataset, name)
    _check_weights(model, name)
    model = _with_probabilities(model, name)
    if any(isinstance(call.layer, _SCALING_LAYERS) for call in calls(model)):
        note("the scaling of the inputs is inside the model")
        return _with_raw_input(model, dataset.input, None)
    scaling = find_scaling(model, dataset, examples) if examples is not None else None
    return _with_raw_input(model, dataset.input, scaling)


def _as_functional(model: Any, name: str) -> Any:
    if isinstance(model, keras.Sequential):
        model = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    if not isinstance(model, keras.src.models.functional.Functional):
        raise ModelError(f"{name} is a subclassed model, whose layers cannot be seen: make it Sequential or Functional")
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ModelError(
            f"{name} has {len(model.inputs)} inputs and {len(model.outputs)} outputs: "
            "Fleetfoot takes classification networks of one input and one output"
        )
    return model


def _check_shapes(model: Any, dataset: Dataset, name: str) -> None:
    takes = tuple(model.inputs[0].shape[1:])
    if len(takes) != len(dataset.input.shape) or any(
        size not in (None, given) for size, given in zip(takes, dataset.input.shape, strict=True)
    ):
        raise ModelError(f"{name} takes inputs of shape {takes}, and {dataset.name} has {dataset.input.shape}")
    answers = tuple(model.outputs[0].shape[1:])
    if answers != (len(dataset.classes),):
        raise ModelError(
            f"{name} answers with shape {answers}, and {dataset.name} has {len(dataset.classes)} classes: "
            "retrain its last layer for them"
        )


def _check_weights(model: Any, name: str) -> None:
    for layer in model.layers:
        if any(not np.isfinite(weight).all() for weight in layer.get_weights()):
            raise ModelError(f"{name} has weights in layer {layer.name} that are NaN or infinite")


def _with_probabilities(model: Any, name: str) -> Any:
    """The model, ended by a softmax where it gives logits."""
    if _answers_probabilities(model):
        return model
    last = model.outputs[0]._keras_history.operation
    activation = getattr(getattr(last, "activation", None), "__name__", "linear")
    if activation != "linear":
        raise ModelError(f"{name} ends in {activation}, and must end in logits or a softmax over the classes")
    probabilities = keras.layers.Softmax(name="fleetfoot_probabilities")(model.outputs[0])
    return keras.Model(model.inputs[0], probabilities, name=model.name)


def _answers_probabilities(model: Any) -> bool:
    """Whether what a model answers to random inputs lies between 0 and 1 and adds up to 1."""
    shape = [size or 1 for size in model.inputs[0].shape[1:]]
    answers = model.predict(np.random.default_rng(0).random((8, *shape), np.float32), verbose=0)
    return bool((answers >= 0).all() and np.allclose(answers.sum(axis=1), 1, atol=_TOLERANCE))


def _with_raw_input(model: Any, spec: InputSpec, scaling: Scaling | None) -> Any:
    """The model on an input of the raw shape and type, followed by the scaling where there is one."""
    raw = keras.Input(spec.shape, dtype=spec.dtype, name="raw")
    factor, offset = (scaling.scale, scaling.offset) if scaling else (1.0, 0.0)
    identity = factor == 1.0 and offset == 0.0 and spec.dtype == "float32"
    scaled = raw if identity else keras.layers.Rescaling(factor, offset, name="fleetfoot_scale")(raw)
    return keras.Model(raw, apply_layers(model, scaled), name=model.name)
