from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import answers

from fleetfoot.errors import ModelError, UsageError
from zoo.backend import keras
from zoo.catalog import InputSpec
from zoo.channels import cuttable_groups, slice_model
from zoo.datasets import Dataset
from zoo.models import base_model, image_size

layers = keras.layers
call_quietly = pytest.mark.filterwarnings("ignore:The structure of `inputs`:UserWarning")


def load_base(path: Path, dataset: Dataset) -> Any:
    return base_model(str(path), dataset, np.arange(min(100, len(dataset.y)))).model


def saved(model: Any, tmp_path: Path) -> Path:
    path: Path = tmp_path / "model.keras"
    model.save(path)
    return path


def functional(outputs: int = 10, shape: tuple[int, ...] = (8, 8, 1), activation: str | None = "softmax") -> Any:
    inputs = keras.Input(shape, name="input")
    x = layers.Flatten()(layers.Rescaling(1 / 16)(inputs))
    x = layers.Dense(16, activation="relu", name="hidden")(x)
    return keras.Model(inputs, layers.Dense(outputs, activation=activation, name="out")(x))


def test_a_functional_model_is_loaded_as_it_is(tmp_path: Path, digits: Dataset) -> None:
    model = functional()
    loaded = load_base(saved(model, tmp_path), digits)
    np.testing.assert_array_equal(answers(loaded, digits.x[:3]), answers(model, digits.x[:3]))


@call_quietly
def test_a_sequential_model_becomes_a_functional_one_with_the_same_answers(tmp_path: Path, digits: Dataset) -> None:
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Rescaling(1 / 16), layers.Flatten(), layers.Dense(16, name="hidden"),
         layers.Dense(10, activation="softmax")]
    )  # fmt: skip
    loaded = load_base(saved(model, tmp_path), digits)
    np.testing.assert_array_equal(answers(loaded, digits.x[:3]), answers(model, digits.x[:3]))
    assert list(cuttable_groups(loaded)) == ["hidden"]


@call_quietly
@pytest.mark.parametrize("kind", ["functional", "sequential"])
def test_a_model_whose_layers_nobody_named_can_be_cut(tmp_path: Path, digits: Dataset, kind: str) -> None:
    chain = [layers.Conv2D(16, 3, activation="relu"), layers.Flatten(), layers.Dense(10, activation="softmax")]
    model = keras.Sequential([keras.Input((8, 8, 1)), *chain])
    if kind == "functional":
        inputs = x = keras.Input((8, 8, 1))
        for layer in chain:
            x = layer(x)
        model = keras.Model(inputs, x)
    loaded = load_base(saved(model, tmp_path), digits)
    (group,) = cuttable_groups(loaded)
    assert answers(slice_model(loaded, {group: 8}), digits.x[:3]).shape == (3, 10)


@call_quietly
@pytest.mark.parametrize("ending", ["dense", "activation"])
def test_logits_become_probabilities(tmp_path: Path, digits: Dataset, ending: str) -> None:
    model = functional(activation=None)
    if ending == "activation":
        model = keras.Model(model.inputs, layers.Activation("linear")(model.outputs[0]))
    loaded = load_base(saved(model, tmp_path), digits)
    logits, probabilities = answers(model, digits.x[:3]), answers(loaded, digits.x[:3])
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(probabilities, powers / powers.sum(axis=1, keepdims=True), atol=1e-6)


@call_quietly
@pytest.mark.parametrize("layer", [layers.Softmax(), layers.Activation("softmax")], ids=["layer", "activation"])
def test_a_softmax_of_any_kind_is_not_doubled(tmp_path: Path, digits: Dataset, layer: Any) -> None:
    plain = functional(activation=None)
    model = keras.Model(plain.inputs, layer(plain.outputs[0]))
    loaded = load_base(saved(model, tmp_path), digits)
    np.testing.assert_array_equal(answers(loaded, digits.x[:3]), answers(model, digits.x[:3]))


@pytest.mark.parametrize("kind", ["sequential", "logits"])
def test_a_model_that_was_changed_is_called_without_a_warning(tmp_path: Path, digits: Dataset, kind: str) -> None:
    model = functional(activation=None)
    if kind == "sequential":
        model = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(10, activation="softmax")])
    loaded = load_base(saved(model, tmp_path), digits)
    assert answers(loaded, digits.x[:3]).shape == (3, 10)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (functional(outputs=7), r"answers with shape \(7,\), and digits has 10 classes: retrain its last layer"),
        (functional(shape=(28, 28, 1)), r"takes inputs of shape \(28, 28, 1\), and digits has \(8, 8, 1\)"),
        (functional(activation="sigmoid"), "ends in sigmoid, and must end in logits or a softmax"),
    ],
    ids=["classes", "input", "ending"],
)
def test_a_model_that_does_not_fit_the_data_is_refused_by_name(
    tmp_path: Path, digits: Dataset, model: Any, message: str
) -> None:
    with pytest.raises(ModelError, match=rf"model\.keras {message}"):
        load_base(saved(model, tmp_path), digits)


def test_a_model_of_two_outputs_is_refused(tmp_path: Path, digits: Dataset) -> None:
    one = functional()
    model = keras.Model(one.inputs, [one.outputs[0], layers.Dense(3)(one.outputs[0])])
    with pytest.raises(ModelError, match="has 1 inputs and 2 outputs"):
        load_base(saved(model, tmp_path), digits)


def test_a_model_of_two_inputs_is_refused(tmp_path: Path, digits: Dataset) -> None:
    one, two = keras.Input((8, 8, 1), name="one"), keras.Input((8, 8, 1), name="two")
    x = layers.Flatten()(layers.Add()([one, two]))
    model = keras.Model([one, two], layers.Dense(10, activation="softmax")(x))
    with pytest.raises(ModelError, match="has 2 inputs and 1 outputs"):
        load_base(saved(model, tmp_path), digits)


def test_a_missing_file_is_named(tmp_path: Path, digits: Dataset) -> None:
    with pytest.raises(ModelError, match=r"missing\.keras does not exist"):
        load_base(tmp_path / "missing.keras", digits)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.9])
def test_a_truncated_file_is_named_in_one_line(tmp_path: Path, digits: Dataset, base_file: Path, share: float) -> None:
    data = base_file.read_bytes()
    path = tmp_path / "model.keras"
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ModelError, match=r"model\.keras (is no Keras model|is damaged|cannot be loaded)") as error:
        load_base(path, digits)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("where", [0.3, 0.7, 0.99])
def test_a_damaged_file_is_named_or_its_answers_are_what_they_were(
    tmp_path: Path, digits: Dataset, base_file: Path, where: float
) -> None:
    data = bytearray(base_file.read_bytes())
    start = int(where * len(data))
    data[start : start + 64] = bytes(64)
    path = tmp_path / "model.keras"
    path.write_bytes(data)
    whole = keras.saving.load_model(base_file, compile=False)
    try:
        loaded = load_base(path, digits)
    except ModelError as error:
        assert str(path) in str(error)
    else:
        np.testing.assert_array_equal(answers(loaded, digits.x[:3]), answers(whole, digits.x[:3]))


def test_an_unknown_network_is_refused_naming_those_that_exist(digits: Dataset) -> None:
    with pytest.raises(UsageError, match=r"unknown model 'resnet': give the path of a Keras file .* digits-cnn, "):
        base_model("resnet", digits, np.arange(9))


def test_a_dataset_has_a_network_of_its_own(digits: Dataset) -> None:
    model, trained = base_model(None, digits, np.arange(9))
    assert model.name == "digits-cnn"
    assert model.output_shape == (None, 10)
    assert not trained
    np.testing.assert_allclose(answers(model, digits.x[:3]).sum(axis=1), 1, atol=1e-5)


def test_a_path_is_loaded_as_trained_and_a_name_is_built(digits: Dataset, base_file: Path) -> None:
    loaded, trained = base_model(str(base_file), digits, np.arange(100))
    assert loaded.get_layer("conv1").filters == 32
    assert trained
    assert base_model("digits-cnn", digits, np.arange(9)).model.get_layer("conv1").filters == 176


# --- the scaling of the inputs ---


def scaled_digits(digits: Dataset, low: float, high: float) -> Any:
    """A network, trained in closed form, of digits whose values lie between ``low`` and ``high``."""
    x = (digits.x.reshape(len(digits.x), -1) / 16 * (high - low) + low).astype(np.float64)
    with_bias = np.hstack([x, np.ones((len(x), 1))])
    weights = np.linalg.lstsq(with_bias, 20 * np.eye(10)[digits.y], rcond=None)[0]
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, layers.Dense(10, activation="softmax")(layers.Flatten()(inputs)))
    model.set_weights([weights[:-1], weights[-1]])
    return model


@pytest.mark.parametrize(("low", "high"), [(0, 16), (0, 1), (-1, 1)])
def test_the_scaling_that_a_model_was_trained_with_is_found_and_said(
    tmp_path: Path, digits: Dataset, capsys: pytest.CaptureFixture[str], low: float, high: float
) -> None:
    model = scaled_digits(digits, low, high)
    loaded = base_model(str(saved(model, tmp_path)), digits, np.arange(len(digits.y))).model
    assert f"inputs are scaled to {low} to {high} (right by scaling: " in capsys.readouterr().err
    expected = answers(model, digits.x[:50] / 16 * (high - low) + low)
    np.testing.assert_allclose(answers(loaded, digits.x[:50]), expected, atol=1e-4)


def test_examples_in_the_order_of_their_classes_do_not_mislead_it(tmp_path: Path, digits: Dataset) -> None:
    ordered = np.argsort(digits.y, kind="stable")
    loaded = base_model(str(saved(scaled_digits(digits, 0, 1), tmp_path)), digits, ordered).model
    assert (answers(loaded, digits.x).argmax(axis=1) == digits.y).mean() > 0.9


def test_a_scaling_inside_the_model_is_said(
    tmp_path: Path, digits: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    load_base(saved(functional(), tmp_path), digits)
    assert "the scaling of the inputs is inside the model" in capsys.readouterr().err


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, digits: Dataset, value: float) -> None:
    model = functional()
    weights = model.get_weights()
    weights[0][0, 0] = value
    model.set_weights(weights)
    with pytest.raises(ModelError, match="has weights in layer hidden that are NaN or infinite"):
        load_base(saved(model, tmp_path), digits)


# --- the forms that models come in ---


def photos(examples: int = 40) -> Dataset:
    """Colour images of bytes; those of the second class are brighter."""
    random = np.random.default_rng(0)
    y = np.arange(examples) % 2
    x = (random.integers(0, 128, (examples, 12, 12, 3)) + 100 * y[:, None, None, None]).astype(np.uint8)
    spec = InputSpec(kind="image", shape=(12, 12, 3), dtype="uint8", minimum=0, maximum=255)
    return Dataset("photos", x, y.astype(np.int64), ("dark", "bright"), spec)


def bright(inputs: Any, scale: float = 1 / 255, offset: float = 0.0, **options: Any) -> Any:
    """A network that tells bright images, of values that are scaled so."""
    x = layers.Conv2D(2, 3, name="conv")(inputs)
    model = keras.Model(inputs, layers.Dense(2, activation="softmax")(layers.GlobalAveragePooling2D()(x)), **options)
    kernel = np.zeros((3, 3, 3, 2), np.float32)
    kernel[..., 0] = 1 / 27
    middle = 114 * scale + offset
    weights = [kernel, np.array([-middle, 0]), np.array([[-20, 20], [0, 0]]) / scale / 255, np.zeros(2)]
    model.set_weights(weights)
    return model


def right(model: Any, dataset: Dataset) -> float:
    return float((answers(model, dataset.x).argmax(axis=1) == dataset.y).mean())


def test_a_model_of_images_of_any_size_takes_those_of_the_data(tmp_path: Path) -> None:
    model = bright(keras.Input((None, None, 3)))
    loaded = load_base(saved(model, tmp_path), photos())
    assert loaded.input_shape == (None, 12, 12, 3)
    assert right(loaded, photos()) == 1


def test_a_model_that_was_saved_in_mixed_precision_computes_in_float32(tmp_path: Path) -> None:
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = bright(keras.Input((12, 12, 3)))
    finally:
        keras.config.set_dtype_policy("float32")
    loaded = load_base(saved(model, tmp_path), photos())
    assert {layer.compute_dtype for layer in loaded.layers if layer.weights} == {"float32"}
    assert loaded.outputs[0].dtype == "float32"
    assert right(loaded, photos()) == 1


def test_a_layer_that_rescales_elsewhere_is_no_scaling_of_the_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = bright(keras.Input((12, 12, 3)))
    later = keras.Model(model.inputs[0], layers.Rescaling(1.0)(model.outputs[0]))
    assert right(load_base(saved(later, tmp_path), photos()), photos()) == 1
    assert "inputs are scaled to 0 to 1 (right by scaling: " in capsys.readouterr().err


def test_a_scaling_in_a_model_inside_the_model_is_seen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inner = keras.Sequential([keras.Input((12, 12, 3)), layers.Rescaling(1 / 255)], name="preprocessing")
    inputs = keras.Input((12, 12, 3))
    core = bright(keras.Input((12, 12, 3)), name="core")
    model = keras.Model(inputs, core(inner(inputs)))
    assert right(load_base(saved(model, tmp_path), photos()), photos()) == 1
    assert "the scaling of the inputs is inside the model" in capsys.readouterr().err


@pytest.mark.parametrize("ending", ["sigmoid", "linear"])
def test_one_output_is_the_probability_of_the_second_class(tmp_path: Path, ending: str) -> None:
    inputs = keras.Input((12, 12, 3))
    x = layers.GlobalAveragePooling2D()(layers.Rescaling(1 / 255)(inputs))
    model = keras.Model(inputs, layers.Dense(1, activation=ending)(x))
    model.set_weights([np.full((3, 1), 10.0), np.array([-30 * 114 / 255])])
    loaded = load_base(saved(model, tmp_path), photos())
    np.testing.assert_allclose(answers(loaded, photos().x).sum(axis=1), 1, atol=1e-6)
    assert right(loaded, photos()) == 1


def test_a_base_model_of_a_zoo_can_be_the_model_of_another(tmp_path: Path) -> None:
    first = load_base(saved(bright(keras.Input((12, 12, 3))), tmp_path), photos())
    again = load_base(saved(first, tmp_path), photos())
    np.testing.assert_allclose(answers(again, photos().x), answers(first, photos().x), atol=1e-6)


def test_a_network_that_a_function_builds_gets_values_from_0_to_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "our_net.py").write_text(
        "from zoo.backend import keras\n"
        "def make():\n"
        "    return keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(2)])\n"
    )
    monkeypatch.chdir(tmp_path)
    model, trained = base_model("our_net:make", photos(), np.arange(40))
    assert not trained
    assert model.input_shape == (None, 12, 12, 3)
    assert [layer.scale for layer in model.layers if isinstance(layer, layers.Rescaling)] == [1 / 255]
    assert "inputs are scaled to 0 to 1, because the model has no scaling of its own" in capsys.readouterr().err


@keras.saving.register_keras_serializable(package="test_models")
class Subclassed(keras.Model):  # type: ignore[misc]
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.dense = layers.Dense(2)

    def call(self, x: Any) -> Any:
        return self.dense(keras.ops.mean(x, axis=(1, 2)))


def test_a_subclassed_model_is_refused_by_name(tmp_path: Path) -> None:
    model = Subclassed()
    model(np.zeros((1, 12, 12, 3), np.float32))
    path = saved(model, tmp_path)
    assert image_size(str(path)) is None
    with pytest.raises(ModelError, match=r"model\.keras is a subclassed model, whose layers cannot be seen"):
        load_base(path, photos())


def test_the_size_of_images_is_that_of_the_model_unless_it_takes_any(tmp_path: Path) -> None:
    assert image_size(str(saved(bright(keras.Input((12, 10, 3))), tmp_path))) == (12, 10)
    assert image_size(str(saved(bright(keras.Input((None, None, 3))), tmp_path))) is None
    assert image_size("resnet-8") is None
    assert image_size(None) is None


def test_a_directory_does_not_shadow_a_built_in_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits: Dataset
) -> None:
    (tmp_path / "digits-cnn").mkdir()
    monkeypatch.chdir(tmp_path)
    assert not base_model("digits-cnn", digits, np.arange(9)).trained
