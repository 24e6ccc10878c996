from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from zoo.backend import keras, make_deterministic, tf
from zoo.fused import fused

layers = keras.layers


def network(**options: Any) -> Any:
    make_deterministic(0)
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(4, 3, name="conv")(inputs)
    x = layers.BatchNormalization(**({"momentum": 0.5, "epsilon": 1e-2, "name": "norm"} | options))(x)
    x = layers.BatchNormalization(name="flat")(layers.Flatten()(layers.ReLU()(x)))
    return keras.Model(inputs, layers.Dense(2, name="out")(x))


def step(model: Any, x: Any) -> tuple[Any, list[Any]]:
    with tf.GradientTape() as tape:
        answers = model(x, training=True)
        loss = tf.reduce_sum(answers**2)
    return answers, tape.gradient(loss, [variable.value for variable in model.trainable_variables])


def test_a_step_of_training_is_that_of_the_plain_network() -> None:
    plain = network()
    quick = fused(plain)
    x = tf.constant(np.random.default_rng(0).normal(2, 3, (32, 6, 6, 3)).astype(np.float32))
    (answers, gradients), (expected, expected_gradients) = step(quick, x), step(plain, x)
    np.testing.assert_allclose(answers, expected, atol=1e-4)
    for gradient, same in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(gradient, same, rtol=1e-3, atol=1e-3)
    for weight, same in zip(quick.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(weight, same, rtol=0.01)  # the moving variance is the unbiased one
    np.testing.assert_allclose(quick(x), plain(x), rtol=0.01, atol=0.01)


def test_the_plain_network_takes_the_weights_back() -> None:
    plain = network()
    quick = fused(plain)
    quick.get_layer("norm").gamma.assign([1, 2, 3, 4])
    plain.set_weights(quick.get_weights())
    np.testing.assert_array_equal(plain.get_layer("norm").gamma, [1, 2, 3, 4])


def test_what_is_frozen_stays_as_it_is() -> None:
    plain = network()
    plain.get_layer("norm").trainable = False
    quick = fused(plain)
    before = quick.get_layer("norm").get_weights()
    quick(np.ones((4, 6, 6, 3), np.float32), training=True)
    for weight, same in zip(quick.get_layer("norm").get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, same)


@pytest.mark.parametrize("options", [{"scale": False}, {"center": False}, {"axis": 1}, {"epsilon": 1e-6}])
def test_what_cannot_be_fused_is_left_alone(options: dict[str, Any]) -> None:
    plain = network(**options)
    assert fused(plain) is plain
