"""Networks for microcontrollers: what they take in flash and memory, as computed and as TFLM records it.

The DS-CNN S that REDS was published with and MLPerf Tiny's ResNet-8, both trained, on CIFAR-10, and MobileNet v1 of
a quarter of the channels at 96×96 pixels with random weights, each whole and cut to a half and a quarter of the
channels, untuned. Answers are compared on the same int8 inputs with those of LiteRT's reference kernels.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from cifar import DATA, Cache, test_indices, training_data
from results import save
from tflite_micro import runtime

from fleetfoot.silence import silenced
from zoo.architectures import ARCHITECTURES
from zoo.backend import keras, make_deterministic
from zoo.batches import TrainingData
from zoo.catalog import InputSpec
from zoo.channels import cuttable_groups, slice_model
from zoo.datasets import spread
from zoo.memory import peak_activation_bytes
from zoo.microcontroller import IntegerModel, Member, write_networks
from zoo.models import base_model

Array = npt.NDArray[Any]

CACHE = Cache("microcontroller")
TRAINED = {"ds-cnn-s": "reds_cifar10_dscnn_s.h5", "resnet-8": "mlperf_tiny_resnet8_cifar10.h5"}
MOBILENET = "mobilenet-v1-0.25"
SHARES = {"whole": 1.0, "half": 0.5, "quarter": 0.25}
CALIBRATED, COMPARED, ANSWERED = 128, 50, 1000


def main() -> None:
    """Measures all networks, or takes what was kept of them, and writes the table."""
    makers: dict[str, Callable[[], dict[str, Any]]] = {name: partial(_trained, file) for name, file in TRAINED.items()}
    save("microcontroller", {name: CACHE.once(name, make) for name, make in {**makers, MOBILENET: _mobilenet}.items()})


def _trained(file: str) -> dict[str, Any]:
    data = training_data()
    network = base_model(str(DATA / "models" / file), data.dataset, data.train).model
    slices = _slices(network)
    x = spread(data.x_tune, CALIBRATED)
    members = _written(slices, x)
    return _rows(members, slices, x) | {"test_accuracy": _accuracies(network, members["whole"].model, data)}


def _mobilenet() -> dict[str, Any]:
    make_deterministic(0)
    spec = InputSpec(kind="image", shape=(96, 96, 3), dtype="uint8", minimum=0, maximum=255)
    network = ARCHITECTURES["mobilenet-v1"](spec, 2, width=0.25)
    x = np.random.default_rng(0).integers(0, 256, (CALIBRATED, *spec.shape)).astype(np.uint8)
    slices = _slices(network)
    for narrower in slices.values():
        _fit_statistics(narrower, x)
    return _rows(_written(slices, x), slices, x)


def _fit_statistics(network: Any, x: Array) -> None:
    """Batch-norm statistics of the inputs; without, the activations of random weights fade to nothing."""
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    network(x, training=True)


def _slices(network: Any) -> dict[str, Any]:
    groups = cuttable_groups(network)
    return {
        name: slice_model(network, {group: max(1, int(groups[group].size * share)) for group in groups})
        for name, share in SHARES.items()
    }


def _written(networks: dict[str, Any], x: Array) -> dict[str, Member]:
    with tempfile.TemporaryDirectory() as folder:
        return {member.name: member for member in write_networks(networks, Path(folder), x)}


def _rows(members: dict[str, Member], networks: dict[str, Any], x: Array) -> dict[str, Any]:
    return {name: _row(member, networks[name], x[:COMPARED]) for name, member in members.items()}


def _row(member: Member, network: Any, x: Array) -> dict[str, Any]:
    model = member.model
    integers = as_integers(model, x)
    ours, recorded = micro(model, integers)
    theirs = litert(model, integers, OpResolverType.BUILTIN_REF)
    predicted = peak_activation_bytes(network, 1)
    return {
        "macs": member.macs,
        "parameters": network.count_params(),
        "flash_bytes": len(model.data),
        "predicted_peak_bytes": predicted,
        "planned_bytes": model.activation_bytes,
        "recorded_non_persistent_bytes": recorded["head"],
        "recorded_over_predicted": round(recorded["head"] / predicted, 4),
        "recorded_persistent_bytes": recorded["tail"],
        "arena_bytes_in_header": model.arena_bytes,
        "equal_to_litert": float((ours == theirs).mean()),
        "most_steps_apart": int(np.abs(ours.astype(int) - theirs).max()),
        "same_class": float((ours.argmax(axis=1) == theirs.argmax(axis=1)).mean()),
    }


def _accuracies(network: Any, model: IntegerModel, data: TrainingData) -> dict[str, float]:
    """Of the whole network on some test images: in float by Keras, and in int8 by LiteRT."""
    chosen = spread(test_indices(data), ANSWERED)
    x, y = data.dataset.x[chosen], data.dataset.y[chosen]
    answers = {
        "float32": network.predict(x, verbose=0),
        "int8": litert(model, as_integers(model, x), OpResolverType.BUILTIN),
    }
    return {name: float((answer.argmax(axis=1) == y).mean()) for name, answer in answers.items()}


def as_integers(model: IntegerModel, x: Array) -> Array:
    """Raw inputs as a model takes them."""
    return np.clip(np.round(x / model.input.scale) + model.input.zero_point, -128, 127).astype(np.int8)


def micro(model: IntegerModel, x: Array) -> tuple[Array, dict[str, int]]:
    """What TensorFlow Lite Micro answers, and the parts of the arena that it records."""
    interpreter = runtime.Interpreter.from_bytes(model.data, arena_size=4 * model.arena_bytes)
    answers = []
    for row in x:
        interpreter.set_input(row[np.newaxis], 0)
        interpreter.invoke()
        answers.append(interpreter.get_output(0)[0].copy())
    with silenced() as log:
        interpreter.print_allocations()
        found = dict(re.findall(r"Arena allocation (\w+) (\d+) bytes", log()))
    return np.array(answers), {name: int(size) for name, size in found.items()}


def litert(model: IntegerModel, x: Array, kernels: OpResolverType) -> Array:
    """What LiteRT answers with some of its kernels."""
    with silenced():
        interpreter = Interpreter(model_content=model.data, experimental_op_resolver_type=kernels)
        interpreter.allocate_tensors()
    given, made = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    answers = []
    for row in x:
        interpreter.set_tensor(given, row[np.newaxis])
        interpreter.invoke()
        answers.append(interpreter.get_tensor(made)[0].copy())
    return np.array(answers)


if __name__ == "__main__":
    main()
