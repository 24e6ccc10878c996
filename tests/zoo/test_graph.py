from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import NETWORKS, answers, inputs_for, randomize, relative_difference

from fleetfoot.errors import ModelError
from zoo.backend import keras
from zoo.channels import channel_groups
from zoo.cost import count_macs
from zoo.datasets import Dataset
from zoo.graph import calls, copy_layer, copy_weights, inlined, rebuild
from zoo.models import base_model

layers = keras.layers


def outputs_of(model: Any, seed: int = 0) -> list[Any]:
    """All that a model answers to random inputs, in a flat list."""
    random = np.random.default_rng(seed)
    inputs = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    x = keras.tree.map_structure(lambda tensor: random.normal(0, 1, (5, *tensor.shape[1:])).astype(np.float32), inputs)
    return [np.asarray(output) for output in keras.tree.flatten(model(x, training=False))]


def assert_same_function(one: Any, other: Any) -> None:
    for mine, its in zip(outputs_of(one), outputs_of(other), strict=True):
        np.testing.assert_allclose(mine, its, atol=1e-5)


def names(model: Any) -> list[str]:
    return [operation.name for operation in model.operations]


def randomized(model: Any) -> Any:
    randomize(model, 0)
    return model


def body(name: str = "body", channels: int = 3) -> Any:
    """A model of convolution, batch norm and dropout."""
    inputs = keras.Input((6, 6, channels), name="body_input")
    x = layers.BatchNormalization(momentum=0.5, name="norm")(layers.Conv2D(4, 3, padding="same", name="conv")(inputs))
    return keras.Model(inputs, layers.Dropout(0.5, name="drop")(layers.ReLU(name="relu")(x)), name=name)


def head(x: Any) -> Any:
    return layers.Dense(4, name="out")(layers.GlobalAveragePooling2D(name="average")(x))


def one_inside() -> Any:
    inputs = keras.Input((6, 6, 3), name="input")
    return keras.Model(inputs, head(body()(inputs)), name="whole")


def several_levels() -> Any:
    inputs = keras.Input((6, 6, 3), name="middle_input")
    middle = keras.Model(inputs, layers.Conv2D(3, 1, name="conv")(body("inner")(inputs)), name="middle")
    inputs = keras.Input((6, 6, 3), name="input")
    return keras.Model(inputs, head(middle(layers.Conv2D(3, 1, name="stem")(inputs))))


def called_twice() -> Any:
    twice = body(channels=4)
    inputs = keras.Input((6, 6, 3), name="input")
    x = layers.Conv2D(4, 1, name="stem")(inputs)
    return keras.Model(inputs, head(twice(twice(x) + x)))


def two_of_a_kind() -> Any:
    inputs = keras.Input((6, 6, 3), name="input")
    return keras.Model(inputs, head(layers.Add(name="sum")([body("left")(inputs), body("right")(inputs)])))


def sequential_without_input() -> Any:
    inner = keras.Sequential([layers.Conv2D(4, 3, name="conv"), layers.BatchNormalization(name="norm")], name="inner")
    inputs = keras.Input((6, 6, 3), name="input")
    return keras.Model(inputs, head(inner(inputs)))


def sequential_of_models() -> Any:
    inner = keras.Sequential([layers.ReLU(name="relu6"), layers.Conv2D(2, 1, name="last")], name="inner")
    return keras.Sequential([keras.Input((6, 6, 3), name="input"), body(), inner, layers.Flatten(), layers.Dense(3)])


def several_inputs_and_outputs() -> Any:
    one, two = keras.Input((6, 6, 3), name="one"), keras.Input((6, 6, 3), name="two")
    both = layers.Concatenate(name="both")([layers.Conv2D(4, 1, name="conv")(one), two])
    pair = keras.Model({"one": one, "two": two}, [both, layers.Subtract(name="less")([one, two])], name="pair")
    first, second = keras.Input((6, 6, 3), name="first"), keras.Input((6, 6, 3), name="second")
    both, less = pair({"one": layers.ReLU(name="relu")(second), "two": first})
    outputs = {"a": head(both), "b": layers.Flatten(name="flat")(less)}
    return keras.Model({"first": first, "second": second}, outputs)


def operators() -> Any:
    inputs = keras.Input((6, 6, 3), name="inner_input")
    inner = keras.Model(inputs, keras.ops.relu(inputs * 2.0 + inputs)[:, 1:] / 3, name="inner")
    inputs = keras.Input((6, 6, 3), name="input")
    return keras.Model(inputs, head(inner(inputs + 1.0) * 2.0))


def masked() -> Any:
    inputs = keras.Input((5, 3), name="inner_input")
    inner = keras.Model(inputs, layers.LSTM(4, name="lstm")(inputs), name="inner")
    inputs = keras.Input((5, 3), name="input")
    masked = layers.Masking(name="mask")(layers.ReLU(threshold=0.8, name="relu")(inputs))
    return keras.Model(inputs, layers.Dense(2, name="out")(inner(masked)))


NESTED = {
    function.__name__.replace("_", " "): function
    for function in (
        one_inside, several_levels, called_twice, two_of_a_kind, sequential_without_input, sequential_of_models,
        several_inputs_and_outputs, operators, masked,
    )
}  # fmt: skip
quietly = pytest.mark.filterwarnings("ignore:Layer 'inner' .* was passed an input with a mask:UserWarning")
every_nested = pytest.mark.parametrize("build", NESTED.values(), ids=NESTED)


@quietly
@every_nested
def test_a_network_computes_the_same_with_the_models_inside_it_in_their_place(build: Callable[[], Any]) -> None:
    model = randomized(build())
    flat = inlined(model)
    assert not any(isinstance(layer, keras.Model) for layer in flat.layers)
    assert_same_function(flat, model)


@quietly
@every_nested
def test_a_flat_network_has_weights_of_its_own(build: Callable[[], Any]) -> None:
    model = randomized(build())
    before = outputs_of(model)
    flat = inlined(model)
    assert sum(weight.shape.num_elements() for weight in flat.weights) == sum(
        weight.shape.num_elements() for weight in model.weights
    )
    flat.set_weights([np.zeros_like(weight) for weight in flat.get_weights()])
    for one, other in zip(outputs_of(model), before, strict=True):
        np.testing.assert_array_equal(one, other)


@quietly
@every_nested
def test_a_flat_network_can_be_saved(build: Callable[[], Any], tmp_path: Path) -> None:
    flat = inlined(randomized(build()))
    flat.save(tmp_path / "model.keras")
    assert_same_function(keras.saving.load_model(tmp_path / "model.keras", compile=False), flat)


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_a_network_without_models_inside_it_is_left_as_it_is(network: Any) -> None:
    model = network.build()
    assert inlined(model) is model


def test_a_sequential_network_is_left_as_it_is() -> None:
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    assert inlined(model) is model


def test_the_layers_inside_can_be_seen_counted_and_cut() -> None:
    flat = inlined(one_inside())
    assert names(flat) == ["input", "conv", "norm", "relu", "drop", "average", "out"]
    assert count_macs(flat) == 36 * 9 * 3 * 4 + 4 * 4
    assert not channel_groups(flat)["conv"].fixed


def test_a_layer_is_named_after_the_models_that_it_was_in_where_another_has_its_name() -> None:
    assert {"left_conv", "right_conv", "left_drop", "sum", "out"} < set(names(inlined(two_of_a_kind())))
    flat = names(inlined(several_levels()))
    assert {"stem", "norm", "middle_conv", "middle_inner_conv"} < set(flat)


def test_a_name_that_is_taken_even_so_is_made_another() -> None:
    inputs = keras.Input((6, 6, 3), name="input")
    x = layers.Conv2D(3, 1, name="body_conv")(layers.Conv2D(3, 1, name="conv")(inputs))
    flat = inlined(keras.Model(inputs, head(body()(x))))
    assert [name for name in names(flat) if "conv" in name] == ["conv", "body_conv", "body_conv_"]


def test_a_model_called_twice_keeps_one_set_of_weights() -> None:
    flat = inlined(called_twice())
    assert sum(call.layer.name == "conv" for call in calls(flat)) == 2
    assert len([name for name in names(flat) if name == "conv"]) == 1


def test_what_was_called_without_training_stays_as_it_is_in_training() -> None:
    base = body()
    inputs = keras.Input((6, 6, 3), name="input")
    x = layers.Dropout(0.1, name="own")(base(inputs, training=False))
    model = randomized(keras.Model(inputs, head(layers.BatchNormalization(name="own_norm")(x))))
    flat = inlined(model)
    statistics = [flat.get_layer(name).moving_mean.numpy() for name in ("norm", "own_norm")]
    features = keras.Model(flat.input, flat.get_layer("relu").output)
    x = inputs_for(flat)
    np.testing.assert_array_equal(features(x, training=True), features(x, training=False))
    np.testing.assert_allclose(features(x), base(x, training=False), atol=1e-5)
    flat(x, training=True)
    np.testing.assert_array_equal(flat.get_layer("norm").moving_mean, statistics[0])
    assert np.abs(flat.get_layer("own_norm").moving_mean.numpy() - statistics[1]).max() > 0
    assert "own" in names(flat)
    assert "drop" not in names(flat)


@pytest.mark.parametrize("where", ["layer", "model"])
def test_what_was_frozen_stays_frozen(where: str) -> None:
    model = one_inside()
    inner = model.get_layer("body")
    (inner.get_layer("conv") if where == "layer" else inner).trainable = False
    flat = inlined(model)
    frozen = {layer.name for layer in flat.layers if layer.weights and not layer.trainable}
    assert frozen == ({"conv"} if where == "layer" else {"conv", "norm"})
    assert len(flat.trainable_variables) == len(model.trainable_variables)


def test_a_layer_that_is_trained_inside_a_frozen_model_is_frozen_as_it_was() -> None:
    model = one_inside()
    model.get_layer("body").trainable = False
    model.get_layer("body").get_layer("conv").trainable = True
    assert not inlined(model).get_layer("conv").trainable


def test_a_model_inside_casts_what_it_is_given_to_the_type_that_it_takes() -> None:
    inputs = keras.Input((6, 6, 3), dtype="uint8", name="input")
    model = randomized(keras.Model(inputs, head(body()(inputs))))
    x = np.random.default_rng(0).integers(0, 255, (4, 6, 6, 3)).astype(np.uint8)
    flat = inlined(model)
    assert flat.inputs[0].dtype == "uint8"
    assert relative_difference(answers(flat, x), answers(model, x)) < 1e-5


@keras.saving.register_keras_serializable(package="test_graph")
class Opaque(keras.Model):  # type: ignore[misc]
    def __init__(self, units: int, **options: Any) -> None:
        super().__init__(**options)
        self.units = units
        self.dense = layers.Dense(units)

    def build(self, input_shape: Any) -> None:
        self.dense.build(input_shape)

    def call(self, x: Any) -> Any:
        return self.dense(x)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}


class Unmakeable(Opaque):
    def get_config(self) -> dict[str, Any]:
        raise NotImplementedError("no config")


def around(opaque: Any) -> Any:
    inputs = keras.Input((6, 6, 4), name="inner_input")
    inner = keras.Model(inputs, opaque(inputs), name="inner")
    inputs = keras.Input((6, 6, 3), name="input")
    return keras.Model(inputs, head(inner(body()(inputs))))


def test_a_subclassed_model_stays_as_one_layer() -> None:
    model = around(Opaque(5, name="opaque"))
    flat = inlined(model)
    assert isinstance(flat.get_layer("opaque"), Opaque)
    assert_same_function(flat, model)


def test_a_layer_that_cannot_be_made_anew_is_named() -> None:
    with pytest.raises(ModelError, match="layer opaque cannot be made anew: give Unmakeable a get_config"):
        inlined(around(Unmakeable(5, name="opaque")))


def test_a_base_model_is_flat(tmp_path: Path, digits: Dataset) -> None:
    inputs = keras.Input((8, 8, 1), name="inner_input")
    inner = keras.Model(inputs, layers.Conv2D(8, 3, name="conv")(layers.Rescaling(1 / 16)(inputs)), name="inner")
    inputs = keras.Input((8, 8, 1), name="input")
    x = layers.GlobalAveragePooling2D()(inner(inputs))
    model = keras.Model(inputs, layers.Dense(10, activation="softmax", name="out")(x))
    model.save(tmp_path / "model.keras")
    base = base_model(str(tmp_path / "model.keras"), digits, np.arange(50)).model
    assert {"conv", "out"} < set(names(base))
    np.testing.assert_allclose(answers(base, digits.x[:3]), answers(model, digits.x[:3]), atol=1e-6)


# Rebuilding.


def arms() -> Any:
    inputs = keras.Input((6, 6, 3), name="input")
    stem = layers.Conv2D(4, 1, name="stem")(inputs)
    arm = layers.ReLU(name="relu")(layers.Conv2D(4, 3, padding="same", name="arm")(stem))
    return keras.Model(inputs, head(layers.Add(name="sum")([stem, arm])), name="arms")


def test_what_read_one_tensor_reads_another_and_what_led_to_it_alone_is_gone() -> None:
    model = arms()
    randomize(model, 0)
    stem, total = model.get_layer("stem").output, model.get_layer("sum").output
    made = []

    def new_layer(layer: Any) -> Any:
        made.append(layer.name)
        return copy_layer(layer)

    short = rebuild(model, new_layer, shortcuts={id(total): stem})
    assert sorted(names(short)) == sorted([*made, "input"]) == ["average", "input", "out", "stem"]
    short.set_weights([w for name in ("stem", "out") for w in model.get_layer(name).get_weights()])
    expected = keras.Model(model.inputs, model.get_layer("out")(model.get_layer("average")(stem)))
    assert_same_function(short, expected)


def test_one_short_cut_leads_on_to_another() -> None:
    model = arms()
    stem, relu, total = (model.get_layer(name).output for name in ("stem", "relu", "sum"))
    short = rebuild(model, copy_layer, shortcuts={id(total): relu, id(relu): stem})
    assert names(short) == ["input", "stem", "average", "out"]


def test_an_output_can_be_short_cut_too() -> None:
    model = arms()
    short = rebuild(model, copy_layer, shortcuts={id(model.outputs[0]): model.get_layer("average").output})
    assert names(short) == ["input", "stem", "arm", "relu", "sum", "average"]
    assert short.output_shape == (None, 4)


def test_inputs_and_outputs_keep_their_structure_types_and_names() -> None:
    one, two = keras.Input((6,), name="one", dtype="uint8"), keras.Input((None, 3), name="two")
    outputs = [layers.Dense(2, name="dense")(two), {"sum": keras.ops.cast(one, "float32")}]
    model = keras.Model({"one": one, "two": two}, outputs)
    new = rebuild(model, copy_layer)
    for before, after in ((model.input, new.input), (model.output, new.output)):
        keras.tree.assert_same_structure(before, after)
    described = [[(t.name, t.shape, t.dtype) for t in m.inputs] for m in (model, new)]
    assert described[0] == described[1]
    assert [(t.shape, t.dtype) for t in model.outputs] == [(t.shape, t.dtype) for t in new.outputs]
    assert new.name == model.name


def test_a_layer_called_twice_is_made_anew_once() -> None:
    model = NETWORKS["shared"].random(0)
    made = []

    def new_layer(layer: Any) -> Any:
        made.append(layer.name)
        return copy_layer(layer)

    new = rebuild(model, new_layer)
    assert made.count("twice") == 1
    copy_weights(model, new)
    assert_same_function(new, model)


def test_a_sequential_network_is_rebuilt_as_a_functional_one() -> None:
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4, name="a"), layers.Dense(2, name="b")])
    new = rebuild(model, copy_layer)
    copy_weights(model, new)
    assert_same_function(new, model)
