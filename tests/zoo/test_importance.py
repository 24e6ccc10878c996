from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import NETWORKS, randomize

from fleetfoot.errors import ModelError, UsageError
from zoo.architectures.grouped import GroupedConv2D
from zoo.backend import keras, tf
from zoo.batches import SMALL_BATCH, TrainingData
from zoo.catalog import InputSpec
from zoo.channels import Flow, Labels, analyse, cuttable_groups, permute_model, rule
from zoo.datasets import Dataset
from zoo.graph import Call
from zoo.importance import CRITERIA, importance, order

layers = keras.layers
Array = npt.NDArray[Any]
Scores = Mapping[str, npt.NDArray[np.float64]]

CLASSES = 4
OF_WEIGHTS = ("l1", "l2", "bn-scale")
OF_DATA = ("taylor", "activation")
every_criterion = pytest.mark.parametrize("criterion", CRITERIA)


def data_for(model: Any, examples: int = 48, seed: int = 0) -> TrainingData:
    """Random inputs with random labels, all to train on."""
    random = np.random.default_rng(seed)
    shape = tuple(model.inputs[0].shape[1:])
    x = random.normal(0, 1, (examples, *shape)).astype(np.float32)
    spec = InputSpec(kind="tensor", shape=shape, dtype="float32", minimum=-5.0, maximum=5.0)
    y = random.integers(CLASSES, size=examples)
    dataset = Dataset("random", x, y, tuple("abcd"), spec)
    return TrainingData(dataset, np.arange(examples), np.arange(0))


def classifier(build: Callable[[], Any], seed: int = 0) -> Any:
    """A network with random weights, whose answers are probabilities."""
    model = build()
    randomize(model, seed)
    return keras.Model(model.input, layers.Softmax(name="probabilities")(model.outputs[0]), name=model.name)


def ended(inputs: Any, x: Any) -> Any:
    return keras.Model(inputs, layers.Dense(CLASSES, name="out")(layers.GlobalAveragePooling2D()(x)))


def grouped() -> Any:
    """A grouped convolution of few groups, all of which are cut alike."""
    inputs = keras.Input((6, 6, 3), name="input")
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 3, name="stem")(inputs)))
    return ended(inputs, layers.Conv2D(12, 3, groups=2, activation="relu", name="grouped")(x))


def blocks() -> Any:
    """A grouped convolution of many groups, which are cut as a whole."""
    inputs = keras.Input((6, 6, 3), name="input")
    x = layers.ReLU()(layers.Conv2D(12, 3, name="stem")(inputs))
    return ended(inputs, GroupedConv2D(12, 3, groups=6, activation="relu", name="grouped")(x))


def multiplied() -> Any:
    """Convolutions that make several channels of each, and what reads them."""
    inputs = keras.Input((6, 6, 3), name="input")
    x = layers.Conv2D(5, 3, activation="relu", name="stem")(inputs)
    x = layers.BatchNormalization()(layers.DepthwiseConv2D(2, depth_multiplier=2, name="depthwise")(x))
    return ended(inputs, layers.SeparableConv2D(6, 3, depth_multiplier=3, activation="tanh", name="separable")(x))


def transposed() -> Any:
    inputs = keras.Input((6, 6, 3), name="input")
    x = layers.PReLU(shared_axes=[1, 2])(layers.Conv2DTranspose(6, 3, strides=2, name="up")(inputs))
    return ended(inputs, layers.Conv2DTranspose(5, 3, activation="relu", name="more")(x))


def nested() -> Any:
    inputs = keras.Input((6, 6, 3), name="inner_input")
    x = layers.BatchNormalization()(layers.Conv2D(5, 3, name="conv")(inputs))
    inner = keras.Model(inputs, layers.ReLU()(x), name="inner")
    inputs = keras.Input((6, 6, 3), name="input")
    return ended(inputs, layers.Conv2D(6, 2, activation="relu", name="last")(inner(inputs)))


BUILDS = {name: network.build for name, network in NETWORKS.items()} | {
    function.__name__: function for function in (grouped, blocks, multiplied, transposed, nested)
}
every_network = pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)


def some_order(model: Any, seed: int) -> dict[str, list[int]]:
    random = np.random.default_rng(seed)
    return {name: random.permutation(group.size).tolist() for name, group in cuttable_groups(model).items()}


def assert_same(one: Scores, other: Scores) -> None:
    assert one.keys() == other.keys()
    for name, values in one.items():
        np.testing.assert_allclose(values, other[name], rtol=2e-4, atol=1e-5 * other[name].max())


# What every criterion promises.


@every_network
def test_every_channel_that_can_be_cut_has_an_importance(build: Callable[[], Any]) -> None:
    model = classifier(build)
    sizes = {name: (group.size,) for name, group in cuttable_groups(model).items()}
    for criterion in CRITERIA:
        scores = importance(model, criterion, data_for(model))
        assert {name: values.shape for name, values in scores.items()} == sizes
        for values in scores.values():
            assert values.dtype == np.float64
            assert np.isfinite(values).all()
            assert (values >= 0).all()
            assert len(np.unique(values)) > 1


@every_network
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=2, deadline=None)
def test_channels_in_another_order_keep_their_norms_and_scales(build: Callable[[], Any], seed: int) -> None:
    model = classifier(build, seed)
    orders = some_order(model, seed)
    permuted = permute_model(model, orders)
    for criterion in OF_WEIGHTS:
        expected = {name: values[orders[name]] for name, values in importance(model, criterion).items()}
        assert_same(importance(permuted, criterion), expected)


@every_network
def test_channels_in_another_order_keep_what_data_say_of_them(build: Callable[[], Any]) -> None:
    model = classifier(build, 1)
    orders, data = some_order(model, 1), data_for(model)
    permuted = permute_model(model, orders)
    for criterion in OF_DATA:
        expected = {name: values[orders[name]] for name, values in importance(model, criterion, data).items()}
        assert_same(importance(permuted, criterion, data), expected)


@every_criterion
def test_a_network_that_was_saved_has_the_same_importance(criterion: str, tmp_path: Path) -> None:
    model = classifier(NETWORKS["residual"].build)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    assert_same(importance(loaded, criterion, data_for(model)), importance(model, criterion, data_for(model)))


@every_criterion
def test_what_was_analysed_before_need_not_be_again(criterion: str) -> None:
    model = classifier(nested)
    data = data_for(model)
    assert_same(importance(analyse(model), criterion, data), importance(model, criterion, data))


@every_criterion
def test_the_network_stays_as_it_was(criterion: str) -> None:
    model = classifier(NETWORKS["chain"].build)
    before = model.get_weights()
    importance(model, criterion, data_for(model))
    for weight, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, old)


@pytest.mark.parametrize("criterion", ["l1", "l2", "taylor"])
def test_a_dead_channel_is_worth_nothing(criterion: str) -> None:
    model = classifier(NETWORKS["chain"].build)
    for layer in (model.get_layer("a"), norms(model)[0]):
        for weight in layer.trainable_variables:
            weight.assign(weight.numpy() * (np.arange(6) != 2))
    scores = importance(model, criterion, data_for(model))
    assert scores["a"][2] == 0
    assert (np.delete(scores["a"], 2) > 0).all()


def norms(model: Any) -> list[Any]:
    return [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]


# Norms.


def magnitudes(kernel: Any, power: int) -> Array:
    """The sum of powers for each of a kernel's outputs, which are last."""
    values: Array = (np.abs(kernel.numpy().astype(np.float64)) ** power).reshape(-1, kernel.shape[-1]).sum(axis=0)
    return values


@pytest.mark.parametrize("power", [1, 2])
def test_a_norm_is_over_the_kernels_of_all_layers_that_make_the_channel(power: int) -> None:
    model = classifier(NETWORKS["residual"].build)
    scores = importance(model, f"l{power}")
    first, second, stem = (magnitudes(model.get_layer(name).kernel, power) for name in ("first", "second", "stem"))
    np.testing.assert_allclose(scores["stem"], (stem + second) ** (1 / power))
    np.testing.assert_allclose(scores["first"], first ** (1 / power))


@pytest.mark.parametrize("power", [1, 2])
def test_a_channel_of_several_filters_has_the_norm_of_all(power: int) -> None:
    alike, whole = classifier(grouped), classifier(blocks)
    kernel = magnitudes(alike.get_layer("grouped").kernel, power).reshape(2, 6).sum(axis=0)
    np.testing.assert_allclose(importance(alike, f"l{power}")["grouped"], kernel ** (1 / power))
    both = [magnitudes(whole.get_layer(name).kernel, power) for name in ("stem", "grouped")]
    expected = np.sum([powers.reshape(6, 2).sum(axis=1) for powers in both], axis=0)
    np.testing.assert_allclose(importance(whole, f"l{power}")["stem"], expected ** (1 / power))


def test_the_norm_of_a_separable_convolution_is_of_what_makes_its_channels() -> None:
    model = classifier(multiplied)
    pointwise = magnitudes(model.get_layer("separable").pointwise_kernel, 1)
    np.testing.assert_allclose(importance(model, "l1")["separable"], pointwise)


def test_a_transposed_kernel_has_its_outputs_before_its_inputs() -> None:
    model = classifier(transposed)
    kernel = np.abs(model.get_layer("up").kernel.numpy()).sum(axis=(0, 1, 3))
    np.testing.assert_allclose(importance(model, "l1")["up"], kernel, rtol=1e-5)


# Scales of batch norms.


def test_the_scale_of_a_channel_is_that_of_its_batch_norm() -> None:
    model = classifier(NETWORKS["chain"].build)
    np.testing.assert_allclose(importance(model, "bn-scale")["a"], np.abs(norms(model)[0].gamma.numpy()))


def test_of_several_batch_norms_the_mean_scale_counts() -> None:
    model = classifier(NETWORKS["residual"].build)
    scales = {norm.input._keras_history.operation.name: np.abs(norm.gamma.numpy()) for norm in norms(model)}
    expected = (scales["stem"] + scales["second"]) / 2
    np.testing.assert_allclose(importance(model, "bn-scale")["stem"], expected, rtol=1e-6)


def test_a_batch_norm_behind_joined_channels_counts_for_those_that_are_the_group_s() -> None:
    inputs = keras.Input((6, 6, 3), name="input")
    joined = layers.Concatenate()([layers.Conv2D(4, 1, name="left")(inputs), layers.Conv2D(6, 1, name="right")(inputs)])
    model = ended(inputs, layers.BatchNormalization(name="norm")(joined))
    randomize(model, 0)
    gamma = np.abs(model.get_layer("norm").gamma.numpy())
    scores = importance(model, "bn-scale")
    np.testing.assert_allclose(scores["left"], gamma[:4])
    np.testing.assert_allclose(scores["right"], gamma[4:])


def test_channels_without_a_scale_go_by_their_norms() -> None:
    model = classifier(
        NETWORKS["chain"].build
    )  # of which one batch norm has no scale, and the hidden layer none at all
    scales, by_norm = importance(model, "bn-scale"), importance(model, "l2")
    for name in ("b", "hidden"):
        np.testing.assert_array_equal(scales[name], by_norm[name])


# The first-order change of the loss.


def linear(kernel: Array, out: Array) -> Any:
    """Two dense layers without biases, and a softmax."""
    inputs = keras.Input((kernel.shape[0],), name="input")
    hidden = layers.Dense(kernel.shape[1], use_bias=False, name="hidden")(inputs)
    model = keras.Model(inputs, layers.Dense(CLASSES, "softmax", use_bias=False, name="out")(hidden))
    model.set_weights([kernel, out])
    return model


def batches_of(data: TrainingData) -> list[tuple[Array, Array]]:
    return list(data.train_batches(seed=0))


@pytest.mark.parametrize(("batches", "used"), [(1, 1), (2, 2), (100, 2)])
def test_taylor_is_the_weight_times_the_sum_of_its_gradients(batches: int, used: int) -> None:
    random = np.random.default_rng(0)
    kernel, out = (random.normal(0, 1, shape).astype(np.float32) for shape in ((3, 5), (5, CLASSES)))
    model = linear(kernel, out)
    data = data_for(model, SMALL_BATCH + 10)
    gradient = np.zeros((3, 5))
    for x, targets in batches_of(data)[:used]:
        wrong = (model(x).numpy() - targets) / len(x)  # the derivative of a softmax's cross-entropy by its logits
        gradient += x.T @ wrong @ out.T
    scores = importance(model, "taylor", data, batches=batches)
    np.testing.assert_allclose(scores["hidden"], np.abs(kernel * gradient).sum(axis=0), rtol=1e-4)


def test_taylor_tells_which_of_two_channels_with_equal_norms_matters() -> None:
    kernel = np.array([[1, 0], [0, 1], [1, 1]], np.float32)
    out = np.array([[2, -1, 0, 1], [0, 0, 0, 0]], np.float32)
    model = linear(kernel, out)
    by_norm = importance(model, "l2")["hidden"]
    assert by_norm[0] == by_norm[1]
    heard, unheard = importance(model, "taylor", data_for(model))["hidden"]
    assert heard > 0
    assert unheard == 0


@pytest.mark.parametrize("name", ["chain", "separable", "concatenate"])
def test_taylor_counts_kernels_biases_batch_norms_and_depthwise_kernels(name: str) -> None:
    model = classifier(NETWORKS[name].build)
    data = data_for(model)
    own = {
        "chain": ("a", [("a", -1), ("batch_normalization", -1)]),
        "separable": ("stem", [("stem", -1), ("batch_normalization", -1), ("depthwise", -2),
                               ("batch_normalization_1", -1)]),
        "concatenate": ("right", [("right", -1)]),
    }[name]  # fmt: skip
    expected = 0
    for layer_name, axis in own[1]:
        layer = model.get_layer(layer_name) if "batch" not in layer_name else norms(model)[layer_name.endswith("_1")]
        for weight in layer.trainable_variables:
            change = np.abs(weight.numpy() * gradient_of(model, weight, data))
            change = np.moveaxis(change, axis if change.ndim > 1 else -1, -1)
            expected = expected + change.reshape(-1, change.shape[-1]).sum(axis=0)
    np.testing.assert_allclose(importance(model, "taylor", data)[own[0]], expected, rtol=1e-3)


def gradient_of(model: Any, weight: Any, data: TrainingData) -> Array:
    total = 0
    for x, targets in batches_of(data):
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(tf.reduce_sum(targets * tf.math.log(model(x, training=False)), axis=1))
        total = total + tape.gradient(loss, weight.value).numpy()
    return np.asarray(total)


@pytest.mark.parametrize("frozen", ["all", "a"])
def test_frozen_layers_have_the_same_importance(frozen: str) -> None:
    model = classifier(NETWORKS["chain"].build)
    data = data_for(model)
    expected = importance(model, "taylor", data)
    (model if frozen == "all" else model.get_layer(frozen)).trainable = False
    assert_same(importance(model, "taylor", data), expected)
    assert not model.get_layer("a").trainable


def test_statistics_of_batch_norms_are_no_weights_of_a_channel() -> None:
    inputs = keras.Input((3,), name="input")
    x = layers.BatchNormalization(center=False, scale=False, name="norm")(layers.Dense(5, name="hidden")(inputs))
    model = keras.Model(inputs, layers.Dense(CLASSES, "softmax", name="out")(x))
    randomize(model, 0)
    hidden = model.get_layer("hidden")
    hidden.set_weights([weight * 0 for weight in hidden.get_weights()])
    np.testing.assert_array_equal(importance(model, "taylor", data_for(model))["hidden"], 0)


# Activations.


def seen(model: Any, tensor: Any, data: TrainingData) -> Array:
    """The mean magnitude at each position of a tensor, over the train split."""
    inner = keras.Model(model.input, tensor)
    values: Array = np.abs(inner(data.dataset.x[data.train], training=False).numpy()).mean(axis=0)
    return values


def test_an_activation_is_the_mean_magnitude_that_is_read() -> None:
    model = classifier(NETWORKS["chain"].build)
    data = data_for(model)
    scores = importance(model, "activation", data)
    for name, reader in (("a", "b"), ("b", "hidden"), ("hidden", "out")):
        expected = seen(model, model.get_layer(reader).input, data)
        expected = expected.reshape(-1, expected.shape[-1]).mean(axis=0)
        np.testing.assert_allclose(scores[name], expected, rtol=1e-4)


def test_a_channel_that_was_flattened_is_read_at_each_of_its_pixels() -> None:
    model = classifier(NETWORKS["flatten"].build)
    data = data_for(model)
    expected = seen(model, model.get_layer("hidden").input, data).reshape(-1, 4).mean(axis=0)
    np.testing.assert_allclose(importance(model, "activation", data)["a"], expected, rtol=1e-4)


def test_of_several_readers_the_mean_counts() -> None:
    model = classifier(NETWORKS["residual"].build)
    data = data_for(model)
    first = seen(model, model.get_layer("first").input, data).mean(axis=(0, 1))
    out = seen(model, model.get_layer("out").input, data)
    np.testing.assert_allclose(importance(model, "activation", data)["stem"], (first + out) / 2, rtol=1e-4)


def test_all_blocks_that_a_grouped_convolution_reads_count() -> None:
    model = classifier(grouped)
    data = data_for(model)
    expected = seen(model, model.get_layer("grouped").input, data).mean(axis=(0, 1)).reshape(2, 4).mean(axis=0)
    np.testing.assert_allclose(importance(model, "activation", data)["stem"], expected, rtol=1e-4)


def test_channels_that_come_first_are_found() -> None:
    inputs = keras.Input((3, 6, 6), name="input")
    options: dict[str, Any] = {"data_format": "channels_first"}
    x = layers.Conv2D(5, 3, activation="relu", name="a", **options)(inputs)
    x = layers.GlobalAveragePooling2D(**options)(layers.Conv2D(6, 3, activation="relu", name="b", **options)(x))
    model = keras.Model(inputs, layers.Dense(CLASSES, "softmax", name="out")(x))
    randomize(model, 0)
    data = data_for(model)
    expected = seen(model, model.get_layer("b").input, data).mean(axis=(1, 2))
    np.testing.assert_allclose(importance(model, "activation", data)["a"], expected, rtol=1e-4)


def test_only_as_many_batches_as_are_wanted_are_looked_at() -> None:
    model = classifier(NETWORKS["waveform"].build)
    data = data_for(model, SMALL_BATCH + 10)
    (first, _), _ = batches_of(data)
    dataset = dataclasses.replace(data.dataset, x=first, y=data.dataset.y[: len(first)])
    alone = TrainingData(dataset, np.arange(len(first)), data.tune)
    assert_same(importance(model, "activation", data, batches=1), importance(model, "activation", alone))


def test_inputs_may_be_integers() -> None:
    inputs = keras.Input((4,), name="input")
    x = layers.Dense(6, activation="relu", name="hidden")(layers.Rescaling(1 / 255)(inputs))
    model = keras.Model(inputs, layers.Dense(CLASSES, "softmax", name="out")(x))
    data = data_for(model)
    pixels = np.random.default_rng(0).integers(256, size=data.dataset.x.shape).astype(np.uint8)
    integers, floats = (
        dataclasses.replace(data, dataset=dataclasses.replace(data.dataset, x=pixels.astype(dtype)))
        for dtype in (np.uint8, np.float32)
    )
    for criterion in OF_DATA:
        assert_same(importance(model, criterion, integers), importance(model, criterion, floats))


# At random.


def test_random_importance_depends_on_the_seed_and_the_group_s_name_alone() -> None:
    model = classifier(NETWORKS["pooled"].build)
    one = importance(model, "random", seed=1)
    assert_same(one, importance(classifier(NETWORKS["pooled"].build, 5), "random", seed=1))
    assert not np.allclose(one["a"], one["b"][:5])
    assert not np.allclose(one["a"], importance(model, "random", seed=2)["a"])
    wider = importance(classifier(NETWORKS["chain"].build), "random", seed=1)
    np.testing.assert_array_equal(wider["a"][:5], one["a"])


# Orders.


def test_the_most_important_channel_is_first_and_equal_ones_stay_in_order() -> None:
    scores = {"a": np.array([1.0, 3, 2, 3]), "b": np.zeros(3)}
    assert order(scores) == {"a": [1, 3, 2, 0], "b": [0, 1, 2]}


@given(values=st.lists(st.floats(0, 1e300), min_size=1))
def test_an_order_is_a_permutation_by_falling_importance(values: list[float]) -> None:
    (indices,) = order({"a": np.array(values)}).values()
    assert sorted(indices) == list(range(len(values)))
    assert np.all(np.diff(np.array(values)[indices]) <= 0)


def test_a_network_reordered_by_importance_is_in_order() -> None:
    model = classifier(NETWORKS["gate"].build)
    ordered = permute_model(model, order(importance(model, "l2")))
    for indices in order(importance(ordered, "l2")).values():
        assert indices == list(range(len(indices)))


# What is refused.


def test_an_unknown_criterion_is_refused_offering_the_nearest() -> None:
    model = classifier(NETWORKS["chain"].build)
    with pytest.raises(UsageError, match="there is no criterion 'tailor': did you mean taylor"):
        importance(model, "tailor")
    with pytest.raises(UsageError, match="there are taylor, l1, l2, bn-scale, activation, random"):
        importance(model, "geometric-median")


@pytest.mark.parametrize("criterion", OF_DATA)
def test_a_criterion_that_looks_at_data_needs_some(criterion: str) -> None:
    model = classifier(NETWORKS["chain"].build)
    none = dataclasses.replace(data_for(model), train=np.arange(0))
    for data in (None, none):
        with pytest.raises(UsageError, match=f"the criterion {criterion} looks at training data, and there is none"):
            importance(model, criterion, data)


@pytest.mark.parametrize("batches", [0, -1])
def test_no_batches_are_refused(batches: int) -> None:
    model = classifier(NETWORKS["chain"].build)
    with pytest.raises(UsageError, match=f"at least one batch, and {batches} is none"):
        importance(model, "taylor", data_for(model), batches=batches)


@every_criterion
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_named(criterion: str, value: float) -> None:
    model = classifier(NETWORKS["chain"].build)
    bias = model.get_layer("out").bias
    bias.assign(np.array([0, value, 0, 0], np.float32))
    with pytest.raises(ModelError, match="has weights that are no numbers in layer out: bias"):
        importance(model, criterion, data_for(model))


@pytest.mark.parametrize("criterion", OF_DATA)
def test_inputs_that_are_no_numbers_give_no_importance(criterion: str) -> None:
    model = classifier(NETWORKS["chain"].build)
    data = data_for(model)
    data.dataset.x[3] = np.nan
    with pytest.raises(ModelError, match=f"gives {criterion} importances that are no numbers in group a"):
        importance(model, criterion, data)


class Total(layers.Layer):  # type: ignore[misc]
    """The sum over all channels, which reads them without weights."""

    def call(self, x: Any) -> Any:
        return keras.ops.sum(x, axis=-1, keepdims=True)


@rule(Total)
def total(call: Call, incoming: list[Labels], flow: Flow) -> Labels:
    return np.full((1,), -1)


def test_channels_that_no_layer_says_to_read_have_no_activation() -> None:
    inputs = keras.Input((4,), name="input")
    x = Total()(layers.Dense(6, activation="relu", name="hidden")(inputs))
    model = keras.Model(inputs, layers.Dense(CLASSES, "softmax", name="out")(x))
    with pytest.raises(ModelError, match="no layer says that it reads group hidden"):
        importance(model, "activation", data_for(model))
    assert importance(model, "taylor", data_for(model))["hidden"].shape == (6,)


def test_a_network_with_nothing_to_cut_is_refused() -> None:
    inputs = keras.Input((4,), name="input")
    with pytest.raises(ModelError, match="no channels that can be cut"):
        importance(keras.Model(inputs, layers.Dense(2, name="out")(inputs)), "l2")
