"""Parameters of networks whose numbers are published."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from architecture_inputs import image, tensor

from zoo.architectures import ARCHITECTURES
from zoo.catalog import InputSpec

SPECTROGRAM = InputSpec(kind="image", shape=(49, 10, 1), dtype="float32", minimum=-1, maximum=1)
slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "spec", "classes", "parameters", "count"),
    [
        ("lenet-5", image(28, 1), 10, {}, 61_706),
        ("lenet-5", image(32, 1), 10, {}, 61_706),
        ("lenet-5", image(28, 1), 10, {"form": "relu"}, 44_018),
        ("resnet-8", image(32), 10, {}, 78_666),  # MLPerf Tiny
        ("resnet-20", image(32), 10, {}, 274_442),  # Keras's example
        ("dnn", tensor(250), 12, {"size": "S"}, 79_644),  # Hello Edge: 80.0 KB at 8 bits
        ("dnn", tensor(250), 12, {"size": "M"}, 198_924),  # 199.4 KB
        ("dnn", tensor(250), 12, {"size": "L"}, 495_744),  # 496.6 KB
        ("ds-cnn", SPECTROGRAM, 12, {"size": "S"}, 24_908),  # MLPerf Tiny
        ("mobilenet-v1", image(224), 1000, {}, 4_253_864),  # keras.applications, as the next two
        ("mobilenet-v2", image(224), 1000, {}, 3_538_984),
        ("mobilenet-v3-small", image(224), 1000, {}, 2_554_968),
        ("squeezenet", image(224), 1000, {"normalize": False}, 1_248_424),  # torchvision, as the next two
        pytest.param("alexnet", image(224), 1000, {"normalize": False}, 61_100_840, marks=slow),
        pytest.param("vgg-16", image(224), 1000, {"normalize": False}, 138_357_544, marks=slow),
    ],
)
def test_the_published_number_of_parameters(
    name: str, spec: InputSpec, classes: int, parameters: dict[str, Any], count: int
) -> None:
    assert ARCHITECTURES[name](spec, classes, **parameters).count_params() == count


@pytest.mark.parametrize(
    ("depth", "millions"),
    [(32, 0.46), *(pytest.param(*pair, marks=slow) for pair in [(44, 0.66), (56, 0.85), (110, 1.7)])],
)
def test_residual_networks_are_as_large_as_published(depth: int, millions: float) -> None:
    """Shortcuts with weights, statistics of batch norm and biases come on top: 3 % or less."""
    assert ARCHITECTURES["resnet-20"](image(32), 10, depth=depth).count_params() / 1e6 == pytest.approx(millions, 0.03)


@pytest.mark.parametrize(
    ("groups", "complexity", "count"),
    [
        (1, 0.25, 209_746),
        (3, 1.0, 1_865_728),
        pytest.param(3, 0.25, 305_902, marks=slow),
        pytest.param(1, 0.5, 534_484, marks=slow),
        pytest.param(3, 0.5, 718_324, marks=slow),
        pytest.param(1, 1.0, 1_531_936, marks=slow),
        pytest.param(2, 1.0, 1_733_848, marks=slow),
        pytest.param(4, 1.0, 1_968_344, marks=slow),
        pytest.param(8, 1.0, 2_434_768, marks=slow),
    ],
)
def test_shufflenets_are_as_large_as_in_pytorchcv(groups: int, complexity: float, count: int) -> None:
    model = ARCHITECTURES["shufflenet"](image(224), 1000, groups=groups, complexity=complexity)
    assert sum(int(np.prod(weight.shape)) for weight in model.trainable_weights) == count
