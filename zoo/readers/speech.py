"""Recordings in WAV files, a folder per word or named by speaker; decoded once, then mapped from the disk.

Known by their layout: Speech Commands (Warden, 2018), whose ``testing_list.txt`` names its test split, and the Free
Spoken Digit Dataset, whose files are ``{label}_{speaker}_{n}.wav``, those with n below 5 being its test split.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from math import ceil, gcd
from pathlib import PurePosixPath
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from scipy.io import wavfile
from scipy.signal import resample_poly

from fleetfoot.errors import DataError, UsageError
from zoo.catalog import InputSpec
from zoo.datasets import Dataset, ReadOptions
from zoo.readers.layout import by_folder
from zoo.readers.reading import Arrangement, Found, Method, Plan, read_files
from zoo.readers.store import Array, Example
from zoo.readers.tree import Member, open_tree, resolve

TEST_LIST = "testing_list.txt"
VALIDATION_LIST = "validation_list.txt"
NOISE_FOLDER = "_background_noise_"
TEST_BELOW = 5
"""The Free Spoken Digit Dataset keeps the first recordings of each digit and speaker for testing."""

SLOWEST_RATE, FASTEST_RATE = 1_000, 384_000
"""Samples per second that recordings have; others are damage."""

_SPOKEN_DIGIT = re.compile(r"(?P<label>[^_]+)_(?P<speaker>(?!nohash_).+)_(?P<number>\d+)\.wav", re.IGNORECASE)
_SPEECH_COMMAND = re.compile(r"(?P<speaker>[0-9a-f]+)_nohash_\d+\.wav", re.IGNORECASE)

Samples = npt.NDArray[np.float32]


class Recording(NamedTuple):
    """A sampling rate, and samples of shape (length, channels), which are from -1 to 1 but for loud floats."""

    rate: int
    samples: Samples


class Look(NamedTuple):
    """What is in a WAV file: samples a second, samples of each channel, channels, and whether any is beyond -1 to 1."""

    rate: int
    length: int
    channels: int
    is_loud: bool


class Settings(msgspec.Struct, frozen=True):
    """What waveforms depend on beside the files."""

    seconds: float | None
    sampling_rate: int | None


def read(argument: str, options: ReadOptions) -> Dataset:
    """Reads recordings of ``DIR/<word>/*.wav`` or ``DIR/{label}_{speaker}_{n}.wav``, or of an archive of that.

    They become waveforms from -1 to 1 of one length, with one channel and one sampling rate. The groups are speakers,
    where the names of the files tell them.

    Raises:
        UsageError: no path, or a sampling rate that no recordings have.
        DataError: nothing there to build on, or recordings that cannot be used.
    """
    path = resolve("speech", argument)
    if options.sampling_rate and not SLOWEST_RATE <= options.sampling_rate <= FASTEST_RATE:
        raise UsageError(
            f"sampling_rate is {options.sampling_rate:,}: from {SLOWEST_RATE:,} to {FASTEST_RATE:,} will do"
        )
    method = Method(
        what="WAV files",
        wanted=_is_recording,
        open=opened,
        look=look,
        arrange=arrange,
        plan=partial(plan, options=options),
        settings=Settings(options.seconds, options.sampling_rate),
        alarms={wavfile.WavFileWarning: "Reached EOF"},
        advice="repair or remove them, or skip them (--on-bad skip)",
        lists=frozenset({TEST_LIST, VALIDATION_LIST}),
    )
    return read_files(f"speech:{path}", [open_tree(path)], options, method)


@contextmanager
def opened(member: Member) -> Iterator[Recording]:
    """Reads a WAV file."""
    yield _read_wav(member.read())


def look(recording: Recording) -> Look:
    """What is in a WAV file."""
    length, channels = recording.samples.shape
    return Look(recording.rate, length, channels, is_loud=bool(np.abs(recording.samples).max() > 1))


def arrange(name: str, found: Found) -> Arrangement:
    """What the recordings are, by the names of their files or their folders.

    Raises:
        DataError: a folder without recordings, or a list that is of others.
    """
    if len({PurePosixPath(path).parent for path in found.files}) == 1:
        named = {path: _SPOKEN_DIGIT.fullmatch(PurePosixPath(path).name) for path in found.files}
        if any(named.values()):
            return _by_name(named)
    folders = [path for path in found.folders if NOISE_FOLDER not in PurePosixPath(path).parts]
    arrangement = by_folder(name, found._replace(folders=folders))
    tested = _test_list(name, found)
    examples = [
        msgspec.structs.replace(example, test=example.test or _word_and_file(example.path) in tested)
        for example in map(_with_speaker, arrangement.examples)
    ]
    return Arrangement(examples, arrangement.faults)


def plan(looks: Mapping[str, Look], learning: Sequence[Look], options: ReadOptions) -> Plan[Recording]:
    """Decides what is made of recordings.

    Args:
        looks: what was heard of each.
        learning: what was heard of those to learn from, whose most common rate and greatest length decide.
        options: what decides in place of these.
    """
    rate = options.sampling_rate or Counter(seen.rate for seen in learning).most_common(1)[0][0]
    lengths, to_learn = ([-(-seen.length * rate // seen.rate) for seen in some] for some in (looks.values(), learning))
    samples = max(1, round(options.seconds * rate)) if options.seconds else max(to_learn)
    seconds = f"{samples / rate:.3g} s"
    counts = {
        "have several channels, which are averaged": sum(seen.channels > 1 for seen in looks.values()),
        f"are resampled to {rate:,} samples a second": sum(seen.rate != rate for seen in looks.values()),
        "go beyond -1 to 1 and are clipped": sum(seen.is_loud for seen in looks.values()),
        f"are shorter than {seconds} and end in silence": sum(length < samples for length in lengths),
        f"are longer than {seconds} and are cut off": sum(length > samples for length in lengths),
    }
    notes = [f"{count:,} of {len(looks):,} recordings {what}" for what, count in counts.items() if count]
    if not options.seconds and samples > 2 * (usual := ceil(np.percentile(to_learn, 95))):
        notes.append(
            f"19 of 20 recordings are no longer than {usual / rate:.3g} s: a length (--seconds) would save time"
        )
    return Plan(
        input=InputSpec(kind="audio", shape=(samples,), dtype="float32", minimum=-1.0, maximum=1.0, sampling_rate=rate),
        decode=partial(decode, rate=rate, samples=samples),
        faults={},
        notes=tuple(notes),
    )


def decode(recording: Recording, rate: int, samples: int) -> Array:
    """Makes a recording a waveform.

    Args:
        recording: what is in its file.
        rate: samples a second.
        samples: the length; what is shorter is padded with zeros at its end, what is longer is cut off there.

    Returns:
        Values from -1 to 1 of shape (samples,) and type float32.
    """
    mono = recording.samples.mean(axis=1)
    if recording.rate != rate:
        common = gcd(rate, recording.rate)
        mono = resample_poly(mono, rate // common, recording.rate // common)
    waveform = np.zeros(samples, np.float32)
    waveform[: len(mono)] = np.clip(mono[:samples], -1, 1)
    return waveform


def _is_recording(path: str) -> bool:
    place = PurePosixPath(path)
    return place.suffix.lower() == ".wav" and NOISE_FOLDER not in place.parts


def _by_name(named: Mapping[str, re.Match[str] | None]) -> Arrangement:
    examples = [
        Example(path, match["label"], test=int(match["number"]) < TEST_BELOW, group=match["speaker"])
        for path, match in named.items()
        if match
    ]
    faults = {path: "not named {label}_{speaker}_{n}.wav as others are" for path, match in named.items() if not match}
    return Arrangement(examples, faults)


def _with_speaker(example: Example) -> Example:
    match = _SPEECH_COMMAND.fullmatch(PurePosixPath(example.path).name)
    return msgspec.structs.replace(example, group=match["speaker"]) if match else example


def _test_list(name: str, found: Found) -> frozenset[str]:
    """The recordings that a list sets apart for testing, as ``word/file.wav``."""
    lists = [text for path, text in found.texts.items() if PurePosixPath(path).name == TEST_LIST]
    lines = frozenset(line.strip() for text in lists for line in text.splitlines() if line.strip())
    if lines and not any(_word_and_file(path) in lines for path in found.files):
        raise DataError(f"{name}: {TEST_LIST} names none of the recordings: remove it, or get its own recordings")
    return lines


def _word_and_file(path: str) -> str:
    return "/".join(PurePosixPath(path).parts[-2:])


def _read_wav(content: bytes) -> Recording:
    try:
        rate, values = wavfile.read(io.BytesIO(content))
    except UnboundLocalError:  # what SciPy raises where there is no chunk of samples
        raise ValueError("no samples") from None
    if not values.size:
        raise ValueError("no samples")
    if not SLOWEST_RATE <= rate <= FASTEST_RATE:
        raise ValueError(f"{rate:,} samples a second")
    samples = _scaled(values).reshape(len(values), -1)
    if not np.isfinite(samples).all():
        raise ValueError("samples that are NaN or infinite")
    return Recording(rate, samples)


def _scaled(values: Array) -> Samples:
    """Integers of any width as fractions of their range; eight bits are unsigned in WAV files."""
    floats: Samples = values.astype(np.float32)
    if values.dtype.kind == "u":
        floats = (floats - np.float32(128)) / np.float32(128)
    if values.dtype.kind == "i":
        floats /= np.float32(2.0 ** (8 * values.dtype.itemsize - 1))
    return floats
