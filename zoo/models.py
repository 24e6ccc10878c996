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
from fleetfoot.errors import ModelError, UsageError, first_line
from zoo.architectures import ARCHITECTURES, DEFAULT_ARCHITECTURE
from zoo.backend import keras, tf
from zoo.catalog import InputSpec
from zoo.datasets import Dataset, Indices
from zoo.formats import call_builder, read_network
from zoo.graph import apply_layers, calls, compute_in, free_name, inlined

_SCALING_EXAMPLES = 512
_SCALING_LAYERS = (keras.layers.Rescaling, keras.layers.Normalization)
_COLOURS = (1, 3)
_BOTH = 2
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
        return Base(conform(read_network(Path(name)), dataset, name, examples), trained=True)
    if name is not None and ":" in name:
        return Base(conform(call_builder(name), dataset, name, None), trained=False)
    return Base(_built_in(name or _default_network(dataset), dataset), trained=False)


def given_network(name: str) -> Any:
    """Somebody's network as it is: of a path, or of a function that builds it.

    Raises:
        UsageError: no such function.
        ModelError: it cannot be loaded.
    """
    return call_builder(name) if ":" in name and not _is_path(name) else read_network(Path(name))


def image_size(name: str | None) -> tuple[int, int] | None:
    """Height and width of the images that a trained model takes; None where it is no such model, or takes any."""
    return None if name is None or not _is_path(name) else image_size_of(read_network(Path(name)))


def image_size_of(model: Any) -> tuple[int, int] | None:
    """Height and width of the images that a network takes; None where it takes none, or any."""
    match [list(tensor.shape[1:]) for tensor in getattr(model, "inputs", None) or []]:
        case [[int(height), int(width), channels]] if channels in _COLOURS:
            return height, width
    return None


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
    if name in ARCHITECTURES:
        return False
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


def conform(model: Any, dataset: Dataset, name: str, examples: Indices | None) -> Any:
    """Brings somebody's model to the form that all base models have; its layers and weights are shared.

    Args:
        model: the network.
        dataset: what it must fit.
        name: what messages call it.
        examples: indices of training examples, by which the scaling of its inputs is found; without, it is taken to
            be untrained, and learns best of values from 0 to 1.

    Raises:
        ModelError: it does not fit the dataset, or cannot be brought to that form.
    """
    if isinstance(model, keras.Sequential) and not model.built:
        model.build((None, *dataset.input.shape))
    _check_form(model, name)
    model = inlined(model)
    _check_shapes(model, dataset, name)
    check_weights(model, name)
    try:
        model = _with_probabilities(_in_float32(model, dataset.input), name)
    except (ValueError, TypeError, tf.errors.OpError) as error:
        raise ModelError(f"{name} cannot take inputs of {dataset.name}: {first_line(error)}") from error
    if _scales_its_input(model):
        note("the scaling of the inputs is inside the model")
        return _with_raw_input(model, dataset.input, None)
    if examples is not None:
        return _with_raw_input(model, dataset.input, find_scaling(model, dataset, examples))
    note("inputs are scaled to 0 to 1, because the model has no scaling of its own")
    return _with_raw_input(model, dataset.input, Scaling(dataset.input, 0.0, 1.0))


def _check_form(model: Any, name: str) -> None:
    if not isinstance(model, keras.src.models.functional.Functional | keras.Sequential):
        raise ModelError(f"{name} is a subclassed model, whose layers cannot be seen: make it Sequential or Functional")
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ModelError(
            f"{name} has {len(model.inputs)} inputs and {len(model.outputs)} outputs: "
            "Fleetfoot takes classification networks of one input and one output"
        )


def _check_shapes(model: Any, dataset: Dataset, name: str) -> None:
    takes = tuple(model.inputs[0].shape[1:])
    if len(takes) != len(dataset.input.shape) or any(
        size not in (None, given) for size, given in zip(takes, dataset.input.shape, strict=True)
    ):
        raise ModelError(f"{name} takes inputs of shape {takes}, and {dataset.name} has {dataset.input.shape}")
    answers, classes = tuple(model.outputs[0].shape[1:]), len(dataset.classes)
    if answers != (classes,) and not (answers == (1,) and classes == _BOTH):
        raise ModelError(
            f"{name} answers with shape {answers}, and {dataset.name} has {classes} classes: "
            "retrain its last layer for them"
        )


def check_weights(model: Any, name: str) -> None:
    """Makes sure that a network's weights are numbers.

    Raises:
        ModelError: some are NaN or infinite.
    """
    for layer in model.layers:
        if any(not np.isfinite(weight).all() for weight in layer.get_weights()):
            raise ModelError(f"{name} has weights in layer {layer.name} that are NaN or infinite")


def _in_float32(model: Any, spec: InputSpec) -> Any:
    """The model as one functional network of the shape of the data, computing in float32 all through."""
    if any(layer.compute_dtype != "float32" for layer in model.layers if isinstance(layer, keras.layers.Layer)):
        model = compute_in(model, lambda _: "float32")
    if isinstance(model, keras.Sequential):
        model = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    inputs = keras.Input(spec.shape, dtype="float32")
    return keras.Model(inputs, apply_layers(model, inputs), name=model.name)


def _with_probabilities(model: Any, name: str) -> Any:
    """The model, ended by a softmax where it gives logits; one output is the probability of the second class."""
    last = model.outputs[0]._keras_history.operation
    activation = getattr(getattr(last, "activation", None), "__name__", "linear")
    if model.outputs[0].shape[1] == 1:
        return _with_both_probabilities(model, activation, name)
    if _answers_probabilities(model):
        return model
    if activation != "linear":
        raise ModelError(f"{name} ends in {activation}, and must end in logits or a softmax over the classes")
    softmax = keras.layers.Softmax(name=_free_name(model, "fleetfoot_probabilities"))
    return keras.Model(model.inputs[0], softmax(model.outputs[0]), name=model.name)


def _with_both_probabilities(model: Any, activation: str, name: str) -> Any:
    if activation not in ("sigmoid", "linear"):
        raise ModelError(f"{name} ends in {activation} of one unit, and must end in a sigmoid or a logit")
    yes = model.outputs[0]
    if activation == "linear":
        yes = keras.layers.Activation("sigmoid", name=_free_name(model, "fleetfoot_sigmoid"))(yes)
    no = keras.layers.Rescaling(-1.0, 1.0, name=_free_name(model, "fleetfoot_no"))(yes)
    both = keras.layers.Concatenate(name=_free_name(model, "fleetfoot_probabilities"))([no, yes])
    return keras.Model(model.inputs[0], both, name=model.name)


def _answers_probabilities(model: Any) -> bool:
    """Whether what a model answers to random inputs lies between 0 and 1 and adds up to 1."""
    x = np.random.default_rng(0).random((8, *model.inputs[0].shape[1:]), np.float32)
    answers = model.predict(x, verbose=0)
    return bool((answers >= 0).all() and np.allclose(answers.sum(axis=1), 1, atol=_TOLERANCE))


def _scales_its_input(model: Any) -> bool:
    """Whether the input meets a layer that scales it before any that has weights of its own."""
    raw = {id(tensor) for tensor in model.inputs}
    for call in calls(model):
        if not any(id(tensor) in raw for tensor in call.inputs):
            continue
        if isinstance(call.layer, _SCALING_LAYERS):
            return True
        nested = isinstance(call.layer, keras.Model)
        if nested and _scales_its_input(call.layer):
            return True
        if not nested and not getattr(call.layer, "weights", None):
            raw |= {id(tensor) for tensor in call.outputs}
    return False


def _with_raw_input(model: Any, spec: InputSpec, scaling: Scaling | None) -> Any:
    """The model on an input of the raw shape and type, followed by the scaling where there is one."""
    raw = keras.Input(spec.shape, dtype=spec.dtype, name=_free_name(model, "raw"))
    factor, offset = (scaling.scale, scaling.offset) if scaling else (1.0, 0.0)
    identity = factor == 1.0 and offset == 0.0 and spec.dtype == "float32"
    scale = keras.layers.Rescaling(factor, offset, name=_free_name(model, "fleetfoot_scale"))
    return keras.Model(raw, apply_layers(model, raw if identity else scale(raw)), name=model.name)


def _free_name(model: Any, name: str) -> str:
    """A name that no layer of a model has."""
    return free_name(name, {layer.name for layer in model.layers})
