"""Raw inputs from files."""

from __future__ import annotations

import io
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fleetfoot.errors import InputError
from runtime.answers import Description
from runtime.inputs import read_input


def served(*shape: int, dtype: str = "float32", low: float = 0.0, high: float = 16.0) -> Description:
    return Description(
        name="zoo",
        classes=("0", "1"),
        input_shape=shape,
        input_dtype=dtype,
        input_range=(low, high),
        variants={"a": 1.0},
        device_id="board-1",
        stages=("table",),
    )


DIGITS = served(8, 8, 1)


def pixels(height: int = 8, width: int = 8) -> Any:
    return np.random.default_rng(0).integers(0, 256, (height, width), dtype=np.uint8)


def test_an_array_is_taken_as_it_is(tmp_path: Path) -> None:
    x = np.arange(6, dtype=np.int16).reshape(2, 3)
    np.save(tmp_path / "x.npy", x)
    read = read_input(tmp_path / "x.npy", DIGITS)
    assert read.dtype == x.dtype
    np.testing.assert_array_equal(read, x)


def test_a_grey_image_is_brought_to_the_range_of_the_zoo(tmp_path: Path) -> None:
    Image.fromarray(pixels()).save(tmp_path / "x.png")
    read = read_input(tmp_path / "x.png", DIGITS)
    assert read.shape == (8, 8, 1)
    assert read.dtype == np.float32
    np.testing.assert_allclose(read[..., 0], pixels() / 255 * 16, rtol=1e-6)
    np.testing.assert_allclose(
        read_input(tmp_path / "x.png", served(8, 8, 1, low=-1.0, high=1.0))[..., 0], pixels() / 127.5 - 1, atol=1e-6
    )


def test_bytes_stay_the_bytes_they_are(tmp_path: Path) -> None:
    Image.fromarray(pixels()).save(tmp_path / "x.png")
    read = read_input(tmp_path / "x.png", served(8, 8, 1, dtype="uint8", high=255.0))
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read[..., 0], pixels())


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB", "RGBA", "CMYK", "LA"])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_is_brought_to_the_channels_of_the_zoo(tmp_path: Path, mode: str, channels: int) -> None:
    Image.new("RGB", (4, 4), "white").convert(mode).save(tmp_path / "x.tiff")
    read = read_input(tmp_path / "x.tiff", served(4, 4, channels))
    np.testing.assert_allclose(read, np.full((4, 4, channels), 16.0))


def png(**options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels()).save(stream, "PNG", **options)
    return stream.getvalue()


def zipped() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("x.npy", "")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("x.txt", b"some text", id="text"),
        pytest.param("x.png", b"", id="empty image"),
        pytest.param("x.png", png()[:60], id="truncated image"),
        pytest.param("x.png", png()[:50] + b"\xff" * 30, id="damaged image"),
        pytest.param("x.npy", b"", id="empty array"),
        pytest.param("x.npy", b"some text", id="text for an array"),
        pytest.param("x.npy", b"\x93NUMPY\x01\x00", id="truncated array"),
        pytest.param("x.npy", png(), id="an image for an array"),
        pytest.param(
            "x.npy", zipped(), id="an archive for an array"
        ),
    ],
)  # fmt: skip
def test_a_file_that_is_neither_is_refused_by_its_name(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=name):
        read_input(tmp_path / name, DIGITS)


def test_a_missing_file_and_a_directory_are_refused_by_their_names(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.png does not exist"):
        read_input(tmp_path / "nowhere.png", DIGITS)
    with pytest.raises(InputError, match=str(tmp_path)):
        read_input(tmp_path, DIGITS)


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(InputError, match="Python objects in dtype"):
        read_input(tmp_path / "x.npy", DIGITS)


def test_an_image_is_refused_by_a_zoo_of_sounds(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(png())
    with pytest.raises(InputError, match="this zoo takes arrays of shape"):
        read_input(tmp_path / "x.png", served(16000))


def test_an_image_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    Image.new("1", (14_000, 14_000)).save(tmp_path / "x.png")
    with pytest.raises(InputError, match=r"x\.png"):
        read_input(tmp_path / "x.png", DIGITS)


def test_an_array_that_claims_to_be_petabytes_is_refused(tmp_path: Path) -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (72057594037927936,), }".ljust(117) + b"\n"
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x01\x00\x76\x00" + header)
    with pytest.raises(InputError, match=r"x\.npy"):
        read_input(tmp_path / "x.npy", DIGITS)


def test_an_image_with_a_byte_changed_is_read_or_refused(tmp_path: Path) -> None:
    read_with_bytes_changed(tmp_path / "x.png", png())


def test_an_array_with_a_byte_changed_is_read_or_refused(tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.save(stream, np.zeros((8, 8, 1), np.float32))
    read_with_bytes_changed(tmp_path / "x.npy", stream.getvalue())


def read_with_bytes_changed(path: Path, whole: bytes) -> None:
    generator = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[generator.integers(min(len(whole), 128))] = generator.integers(256)
        path.write_bytes(damaged)
        with suppress(InputError):
            assert isinstance(read_input(path, DIGITS), np.ndarray)
