"""What is not known is not guessed: channels that come into it stay, and all the others can be cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from networks import answers, inputs_for, randomize, relative_difference

from fleetfoot.errors import ModelError
from zoo.backend import keras
from zoo.channels import analyse, channel_groups, cuttable_groups, permute_model, rule, slice_model
from zoo.channels.flow import Flow, Labels
from zoo.graph import Call

layers = keras.layers


class Own(keras.layers.Layer):  # type: ignore[misc]
    """A layer that nobody told of."""

    def call(self, x: Any) -> Any:
        """Turns the channels round."""
        return keras.ops.flip(x, -1)


class OwnConvolution(keras.layers.Conv2D):  # type: ignore[misc]
    """A convolution that sees its channels in another order."""

    def call(self, x: Any) -> Any:
        """Turns the channels round."""
        return super().call(keras.ops.flip(x, -1))


class OwnModel(keras.Model):  # type: ignore[misc]
    """A model that shows no layers."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.convolution = layers.Conv2D(8, 1)

    def call(self, x: Any) -> Any:
        """A convolution."""
        return self.convolution(x)


class Scaled(keras.layers.Layer):  # type: ignore[misc]
    """A factor for each channel."""

    def build(self, shape: Any) -> None:
        """The factors."""
        self.scale = self.add_weight(shape=(shape[-1],), name="scale")

    def call(self, x: Any) -> Any:
        """The product."""
        return x * self.scale


class Halves(keras.layers.Layer):  # type: ignore[misc]
    """Makes two tensors."""

    def call(self, x: Any) -> Any:
        """Each half of the channels."""
        return tuple(keras.ops.split(x, 2, axis=-1))


def attend(x: Any) -> Any:
    return layers.MultiHeadAttention(2, 4)(x, x)


def on_pixels(layer: Any) -> Callable[[Any], Any]:
    """A layer of sequences, on the pixels one after another."""

    def call(x: Any) -> Any:
        return layers.Reshape((6, 6, -1))(layer(layers.Reshape((36, 8))(x)))

    return call


def both_halves(x: Any) -> Any:
    one, other = Halves()(x)
    return layers.Concatenate()([other, one])


NUMBERS = np.arange(8, dtype=np.float32)
UNKNOWN: dict[str, tuple[Any, str]] = {
    "softmax": (layers.Softmax(), "Softmax"),
    "activation-softmax": (layers.Activation("softmax"), "Activation"),
    "activation-of-ones-own": (layers.Activation(lambda x: x[..., ::-1]), "Activation"),
    "activation-with-weights": (layers.Activation(layers.PReLU(shared_axes=[1, 2])), "Activation"),
    "attention": (attend, "MultiHeadAttention"),
    "lambda": (layers.Lambda(lambda x: x[..., ::-1], output_shape=(6, 6, 8)), "Lambda"),
    "own": (Own(), "Own"),
    "own-convolution": (OwnConvolution(8, 1), "OwnConvolution"),
    "own-model": (OwnModel(name="own"), "OwnModel"),
    "spectral": (layers.SpectralNormalization(layers.Conv2D(8, 1)), "SpectralNormalization"),
    "lstm": (on_pixels(layers.LSTM(8, return_sequences=True)), "LSTM"),
    "gru": (on_pixels(layers.GRU(8, return_sequences=True)), "GRU"),
    "bidirectional": (on_pixels(layers.Bidirectional(layers.GRU(4, return_sequences=True))), "Bidirectional"),
    "each-time": (layers.TimeDistributed(layers.Dense(8)), "TimeDistributed"),
    "two-tensors": (both_halves, "Halves"),
    "einsum": (layers.EinsumDense("abcd,de->abce", (6, 6, 8)), "EinsumDense"),
    "dropout-of-so-many": (layers.Dropout(0.1, noise_shape=(None, 1, 1, 8)), "Dropout"),
    "plus-numbers": (lambda x: x + NUMBERS, "Add"),
    "plus-named-numbers": (lambda x: keras.ops.add(x1=x, x2=NUMBERS), "Add"),
    "add-numbers": (lambda x: layers.Add()([x, np.tile(NUMBERS, (5, 6, 6, 1))]), "Add"),
    "clip-to-numbers": (lambda x: keras.ops.clip(x, -NUMBERS - 1, NUMBERS), "Clip"),
    "reversed": (lambda x: keras.ops.flip(x, -1), "Flip"),
    "another-rank": (lambda x: layers.Add()([x, layers.GlobalAveragePooling2D()(x)]), "Add"),
    "rescaling-of-pictures": (layers.Rescaling(np.ones((6, 6, 8)).tolist()), "Rescaling"),
    "normalization-of-rows": (layers.Normalization(axis=(1, 3), mean=np.ones((6, 8)), variance=np.ones((6, 8))),
                              "Normalization"),
}  # fmt: skip


def network(unknown: Callable[[Any], Any]) -> Any:
    """Something behind a convolution ``a``, with a convolution ``b`` behind it."""
    inputs = keras.Input((6, 6, 3), name="input")
    x = unknown(layers.Conv2D(8, 1, name="a")(inputs))
    x = layers.Conv2D(8, 2, name="b")(x)
    return keras.Model(inputs, layers.Dense(4, name="out")(layers.GlobalAveragePooling2D()(x)))


def assert_permutes(model: Any) -> None:
    """All that is said to be cuttable can be turned round."""
    channels = analyse(model)
    x = inputs_for(model)
    order = {name: list(reversed(range(group.size))) for name, group in channels.cuttable.items()}
    assert relative_difference(answers(permute_model(channels, order), x), answers(model, x)) < 1e-5


@pytest.mark.parametrize(("unknown", "type_name"), UNKNOWN.values(), ids=list(UNKNOWN))
def test_channels_that_come_into_an_unknown_layer_are_kept(unknown: Any, type_name: str) -> None:
    model = network(unknown)
    channels = analyse(model)
    reason = f"how {type_name} treats channels is not known"
    assert reason in channels.groups["a"].fixed
    with pytest.raises(ModelError, match=f"group a cannot be cut: it comes into .*{reason}"):
        slice_model(channels, {"a": 4})
    assert "b" in channels.cuttable  # what lies behind it can be cut all the same


def test_what_lies_behind_an_unknown_layer_is_cut_rightly() -> None:
    model = network(Own())
    randomize(model, 0)
    assert_permutes(model)
    assert slice_model(model, {"b": 4}).get_layer("b").filters == 4


@pytest.mark.parametrize(
    "tying",
    [
        layers.BatchNormalization(axis=1),
        layers.BatchNormalization(axis=2),
        layers.GroupNormalization(2, axis=1),
        layers.Permute((3, 1, 2)),
    ],
    ids=["batch-norm-of-rows", "batch-norm-of-columns", "group-norm-of-rows", "channels-as-rows"],
)
def test_a_layer_that_works_along_another_axis_keeps_all_channels_or_treats_them_alike(tying: Any) -> None:
    inputs = keras.Input((6, 6, 3), name="input")
    x = layers.Conv2D(6, 2, padding="same", name="b")(tying(layers.Conv2D(6, 1, name="a")(inputs)))
    model = keras.Model(inputs, layers.Dense(4, name="out")(layers.GlobalAveragePooling2D()(x)))
    randomize(model, 0)
    assert_permutes(model)


def test_channels_as_rows_of_a_picture_hang_together() -> None:
    model = network(layers.Permute((3, 1, 2)))
    assert channel_groups(model)["a"].fixed == "all its channels hang together"


def test_a_quantized_layer_is_left_as_it_is() -> None:
    inputs = keras.Input((5,), name="input")
    layer = layers.Dense(6, name="b")
    x = layers.Dense(7, name="c")(layer(layers.Dense(8, name="a")(inputs)))
    model = keras.Model(inputs, layers.Dense(4, name="out")(x))
    layer.quantize("int8")
    assert list(cuttable_groups(model)) == ["c"]
    assert "how Dense treats channels is not known" in channel_groups(model)["a"].fixed
    assert "how Dense treats channels is not known" in channel_groups(model)["b"].fixed
    assert_permutes(model)


def test_a_layer_with_an_adapter_is_left_as_it_is() -> None:
    inputs = keras.Input((5,), name="input")
    layer = layers.Dense(6, name="b")
    x = layer(layers.Dense(8, name="a")(inputs))
    model = keras.Model(inputs, layers.Dense(4, name="out")(layers.Dense(7, name="c")(x)))
    layer.enable_lora(2)
    assert list(cuttable_groups(model)) == ["c"]
    assert_permutes(model)


def test_a_mask_that_is_handed_to_a_layer_is_kept() -> None:
    inputs = keras.Input((6, 3), name="input")
    x = layers.Conv1D(8, 1, name="a")(inputs)
    mask = layers.Reshape((6,))(layers.Dense(1, name="mask")(x))
    pooled = layers.GlobalAveragePooling1D()(x, mask=mask > 0)
    model = keras.Model(inputs, layers.Dense(4, name="out")(pooled))
    assert "how GlobalAveragePooling1D treats channels is not known" in channel_groups(model)["a"].fixed


def test_axes_of_a_normalization_in_another_order_are_not_known() -> None:
    groups = channel_groups(network(layers.LayerNormalization(axis=[-1, 1, 2])))
    assert "how LayerNormalization treats channels is not known" in groups["a"].fixed


def test_examples_side_by_side_are_not_known() -> None:
    groups = channel_groups(network(lambda x: layers.Concatenate(axis=0)([x, x])))
    assert "how Concatenate treats channels is not known" in groups["a"].fixed


def test_pictures_of_any_size_that_are_shaped_anew_are_not_known() -> None:
    inputs = keras.Input((None, 3), name="input")
    x = layers.Reshape((-1, 8))(layers.Conv1D(8, 1, name="a")(inputs))
    model = keras.Model(inputs, layers.Dense(4, name="out")(layers.GlobalAveragePooling1D()(x)))
    assert "how Reshape treats channels is not known" in channel_groups(model)["a"].fixed


def test_what_is_shaped_to_different_sizes_by_one_layer_is_kept() -> None:
    short, long = keras.Input((4, 3), name="short"), keras.Input((8, 3), name="long")
    reshape = layers.Reshape((-1, 8))
    pools = [
        layers.GlobalAveragePooling1D()(reshape(layers.Conv1D(8, 1, name=name)(x)))
        for name, x in (("a", short), ("b", long))
    ]
    x = layers.Dense(6, name="c")(layers.Concatenate()(pools))
    model = keras.Model([short, long], layers.Dense(4, name="out")(x))
    assert list(cuttable_groups(model)) == ["c"]
    assert_permutes(model)
    assert slice_model(model, {"c": 3}).output.shape == (None, 4)


def test_a_shared_normalization_of_what_has_other_channels_cuts_each_by_itself() -> None:
    inputs = keras.Input((5,), name="input")
    norm = layers.UnitNormalization()
    x = layers.Concatenate()([norm(layers.Dense(size, name=name)(inputs)) for name, size in (("a", 6), ("b", 8))])
    model = keras.Model(inputs, layers.Dense(4, name="out")(x))
    randomize(model, 0)
    assert_permutes(model)
    assert set(cuttable_groups(model)) == {"a", "b"}


def test_maps_one_above_the_other_are_cut_alike_even_if_nothing_reads_both() -> None:
    inputs = keras.Input((2, 3), name="input")
    maps = [layers.Conv1D(5, 1, name=name)(inputs) for name in "ab"]
    model = keras.Model(inputs, layers.Dense(4, name="out")(layers.Flatten()(layers.Concatenate(axis=1)(maps))))
    randomize(model, 0)
    (group,) = cuttable_groups(model).values()
    assert set(group.producers) == {"a", "b"}
    assert_permutes(model)
    assert slice_model(model, {group.name: 2}).output.shape == (None, 4)


def test_channels_with_an_activation_that_has_weights_are_kept() -> None:
    inputs = keras.Input((5,), name="input")
    x = layers.Dense(6, activation=layers.PReLU(), name="a")(inputs)
    model = keras.Model(inputs, layers.Dense(4, name="out")(layers.Dense(7, name="b")(x)))
    assert channel_groups(model)["a"].fixed == "the PReLU of a may compare channels"


def test_a_layer_whose_activation_is_a_layer_is_cut() -> None:
    inputs = keras.Input((5,), name="input")
    x = layers.Dense(6, activation=layers.LeakyReLU(0.3), name="a")(inputs)
    x = layers.Dense(6, activation=layers.ReLU(max_value=1), name="b")(x)
    model = keras.Model(inputs, layers.Dense(4, name="out")(x))
    randomize(model, 0)
    assert list(cuttable_groups(model)) == ["a", "b"]
    assert_permutes(model)


def test_layers_of_other_number_formats_stay_of_these() -> None:
    inputs = keras.Input((5,), name="input")
    x = layers.Dense(6, dtype="float64", name="a")(inputs)
    x = layers.Dense(6, dtype="mixed_float16", activation="relu", name="b")(x)
    model = keras.Model(inputs, layers.Dense(4, name="out")(x))
    sliced = slice_model(model, {"a": 3, "b": 2})
    assert [sliced.get_layer(name).dtype_policy.name for name in "ab"] == ["float64", "mixed_float16"]
    assert sliced.get_layer("a").kernel.shape == (5, 3)


@pytest.mark.parametrize("inside", [True, False])
def test_a_tensor_that_is_an_answer_and_read_inside_is_kept(inside: bool) -> None:
    inputs = keras.Input((5,), name="input")
    x = layers.Dense(6, name="a")(inputs)
    end = layers.Dense(4, name="out")(layers.ReLU()(x))
    model = keras.Model(inputs, [end, x] if inside else end)
    assert channel_groups(model)["a"].fixed == ("it is the network's answer" if inside else "")


def test_a_layer_of_ones_own_is_cut_once_it_has_a_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(Scaled(name="scaled"))
    assert "how Scaled treats channels is not known" in channel_groups(model)["a"].fixed

    monkeypatch.setattr("zoo.channels.rules.registry._LAYERS", {**_rules()})

    @rule(Scaled)
    def scaled(call: Call, incoming: list[Labels], flow: Flow) -> Labels:
        into = flow.along(incoming[0], -1, call.inputs[0].shape[1:], call.layer)
        flow.take_part(call.layer, {"scale": {-1: into}})
        return incoming[0]

    randomize(model, 0)
    assert_permutes(model)
    assert slice_model(model, {"a": 4}).get_layer("scaled").scale.shape == (4,)


def _rules() -> dict[type, Any]:
    from zoo.channels.rules import registry

    return dict(registry._LAYERS)
