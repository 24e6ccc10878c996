from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from architecture_inputs import waveform
from scipy.fft import dct
from scipy.signal import stft

from fleetfoot.errors import ModelError
from zoo.architectures.frontend import CosineTransform, LogMel, log_mel, mfcc, sampling_rate_of
from zoo.backend import keras
from zoo.catalog import InputSpec

Array = npt.NDArray[np.float64]


def recordings(samples: int, rate: int) -> npt.NDArray[np.float32]:
    """A rising tone in noise, and noise alone, quieter."""
    random = np.random.default_rng(0)
    time = np.arange(samples) / rate
    tone = 0.5 * np.sin(2 * np.pi * (200 + 600 * time) * time)
    return np.stack([tone + random.normal(0, 0.05, samples), random.normal(0, 0.01, samples)]).astype(np.float32)


def reference_log_mel(
    x: npt.NDArray[np.float32], rate: int, window: int, hop: int, mels: int, low: float, high: float
) -> Array:
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / (window - 1))
    _, _, spectra = stft(
        x.astype(np.float64), window=hann, nperseg=window, noverlap=window - hop, boundary=None, padded=False
    )
    power = np.abs(spectra * hann.sum()) ** 2  # (recordings, bins, frames)
    edges = 700 * (10 ** (np.linspace(*(2595 * np.log10(1 + np.array([low, high]) / 700)), mels + 2) / 2595) - 1)
    bands = np.zeros((mels, window // 2 + 1))
    for band in range(mels):
        for index in range(window // 2 + 1):
            mel, left, middle, right = (
                np.log10(1 + hz / 700) for hz in (index * rate / window, *edges[band : band + 3])
            )
            bands[band, index] = max(0, min((mel - left) / (middle - left), (right - mel) / (right - middle)))
    result: Array = np.log(np.einsum("mb,rbf->rfm", bands, power) + 1e-6)
    return result


def relative_error(ours: object, reference: Array) -> float:
    return float(np.abs(np.asarray(ours) - reference).max() / np.abs(reference).max())


@pytest.mark.parametrize(
    ("rate", "window_ms", "hop_ms", "window", "hop"),
    [
        (8000, 40, 20, 320, 160),
        (8000, 40, 40, 320, 320),
        (8000, 25, 10, 200, 80),
        (16000, 40, 20, 640, 320),
        (16000, 30, 10, 480, 160),
        (11025, 40, 20, 440, 220),
        (44100, 10, 20, 440, 880),
    ],
)
def test_log_mel_is_that_of_a_fourier_transform(rate: int, window_ms: int, hop_ms: int, window: int, hop: int) -> None:
    x = recordings(rate // 2 + 7, rate)
    layer = LogMel(sampling_rate=rate, window_ms=window_ms, hop_ms=hop_ms, mels=20)
    assert layer.window == window
    reference = reference_log_mel(x, rate, window, hop, 20, 20, 4000)
    ours = np.asarray(layer(x))
    assert ours.shape == (2, 1 + (x.shape[1] - window) // hop, 20)
    assert relative_error(ours, reference) < 1e-3


def test_mfcc_are_the_first_cosine_components_of_log_mel() -> None:
    x = recordings(8000, 8000)
    reference = dct(reference_log_mel(x, 8000, 320, 160, 40, 20, 4000), type=2, norm="ortho")[..., :10]
    ours = np.asarray(CosineTransform(coefficients=10)(LogMel(sampling_rate=8000)(x)))
    assert ours.shape == (2, 49, 10)
    assert relative_error(ours, reference) < 1e-3


def test_bands_end_at_half_the_sampling_rate() -> None:
    x = recordings(4000, 4000)
    reference = reference_log_mel(x, 4000, 160, 80, 12, 20, 2000)
    assert relative_error(LogMel(sampling_rate=4000, mels=12)(x), reference) < 1e-3


def test_silence_has_a_logarithm() -> None:
    silence = np.asarray(LogMel(sampling_rate=8000)(np.zeros((1, 8000), np.float32)))
    np.testing.assert_allclose(silence, np.log(1e-6), rtol=1e-5)


def test_the_functions_take_symbolic_inputs_and_add_no_weights() -> None:
    inputs = keras.Input((16000,))
    assert log_mel(inputs, 16000).shape == (None, 49, 40)
    assert mfcc(inputs, 16000).shape == (None, 49, 10)
    assert mfcc(inputs, 16000, hop_ms=40, coefficients=13).shape == (None, 25, 13)
    assert keras.Model(inputs, mfcc(inputs, 16000)).count_params() == 0


def test_layers_are_made_again_from_their_configuration() -> None:
    x = recordings(8000, 8000)
    layer = LogMel(sampling_rate=8000, window_ms=30, hop_ms=10, mels=24, lowest_hz=50, highest_hz=3000, name="mel")
    again = LogMel.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    np.testing.assert_array_equal(np.asarray(again(x)), np.asarray(layer(x)))
    transform = CosineTransform(coefficients=5, name="dct")
    assert CosineTransform.from_config(transform.get_config()).get_config() == transform.get_config()


def test_recordings_shorter_than_a_frame_are_refused() -> None:
    with pytest.raises(ModelError, match="recordings of 319 samples are too short: 40 ms are 320 samples"):
        mfcc(keras.Input((319,)), 8000)
    assert mfcc(keras.Input((320,)), 8000).shape == (None, 1, 10)


def test_recordings_of_several_channels_are_refused() -> None:
    with pytest.raises(ModelError, match=r"a waveform has shape \(samples,\), and this input has \(8000, 2\)"):
        log_mel(keras.Input((8000, 2)), 8000)


def test_the_sampling_rate_is_that_of_the_input_where_it_says_so() -> None:
    assert sampling_rate_of(waveform()) == 8000
    spec = InputSpec(kind="audio", shape=(8000,), dtype="float32", minimum=-1, maximum=1, sampling_rate=16000)
    assert sampling_rate_of(spec) == 16000
