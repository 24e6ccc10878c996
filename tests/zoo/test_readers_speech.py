from __future__ import annotations

import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
from readerfiles import SKIP, Array, labels, real_data, refusal, tar, tone, write_wav

from fleetfoot.errors import DataError, UsageError
from zoo.datasets import Dataset, ReadOptions, load_dataset, split_indices

RATE = 8000
LENGTH = 800


@pytest.fixture
def words(tmp_path: Path) -> Path:
    root = tmp_path / "words"
    for label, frequency in (("no", 300), ("yes", 600)):
        for number in range(6):
            write_wav(root / label / f"{number}.wav", tone(frequency=frequency + number))
    return root


def load(path: Path, **options: object) -> Dataset:
    return load_dataset(f"speech:{path}", ReadOptions(**options))


def test_a_folder_per_word_is_a_dataset(words: Path) -> None:
    dataset = load(words)
    assert dataset.name == f"speech:{words}"
    assert labels(dataset) == ["no"] * 6 + ["yes"] * 6
    assert dataset.test is None
    assert dataset.groups is None
    assert dataset.input.kind == "audio"
    assert dataset.input.shape == (LENGTH,)
    assert dataset.input.sampling_rate == RATE
    assert (dataset.input.minimum, dataset.input.maximum) == (-1, 1)
    assert dataset.x.dtype == dataset.input.dtype == "float32"
    assert isinstance(dataset.x, np.memmap)
    np.testing.assert_allclose(dataset.x[1], tone(frequency=301), atol=1e-6)
    assert len(set(dataset.input_ids(np.arange(12)))) == 12


def test_an_archive_is_as_good_as_its_folder(words: Path, tmp_path: Path) -> None:
    assert load(tar(words, tmp_path / "words.tar.gz")).x.shape == (12, LENGTH)


SOUND = tone()
ENCODED = {
    "8 bits": (np.round(SOUND * 127 + 128).astype(np.uint8), 1 / 100),
    "16 bits": (np.round(SOUND * 2**15).astype(np.int16), 1e-4),
    "32 bits": (np.round(SOUND.astype(np.float64) * 2**31).astype(np.int32), 1e-6),
    "float": (SOUND, 1e-7),
    "double": (SOUND.astype(np.float64), 1e-7),
    "big endian": (np.round(SOUND * 2**15).astype(">i2"), 1e-4),
}


@pytest.mark.parametrize("form", ENCODED)
def test_every_width_of_samples_is_scaled(words: Path, form: str) -> None:
    samples, tolerance = ENCODED[form]
    write_wav(words / "no" / "0.wav", samples)
    np.testing.assert_allclose(load(words).x[0], SOUND, atol=tolerance)


def write_24_bits(path: Path, samples: Array) -> None:
    values = np.round(samples * 2**23).astype("<i4")
    data = values[:, np.newaxis].view(np.uint8)[:, :3].tobytes()
    head = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", 36 + len(data), b"WAVE", b"fmt ", 16, 1, 1, RATE, 3 * RATE, 3, 24)
    path.write_bytes(head + struct.pack("<4sI", b"data", len(data)) + data)


def test_24_bits_are_scaled(words: Path) -> None:
    write_24_bits(words / "no" / "0.wav", SOUND)
    np.testing.assert_allclose(load(words).x[0], SOUND, atol=1e-6)


def test_the_greatest_and_least_samples_are_within_the_range(words: Path) -> None:
    write_wav(words / "no" / "0.wav", np.tile(np.array([-(2**15), 2**15 - 1], np.int16), 400))
    x = load(words).x[0]
    assert x.min() == -1
    assert 0.999 < x.max() < 1


def test_several_channels_are_averaged_and_counted(words: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_wav(words / "no" / "0.wav", np.stack([SOUND, SOUND / 2], axis=1))
    np.testing.assert_allclose(load(words).x[0], 0.75 * SOUND, atol=1e-6)
    assert "1 of 12 recordings have several channels, which are averaged" in capsys.readouterr().err


def test_other_rates_are_resampled_to_the_most_common_and_counted(
    words: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, rate in enumerate((16000, 44100)):
        write_wav(words / "no" / f"{number}.wav", tone(rate=rate, frequency=300), rate)
    dataset = load(words)
    assert dataset.input.sampling_rate == RATE
    assert dataset.input.shape == (LENGTH,)
    middle = slice(100, 700)
    for row in dataset.x[:2]:
        np.testing.assert_allclose(row[middle], tone(frequency=300)[middle], atol=0.01)
    assert "2 of 12 recordings are resampled to 8,000 samples a second" in capsys.readouterr().err


def test_resampling_lets_nothing_fold_over(words: Path) -> None:
    """5 kHz are beyond what 8,000 samples a second can hold, and would sound as 3 kHz."""
    write_wav(words / "no" / "0.wav", tone(rate=16000, frequency=5000), 16000)
    assert np.abs(load(words).x[0, 100:700]).max() < 0.02


def test_a_rate_can_be_chosen(words: Path) -> None:
    dataset = load(words, sampling_rate=4000)
    assert dataset.input.sampling_rate == 4000
    assert dataset.x.shape == (12, LENGTH // 2)


def test_shorter_recordings_end_in_silence(words: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_wav(words / "no" / "0.wav", tone(seconds=0.15, frequency=300))
    x = load(words).x
    assert x.shape == (12, 1200)
    np.testing.assert_allclose(x[1, :LENGTH], tone(frequency=301), atol=1e-6)
    assert (x[1, LENGTH:] == 0).all()
    assert "11 of 12 recordings are shorter than 0.15 s and end in silence" in capsys.readouterr().err


def test_a_length_can_be_chosen(words: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = load(words, seconds=0.05).x
    assert x.shape == (12, LENGTH // 2)
    np.testing.assert_allclose(x[0], tone(frequency=300)[: LENGTH // 2], atol=1e-6)
    assert "12 of 12 recordings are longer than 0.05 s and are cut off" in capsys.readouterr().err
    assert load(words, seconds=0.2).x.shape == (12, 2 * LENGTH)


def test_one_long_recording_among_short_ones_is_pointed_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(40):
        write_wav(tmp_path / ("no" if number % 2 else "yes") / f"{number}.wav", tone())
    write_wav(tmp_path / "no" / "0.wav", tone(seconds=1))
    load(tmp_path)
    assert (
        "19 of 20 recordings are no longer than 0.1 s: a length (--seconds) would save time" in capsys.readouterr().err
    )


def test_loud_floats_are_clipped_and_counted(words: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_wav(words / "no" / "0.wav", 4 * SOUND)
    x = load(words).x[0]
    assert (x.min(), x.max()) == (-1, 1)
    assert "1 of 12 recordings go beyond -1 to 1 and are clipped" in capsys.readouterr().err


def head(rate: int, data: bytes, declared: int | None = None, chunk: bytes = b"data", kind: int = 1) -> bytes:
    size = len(data) if declared is None else declared
    start = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", 36 + size, b"WAVE", b"fmt ", 16, kind, 1, rate, 2 * rate, 2, 16)
    return start + struct.pack("<4sI", chunk, size) + data


BAD = {
    "no bytes": (b"", ""),
    "no samples": (head(RATE, b""), "no samples"),
    "no chunk of samples": (head(RATE, b"ab", chunk=b"JUNK"), "no samples"),
    "text": (b"this is no sound at all", "File format b'this' not understood"),
    "MP3": (b"ID3\x04\x00" + bytes(100), "File format b'ID3\\x04' not understood"),
    "truncated": (head(RATE, bytes(100), declared=1000), "Reached EOF prematurely"),
    "head only": (head(RATE, b"")[:30], ""),
    "no rate": (head(0, bytes(100)), "0 samples a second"),
    "absurd rate": (head(2**31 - 1, bytes(100)), "2,147,483,647 samples a second"),
    "mu-law": (head(RATE, bytes(100), kind=7), "Unknown wave file format: MULAW"),
}


@pytest.mark.parametrize("damage", BAD)
def test_unusable_recordings_are_refused_or_skipped(
    words: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    content, said = BAD[damage]
    (words / "yes" / "bad.wav").write_bytes(content)
    message = refusal(f"speech:{words}", DataError)
    assert f"1 of 13 files cannot be used: yes/bad.wav ({said}" in message
    assert len(load_dataset(f"speech:{words}", SKIP).y) == 12
    assert "yes/bad.wav" in capsys.readouterr().err


def test_samples_that_are_no_numbers_are_a_fault(words: Path) -> None:
    write_wav(words / "yes" / "bad.wav", np.where(np.arange(LENGTH) == 7, np.nan, SOUND).astype(np.float32))
    assert "yes/bad.wav (samples that are NaN or infinite)" in refusal(f"speech:{words}", DataError)


def test_chunks_that_mean_nothing_to_us_do_no_harm(words: Path) -> None:
    path = words / "yes" / "0.wav"
    content = path.read_bytes()
    extra = struct.pack("<4sI", b"cue ", 4) + bytes(4)
    path.write_bytes(content[:4] + struct.pack("<I", len(content) - 8 + len(extra)) + content[8:] + extra)
    assert len(load(words).y) == 12


def commands(root: Path) -> Path:
    """A small Speech Commands: hashes of speakers, noise beside the words."""
    for label in ("down", "up"):
        for speaker in range(8):
            write_wav(root / label / f"{speaker:08x}_nohash_0.wav", tone())
    write_wav(root / "_background_noise_" / "pink.wav", tone(seconds=2))
    (root / "testing_list.txt").write_text("down/00000001_nohash_0.wav\nup/00000002_nohash_0.wav\nbed/0_nohash_0.wav\n")
    (root / "validation_list.txt").write_text("down/00000003_nohash_0.wav\n")
    return root


@pytest.mark.parametrize("packed", [False, True])
def test_speech_commands_names_its_test_split_and_its_speakers(tmp_path: Path, packed: bool) -> None:
    root = commands(tmp_path / "commands")
    dataset = load(tar(root, tmp_path / "commands.tar.gz") if packed else root)
    assert dataset.classes == ("down", "up")
    assert len(dataset.y) == 16
    assert dataset.input.shape == (LENGTH,)
    assert dataset.test is not None
    assert sorted(labels(dataset, dataset.test)) == ["down", "up"]
    assert dataset.groups is not None
    assert {dataset.groups[index] for index in dataset.test} == {"00000001", "00000002"}
    assert len(set(dataset.groups)) == 8


def test_a_test_list_of_other_recordings_is_refused(tmp_path: Path) -> None:
    root = commands(tmp_path)
    (root / "testing_list.txt").write_text("bed/0_nohash_0.wav\n")
    assert "testing_list.txt names none of the recordings" in refusal(f"speech:{root}", DataError)


def test_one_word_of_speech_commands_is_no_dataset(tmp_path: Path) -> None:
    root = commands(tmp_path)
    assert "00000000_nohash_0.wav (in no class folder)" in refusal(f"speech:{root}/up", DataError)


def spoken_digits(root: Path, first: int = 0, last: int = 9) -> Path:
    for digit in "01":
        for speaker in ("ann", "bob_b"):
            for number in range(first, last + 1):
                write_wav(root / f"{digit}_{speaker}_{number}.wav", tone(frequency=300 + number))
    return root


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("inner", ["", "recordings"])
def test_names_tell_label_speaker_and_test_split(tmp_path: Path, packed: bool, inner: str) -> None:
    root = tmp_path / "digits"
    spoken_digits(root / inner)
    dataset = load(tar(root, tmp_path / "digits.tar.gz") if packed else root)
    assert dataset.classes == ("0", "1")
    assert dataset.groups is not None
    assert sorted(dataset.groups) == ["ann"] * 20 + ["bob_b"] * 20
    assert dataset.test is not None
    assert len(dataset.test) == 20
    assert split_indices(dataset, 0)["test"].tolist() == dataset.test.tolist()


def test_recordings_for_testing_decide_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoken_digits(tmp_path)
    for number in range(5):
        write_wav(tmp_path / f"0_ann_{number}.wav", tone(seconds=0.5, rate=16000), rate=16000)
        write_wav(tmp_path / f"1_ann_{number}.wav", tone(seconds=0.5, rate=16000), rate=16000)
    dataset = load(tmp_path)
    assert (dataset.input.shape, dataset.input.sampling_rate) == ((800,), 8000)
    said = capsys.readouterr().err
    assert "10 of 40 recordings are resampled to 8,000" in said
    assert "10 of 40 recordings are longer than 0.1 s and are cut off" in said


@pytest.mark.parametrize("rate", [1, 999, 384_001, 10**12])
def test_a_rate_that_no_recordings_have_is_refused(tmp_path: Path, rate: int) -> None:
    options = ReadOptions(sampling_rate=rate)
    assert "from 1,000 to 384,000" in refusal(f"speech:{spoken_digits(tmp_path)}", UsageError, options)


def test_a_list_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    root = commands(tmp_path)
    (root / "testing_list.txt").unlink(missing_ok=True)
    (root / "testing_list.txt").symlink_to("/nowhere")
    assert "testing_list.txt cannot be read: no regular file" in refusal(f"speech:{root}", DataError)


def test_without_low_numbers_there_is_no_test_split(tmp_path: Path) -> None:
    assert load(spoken_digits(tmp_path, 5, 9)).test is None


def test_with_low_numbers_only_there_is_nothing_to_learn_from(tmp_path: Path) -> None:
    assert "no examples to learn from" in refusal(f"speech:{spoken_digits(tmp_path, 0, 4)}", DataError)


def test_files_named_otherwise_are_faults(tmp_path: Path) -> None:
    spoken_digits(tmp_path)
    write_wav(tmp_path / "hello.wav", tone())
    said = "hello.wav (not named {label}_{speaker}_{n}.wav as others are)"
    assert said in refusal(f"speech:{tmp_path}", DataError)
    assert len(load_dataset(f"speech:{tmp_path}", SKIP).y) == 40


def test_what_is_no_dataset_is_refused(tmp_path: Path, words: Path) -> None:
    assert "does not exist" in refusal(f"speech:{tmp_path}/gone", DataError)
    (tmp_path / "empty").mkdir()
    assert "holds no WAV files" in refusal(f"speech:{tmp_path}/empty", DataError)
    assert "neither a folder nor an archive" in refusal(f"speech:{words}/no/0.wav", DataError)
    (words / "maybe").mkdir()
    assert "nothing to read in maybe" in refusal(f"speech:{words}", DataError)


def test_real_recordings(capsys: pytest.CaptureFixture[str]) -> None:
    path = real_data("fsdd", "fsdd-five-speakers.tar.gz")
    dataset = load(path)
    assert dataset.input.sampling_rate == 8000
    assert len(dataset.y) == 2500
    assert np.bincount(dataset.y).tolist() == [250] * 10
    assert dataset.test is not None
    assert len(dataset.test) == 250
    assert dataset.groups is not None
    assert len(set(dataset.groups)) == 5
    assert "2,499 of 2,500 recordings are shorter than 2.28 s" in capsys.readouterr().err
    with tarfile.open(path) as archive:
        name = next(info.name for info in archive if info.isfile())
        file = archive.extractfile(name)
        assert file is not None
        content = np.frombuffer(file.read()[44:], "<i2")
    np.testing.assert_allclose(dataset.x[0, : len(content)], content / 2**15, atol=1e-7)


def test_real_recordings_of_one_length() -> None:
    dataset = load(real_data("fsdd", "fsdd-five-speakers.tar.gz"), seconds=1.0)
    assert dataset.x.shape == (2500, 8000)
