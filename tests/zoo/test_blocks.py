from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from architecture_inputs import SPECS, examples
from networks import NETWORKS, answers, copied, inputs_for, randomize, relative_difference

from fleetfoot.errors import ModelError
from zoo.architectures import ARCHITECTURES
from zoo.backend import keras, make_deterministic
from zoo.batches import TrainingData
from zoo.blocks import drop_blocks, drop_least_harmful, droppable_blocks
from zoo.cost import count_macs
from zoo.datasets import Dataset, split_indices
from zoo.finetune import recalibrate_batch_norm, train

layers = keras.layers


def conv(x: Any, filters: int, name: str, kernel: int = 3, strides: int = 1) -> Any:
    """Convolution, batch norm and ReLU: the layers ``<name>``, ``<name>_norm`` and ``<name>_relu``."""
    x = layers.Conv2D(filters, kernel, strides=strides, padding="same", use_bias=False, name=name)(x)
    return layers.ReLU(name=f"{name}_relu")(layers.BatchNormalization(name=f"{name}_norm")(x))


def ended(inputs: Any, x: Any, name: str = "network") -> Any:
    x = layers.Dense(4, name="out")(layers.GlobalAveragePooling2D(name="average")(x))
    model = keras.Model(inputs, x, name=name)
    randomize(model, 0)
    return model


def image() -> Any:
    return keras.Input((6, 6, 3), name="input")


def residual(merge: Any = None, strides: int = 1) -> Any:
    """A residual block; where it halves the image, the shortcut is a convolution."""
    inputs = image()
    stem = conv(inputs, 5, "stem")
    shortcut = stem if strides == 1 else layers.Conv2D(5, 1, strides=strides, name="shortcut")(stem)
    arm = conv(conv(stem, 7, "first", strides=strides), 5, "second")
    merge = merge or layers.Add(name="sum")
    return ended(inputs, layers.ReLU(name="relu")(merge([shortcut, arm])))


def plus(tensors: Sequence[Any]) -> Any:
    return tensors[0] + tensors[1]


def gated(multiply: Any) -> Any:
    inputs = image()
    x = conv(inputs, 6, "body")
    gate = layers.GlobalAveragePooling2D(keepdims=True, name="squeezed")(x)
    gate = layers.Conv2D(2, 1, activation="relu", name="squeeze")(gate)
    gate = layers.Conv2D(6, 1, activation="sigmoid", name="excite")(gate)
    return ended(inputs, conv(multiply([gate, x]), 5, "head"))


def times(tensors: Sequence[Any]) -> Any:
    return tensors[0] * tensors[1]


def chain() -> Any:
    inputs = image()
    x = conv(conv(inputs, 4, "a"), 4, "b")
    x = layers.MaxPooling2D(name="pool")(x)
    return ended(inputs, conv(conv(x, 4, "c"), 6, "d"))


def fire() -> Any:
    """A squeeze to two channels and two convolutions of it, joined to what there was."""
    inputs = image()
    squeezed = conv(conv(inputs, 6, "stem"), 2, "squeeze", kernel=1)
    return ended(inputs, layers.Concatenate(name="join")([conv(squeezed, 2, "narrow", 1), conv(squeezed, 4, "wide")]))


def silenced(model: Any, name: str) -> Any:
    """The network as it is, but that a batch norm makes zeros."""
    silent = copied(model)
    for weight in (silent.get_layer(name).gamma, silent.get_layer(name).beta):
        weight.assign(np.zeros_like(weight))
    return silent


def only(model: Any, names: Sequence[str]) -> Any:
    """The network of these layers of another alone, one after another."""
    x = model.input
    for name in names:
        x = model.get_layer(name)(x)
    return keras.Model(model.input, x)


def assert_same_function(one: Any, other: Any) -> None:
    x = inputs_for(other)
    assert relative_difference(answers(one, x), answers(other, x)) < 1e-5


def layer_names(model: Any) -> list[str]:
    return [operation.name for operation in model.operations]


@pytest.mark.parametrize("strides", [1, 2])
def test_without_an_arm_a_sum_is_its_shortcut(strides: int) -> None:
    model = residual(strides=strides)
    block = droppable_blocks(model)["sum"]
    dropped = drop_blocks(model, ["sum"])
    assert_same_function(dropped, silenced(model, "second_norm"))
    assert block.layers == ("first", "first_norm", "first_relu", "second", "second_norm", "second_relu", "sum")
    assert block.replacement == ("stem_relu" if strides == 1 else "shortcut")
    assert block.macs == count_macs(model) - count_macs(dropped)


@pytest.mark.parametrize("merge", [plus, lambda both: keras.ops.add(*both)], ids=["+", "add"])
def test_a_sum_that_is_no_layer_is_one_too(merge: Any) -> None:
    model = residual(merge)
    (name,) = [name for name in droppable_blocks(model) if name.startswith("add")]
    assert_same_function(drop_blocks(model, [name]), silenced(model, "second_norm"))


@pytest.mark.parametrize(
    "merge",
    [layers.Average(name="mean"), layers.Maximum(name="maximum"), lambda both: layers.Add()([*both, both[0]])],
    ids=["average", "maximum", "sum of three"],
)
def test_only_sums_of_two_have_arms(merge: Any) -> None:
    assert droppable_blocks(residual(merge)) == {}


@pytest.mark.parametrize("multiply", [layers.Multiply(name="scale"), times], ids=["layer", "operator"])
def test_without_its_gate_a_tensor_is_what_it_was(multiply: Any) -> None:
    model = gated(multiply)
    ((name, block),) = droppable_blocks(model).items()
    assert block.layers == ("squeezed", "squeeze", "excite", name)
    assert block.replacement == "body_relu"
    open_gate = copied(model)
    excite = open_gate.get_layer("excite")
    excite.set_weights([np.zeros_like(excite.kernel), np.full(6, 40.0)])
    assert_same_function(drop_blocks(model, [name]), open_gate)


def test_an_activation_by_a_product_is_no_gate() -> None:
    inputs = image()
    x = conv(inputs, 5, "stem")
    model = ended(inputs, layers.Multiply()([x, layers.Activation("hard_sigmoid")(x)]))
    with pytest.raises(ModelError, match="has no blocks that can be dropped"):
        drop_blocks(model, ["multiply"])


def test_a_convolution_goes_with_its_batch_norm_and_activation_where_the_shape_stays() -> None:
    model = chain()
    blocks = droppable_blocks(model)
    assert {name: block.layers for name, block in blocks.items()} == {
        "b_relu": ("b", "b_norm", "b_relu"),
        "c_relu": ("c", "c_norm", "c_relu"),
    }
    a, d, end = ("a", "a_norm", "a_relu"), ("d", "d_norm", "d_relu"), ("average", "out")
    assert_same_function(drop_blocks(model, ["b_relu"]), only(model, [*a, "pool", "c", "c_norm", "c_relu", *d, *end]))
    assert_same_function(drop_blocks(model, ["c_relu", "b_relu"]), only(model, [*a, "pool", *d, *end]))


def test_convolutions_that_only_together_keep_the_shape_go_together() -> None:
    model = fire()
    ((name, block),) = droppable_blocks(model).items()
    assert name == "join"
    assert len(block.layers) == 10
    dropped = drop_blocks(model, ["join"])
    assert_same_function(dropped, only(model, ["stem", "stem_norm", "stem_relu", "average", "out"]))


def test_a_convolution_beside_a_shortcut_is_no_block() -> None:
    inputs = image()
    x = conv(inputs, 5, "stem")
    model = ended(inputs, layers.Concatenate()([conv(x, 5, "beside"), x]))
    with pytest.raises(ModelError) as error:
        drop_blocks(model, ["beside_relu"])
    assert str(error.value) == (
        "network has no blocks that can be dropped (stem makes (6, 6, 5) of (6, 6, 3); "
        "beside reads or makes what others read too; out makes the answer)"
    )


def test_what_makes_the_answer_stays() -> None:
    inputs = keras.Input((4,), name="input")
    x = layers.Dense(4, activation="relu", name="hidden")(inputs)
    model = keras.Model(inputs, layers.Softmax()(layers.Dense(4, name="logits")(x)))
    assert list(droppable_blocks(model)) == ["hidden"]


def test_of_two_answers_that_are_added_both_stay() -> None:
    inputs = keras.Input((7,), name="input")
    both = [layers.Dense(4, name="one")(inputs), layers.Dense(4, name="two")(inputs)]
    assert droppable_blocks(keras.Model(inputs, layers.Add()(both))) == {}


def test_a_layer_that_is_called_elsewhere_too_stays() -> None:
    model = NETWORKS["shared"].random(0)
    with pytest.raises(ModelError, match="twice is called more than once"):
        drop_blocks(model, ["twice"])


def test_an_input_is_never_left_without_use() -> None:
    one, two = keras.Input((4,), name="one"), keras.Input((5,), name="two")
    x = layers.Add(name="sum")([layers.Dense(6, name="a")(one), layers.Dense(6, name="b")(two)])
    assert droppable_blocks(keras.Model([one, two], layers.Dense(3, name="out")(x))) == {}


def test_what_is_an_output_itself_stays() -> None:
    inputs = image()
    x = conv(inputs, 4, "a")
    inner = conv(x, 4, "b")
    outputs = [inner, layers.Dense(3, name="out")(layers.Flatten()(conv(conv(inner, 4, "c"), 4, "d")))]
    assert list(droppable_blocks(keras.Model(inputs, outputs))) == ["d_relu"]


def test_a_convolution_inside_an_arm_is_a_block_too_and_goes_with_the_arm() -> None:
    inputs = image()
    stem = conv(inputs, 5, "stem")
    arm = conv(conv(stem, 5, "first"), 5, "second")
    model = ended(inputs, layers.Add(name="sum")([arm, stem]))
    assert list(droppable_blocks(model)) == ["second_relu", "sum"]
    inner, both, arm = (drop_blocks(model, names) for names in (["second_relu"], ["second_relu", "sum"], ["sum"]))
    assert layer_names(both) == layer_names(arm)
    assert_same_function(both, arm)
    first = only(model, ["stem", "stem_norm", "stem_relu", "first", "first_norm", "first_relu"]).output
    total = layers.Add()([first, model.get_layer("stem_relu").output])
    expected = keras.Model(model.input, model.get_layer("out")(model.get_layer("average")(total)))
    assert_same_function(inner, expected)


def test_blocks_can_follow_each_other() -> None:
    inputs = image()
    x = stem = conv(inputs, 5, "stem")
    for number in (1, 2, 3):
        x = layers.Add(name=f"sum{number}")([x, conv(x, 5, f"arm{number}")])
    model = ended(inputs, x)
    dropped = drop_blocks(model, ["sum3", "sum1", "sum2"])
    expected = keras.Model(model.input, model.get_layer("out")(model.get_layer("average")(stem)))
    assert_same_function(dropped, expected)
    assert_same_function(drop_blocks(drop_blocks(model, ["sum2"]), ["sum1"]), drop_blocks(model, ["sum1", "sum2"]))


def test_the_blocks_of_a_model_inside_the_network_are_found() -> None:
    inner = residual()
    inputs = keras.Input((6, 6, 3), name="outer_input")
    features = keras.Model(inner.input, inner.get_layer("relu").output, name="inner")
    model = ended(inputs, features(inputs), "outer")
    assert list(droppable_blocks(model)) == ["sum"]
    assert_same_function(drop_blocks(model, ["sum"]), silenced_inside(model))


def silenced_inside(model: Any) -> Any:
    norm = model.get_layer("inner").get_layer("second_norm")
    norm.gamma.assign(np.zeros(5))
    norm.beta.assign(np.zeros(5))
    return model


def of_any_size() -> Any:
    inputs = keras.Input((None, None, 3), name="input")
    stem = conv(inputs, 5, "stem")
    return ended(inputs, layers.Add(name="sum")([stem, conv(stem, 5, "arm")]), "anysize")


def test_a_network_of_any_size_is_to_be_given_one() -> None:
    model = of_any_size()
    with pytest.raises(ModelError) as error:
        droppable_blocks(model)
    assert "anysize takes inputs of any size, (None, None, 3)," in str(error.value)
    assert "give it one, as keras.Sequential([keras.Input((224, 224, 3)), model]) does" in str(error.value)
    assert "\n" not in str(error.value)

    sized = keras.Sequential([keras.Input((6, 6, 3)), model])
    assert list(droppable_blocks(sized)) == ["sum"]
    assert drop_blocks(sized, ["sum"]).input_shape == (None, 6, 6, 3)


def test_blocks_behind_sizes_left_open_are_found() -> None:
    inputs = keras.Input((None, 4), name="input")
    x = layers.Add(name="sum")([inputs, layers.LSTM(4, return_sequences=True, name="steps")(inputs)])
    x = layers.Dense(4, name="hidden")(layers.GlobalAveragePooling1D(name="average")(x))
    model = keras.Model(inputs, layers.Dense(2, name="out")(x))
    randomize(model, 0)
    assert list(droppable_blocks(model)) == ["sum", "hidden"]
    x = layers.GlobalAveragePooling1D()(model.input)
    expected = keras.Model(model.input, model.get_layer("out")(x))
    steps = np.random.default_rng(0).normal(size=(3, 7, 4)).astype("float32")
    dropped = drop_blocks(model, ["sum", "hidden"])
    assert relative_difference(answers(dropped, steps), answers(expected, steps)) < 1e-5


def test_an_unknown_block_is_named_and_near_ones_are_offered() -> None:
    with pytest.raises(ModelError) as error:
        drop_blocks(chain(), ["b_rely"])
    assert str(error.value) == ("network has no block 'b_rely' that can be dropped: did you mean b_relu or c_relu?")


# Built-in networks.

SMALL: dict[str, dict[str, Any]] = {
    "resnet-8": {"width": 8},
    "resnet-20": {"width": 8},
    "mobilenet-v1": {"width": 0.25},
    "mobilenet-v2": {"width": 0.25},
    "mobilenet-v3-small": {"width": 0.25},
    "squeezenet": {},
    "vgg-16": {"width": 0.25},
    "ds-cnn": {},
}


BIG = ("resnet-20", "mobilenet-v1", "mobilenet-v2", "mobilenet-v3-small")


@functools.cache
def built_in(name: str) -> Any:
    model = ARCHITECTURES[name](SPECS["image"], 10, **SMALL[name])
    randomize(model, 0)
    return model


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in BIG else ()) for name in SMALL])
def test_each_block_of_a_built_in_network_can_be_dropped(name: str) -> None:
    model = built_in(name)
    for block in droppable_blocks(model).values():
        dropped = drop_blocks(model, [block.name])
        assert dropped.output_shape == model.output_shape
        assert dropped.input_shape == model.input_shape
        assert count_macs(model) - count_macs(dropped) == block.macs > 0
        assert set(layer_names(model)) - set(layer_names(dropped)) == set(block.layers)


@pytest.mark.parametrize("name", SMALL)
def test_a_built_in_network_without_all_of_its_blocks_can_be_saved(name: str, tmp_path: Path) -> None:
    model = built_in(name)
    dropped = drop_blocks(model, list(droppable_blocks(model)))
    assert_survives(dropped, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_a_built_in_network_without_any_of_its_blocks_can_be_saved(name: str, tmp_path: Path) -> None:
    model = built_in(name)
    for block in droppable_blocks(model):
        assert_survives(drop_blocks(model, [block]), tmp_path)


def assert_survives(model: Any, tmp_path: Path) -> None:
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    x = examples(SPECS["image"])
    np.testing.assert_allclose(answers(loaded, x), answers(model, x), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet-20", ["stage1_block1_add", "stage2_block1_add", "stage3_block3_second_norm"]),
        ("mobilenet-v1", ["block3_spatial_relu6", "block3_pointwise_relu6"]),
        ("mobilenet-v2", ["block3_add", "block3_spatial_relu6"]),
        ("mobilenet-v3-small", ["block4_excite_scale", "block5_add"]),
        ("ds-cnn", ["block1_spatial_relu", "block4_pointwise_relu"]),
        ("vgg-16", ["stage1_step2_relu", "stage5_step3_relu"]),
        ("squeezenet", ["fire3_join", "fire5_join"]),
    ],
)
def test_the_blocks_that_one_would_expect_are_found(name: str, expected: list[str]) -> None:
    assert set(expected) <= set(droppable_blocks(built_in(name)))


# Which blocks matter.


@pytest.fixture(scope="module")
def data(digits: Dataset) -> TrainingData:
    full = TrainingData.of(digits, split_indices(digits, 0))
    return dataclasses.replace(full, train=full.train[:512])


@pytest.fixture(scope="module")
def trained(data: TrainingData) -> Any:
    """A network of three residual blocks after some epochs, of which the second does nothing."""
    make_deterministic(0)
    inputs = keras.Input((8, 8, 1), name="input")
    x = conv(layers.Rescaling(1 / 16, name="scale")(inputs), 8, "stem")
    for number in (1, 2, 3):
        x = layers.Add(name=f"sum{number}")([x, conv(x, 8, f"arm{number}")])
    x = layers.Flatten(name="flat")(layers.MaxPooling2D(2, name="pool")(x))
    model = keras.Model(inputs, layers.Dense(10, activation="softmax", name="out")(x), name="small")
    train(model, data, epochs=6, learning_rate=0.01)
    return silenced(model, "arm2_norm")


def test_a_block_that_makes_only_zeros_is_dropped_first(trained: Any, data: TrainingData) -> None:
    before = trained.get_weights()
    assert drop_least_harmful(trained, data, 1) == ["sum2"]
    for one, other in zip(trained.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_blocks_that_harm_least_are_dropped_one_after_another(trained: Any, data: TrainingData) -> None:
    first, second = drop_least_harmful(trained, data, 2)
    losses = {name: loss_without(trained, data, [first, name]) for name in ("sum1", "sum2", "sum3") if name != first}
    assert second == min(losses, key=losses.__getitem__)


def loss_without(model: Any, data: TrainingData, names: Sequence[str]) -> float:
    """Cross-entropy on the tune split, as Keras tells it, with batch-norm statistics of train inputs."""
    without = drop_blocks(model, names)
    recalibrate_batch_norm(without, data)
    without.compile(loss="categorical_crossentropy")
    return float(without.evaluate(data.tune_batches(), verbose=0))


def test_more_blocks_than_there_are_cannot_be_dropped(trained: Any, data: TrainingData) -> None:
    with pytest.raises(ModelError, match="^only 3 blocks can be dropped: sum1, sum2, sum3$"):
        drop_least_harmful(trained, data, 4)


def test_blocks_that_went_with_another_are_not_dropped_again(data: TrainingData) -> None:
    inputs = keras.Input((8, 8, 1), name="input")
    x = conv(layers.Rescaling(1 / 16, name="scale")(inputs), 8, "stem")
    x = layers.Add(name="sum")([x, conv(conv(x, 8, "first"), 8, "second")])
    x = layers.GlobalAveragePooling2D(name="average")(x)
    model = keras.Model(inputs, layers.Dense(10, activation="softmax", name="out")(x))
    model = silenced(model, "second_norm")
    assert list(droppable_blocks(model)) == ["second_relu", "sum"]
    randomize_answer(model)
    assert drop_least_harmful(model, data, 2) == ["sum"]


def randomize_answer(model: Any) -> None:
    """Has the answers say something, so that it matters what comes to them."""
    model.get_layer("out").kernel.assign(np.random.default_rng(0).normal(0, 9, (8, 10)))
