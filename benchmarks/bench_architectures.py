"""What the built-in networks take in LiteRT on one thread, and two choices that were made inside them.

Each network is untrained, with the parameters that it has by default. The choices: the Fourier transform of the
audio front end as matrix products instead of TensorFlow's FFT, and ShuffleNet's grouped convolutions as one
convolution per group instead of Keras's own. What is compared is called in turns; numbers are medians.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from results import save

from profiling.invoke import Model
from zoo.architectures import ARCHITECTURES, blocks
from zoo.architectures.frontend import HIGHEST_HZ, LOWEST_HZ, LogMel, mel_filters
from zoo.architectures.grouped import GroupedConv2D
from zoo.backend import keras, tf
from zoo.catalog import InputSpec
from zoo.export import export

ROUNDS = 200
TRAINING_ROUNDS = 10
BATCH = 32
SMALL = InputSpec(kind="image", shape=(32, 32, 3), dtype="uint8", minimum=0, maximum=255)
LARGE = InputSpec(kind="image", shape=(224, 224, 3), dtype="uint8", minimum=0, maximum=255)
SECOND = InputSpec(kind="audio", shape=(8000,), dtype="float32", minimum=-1, maximum=1)
MADE_FOR_LARGE = ("mobilenet-v1", "mobilenet-v2", "mobilenet-v3-small", "squeezenet", "shufflenet", "alexnet")


def main() -> None:
    """Exports and times everything."""
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        networks = dict(built_in())
        numbers = {
            "latency_ms": latencies(networks, folder),
            "parameters": {name: network.count_params() for name, network in networks.items()},
            "front_end_ms": latencies(front_ends(), folder),
            "grouped_training_step_ms": grouped_training_steps(),
            "grouped_ms": latencies(dict(grouped()), folder),
        }
    save("architectures", numbers)


def built_in() -> Iterator[tuple[str, Any]]:
    """Every built-in network for 10 classes on small images, 1,000 on large ones, 12 on recordings of a second."""
    for name, architecture in ARCHITECTURES.items():
        if "image" in architecture.kinds:
            yield f"{name} 32x32", architecture(SMALL, 10)
        if name in MADE_FOR_LARGE:
            yield f"{name} 224x224", architecture(LARGE, 1000)
        if "audio" in architecture.kinds:
            yield f"{name} 8000", architecture(SECOND, 12)


class FftLogMel(keras.layers.Layer):  # type: ignore[misc]
    """The front end by TensorFlow's FFT, whose frames are padded to a power of two."""

    def __init__(self, sampling_rate: int, window: int, mels: int) -> None:
        super().__init__()
        self.window = window
        self.size = 1 << (window - 1).bit_length()
        self.mel = mel_filters(self.size, sampling_rate, mels, LOWEST_HZ, HIGHEST_HZ)

    def call(self, x: Any) -> Any:
        """Waveforms to log-mel spectra."""
        spectrum = tf.signal.stft(x, self.window, self.window // 2, self.size)
        power = tf.square(tf.math.real(spectrum)) + tf.square(tf.math.imag(spectrum))
        return tf.math.log(tf.matmul(power, self.mel) + 1e-6)


def front_ends() -> dict[str, Any]:
    """Both front ends, for a second at two sampling rates."""
    networks = {}
    for rate in (8000, 16000):
        ours = LogMel(sampling_rate=rate)
        for name, layer in (("matrices", ours), ("fft", FftLogMel(rate, ours.window, ours.settings["mels"]))):
            inputs = keras.Input((rate,))
            networks[f"{name} {rate} Hz"] = keras.Model(inputs, layer(inputs))
    return networks


def grouped() -> Iterator[tuple[str, Any]]:
    """ShuffleNet with both kinds of grouped convolution."""
    for name, layer in (("per group", GroupedConv2D), ("keras", keras.layers.Conv2D)):
        blocks.GroupedConv2D = layer
        yield f"{name} 32x32", ARCHITECTURES["shufflenet"](SMALL, 10)
        yield f"{name} 224x224", ARCHITECTURES["shufflenet"](LARGE, 1000)
    blocks.GroupedConv2D = GroupedConv2D


def grouped_training_steps() -> dict[str, float]:
    """Milliseconds for a training step of each, at 32×32."""
    generator = np.random.default_rng(0)
    x = generator.integers(0, 256, (BATCH, *SMALL.shape)).astype(np.uint8)
    y = generator.integers(0, 10, BATCH)
    calls = {}
    for name, network in grouped():
        if name.endswith(" 32x32"):
            network.compile(optimizer="adam", loss="sparse_categorical_crossentropy")
            network.train_on_batch(x, y)
            calls[name] = lambda network=network: network.train_on_batch(x, y)
    return time_in_turns(calls, TRAINING_ROUNDS)


def latencies(networks: Mapping[str, Any], folder: Path) -> dict[str, float]:
    """Milliseconds that each network takes in LiteRT on one thread."""
    calls = {}
    for name, network in networks.items():
        path = folder / f"{name}.tflite"
        export({"base": network}, path)
        runner = Model(path, threads=1).runner("base")
        runner.warm_up()
        x = np.random.default_rng(0).uniform(0, 1, runner.input.shape).astype(runner.input.dtype)
        calls[name] = lambda runner=runner, x=x: runner(x)
    return time_in_turns(calls, ROUNDS)


def time_in_turns(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median milliseconds of each call."""
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name in random.sample(list(calls), len(calls)):
            start = time.perf_counter_ns()
            calls[name]()
            samples[name].append((time.perf_counter_ns() - start) / 1e6)
    return {name: round(float(np.median(values)), 3) for name, values in samples.items()}


if __name__ == "__main__":
    main()
