"""Images in a folder per class, or in an archive of that; decoded once, then mapped from the disk."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import BinaryIO, NamedTuple

import msgspec
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from zoo.catalog import InputSpec
from zoo.datasets import Dataset, ReadOptions
from zoo.readers.layout import by_folder
from zoo.readers.reading import Method, Plan, read_files
from zoo.readers.store import Array
from zoo.readers.tree import Member, Tree, open_tree, resolve

FORMATS = (
    "JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000", "TGA", "ICO", "PCX", "DDS", "QOI", "SGI"
)  # fmt: skip
"""Those of Pillow's formats that hold pixels and are decoded without running another program."""

_GREY_MODES = frozenset({"1", "L", "LA", "La", "I"})
_SIXTEEN_BIT_FORMATS = frozenset({"PNG", "PPM"})
"""Whose images of mode I are of 16 bits, in versions of Pillow that read them so."""

_READ_AT_ONCE = 2**16
"""Of larger files the head alone is read at first."""

Size = tuple[int, int]


class Look(NamedTuple):
    """What the head of an image file says: height and width, and whether it is grey."""

    size: Size
    grey: bool


class Settings(msgspec.Struct, frozen=True):
    """What pixels depend on beside the files."""

    size: Size | None


def read(argument: str, options: ReadOptions) -> Dataset:
    """Reads ``DIR/<class>/*`` or ``DIR/{train,val,test}/<class>/*``, or a ``.tar.gz``, ``.tgz`` or ``.zip`` of that.

    Classes are in the order of their names as text. Of an image with several frames the first is taken.
    Images are taken as they are stored: an orientation in their metadata is not applied.

    Raises:
        UsageError: no path.
        DataError: nothing there to build on, or images that cannot be used.
    """
    path = resolve("images", argument)
    return read_trees(f"images:{path}", [open_tree(path)], options)


def read_trees(name: str, trees: Sequence[Tree], options: ReadOptions) -> Dataset:
    """Reads the images in several trees, as if they were in one.

    Raises:
        DataError: nothing there to build on, or images that cannot be used.
    """
    method = Method(
        what="images",
        wanted=is_image,
        open=opened,
        look=look,
        arrange=by_folder,
        plan=partial(plan, size=options.size),
        settings=Settings(options.size),
        alarms={Image.DecompressionBombWarning: ""},
        advice="repair or remove them, skip them (--on-bad skip), or bring all to one size (--image-size)",
    )
    return read_files(name, trees, options, method)


def is_image(path: str) -> bool:
    """Whether a file's name ends as that of an image."""
    return f".{path.rpartition('.')[2].lower()}" in _suffixes()


@contextmanager
def opened(member: Member) -> Iterator[Image.Image]:
    """Reads the head of an image file; the rest is read when its pixels are wanted."""
    file = io.BytesIO(member.read()) if member.size <= _READ_AT_ONCE else member.open()
    with file, _open_image(file) as image:
        yield image


def look(image: Image.Image) -> Look:
    """What the head of an image file says."""
    if not _has_known_range(image):
        raise ValueError(f"pixels of mode {image.mode}, whose range is not known")
    return Look((image.height, image.width), image.mode in _GREY_MODES or _is_16_bit(image))


def plan(looks: Mapping[str, Look], learning: Sequence[Look], size: Size | None) -> Plan[Image.Image]:
    """Decides what is made of images.

    Args:
        looks: what was seen of each.
        learning: what was seen of those to learn from, which decide.
        size: height and width that all are brought to; if None the most common one, and others are faults.
    """
    target = size or Counter(seen.size for seen in learning).most_common(1)[0][0]
    unlike = {path: seen.size for path, seen in looks.items() if seen.size != target}
    faults = {} if size else {path: f"{_times(one)}, and most are {_times(target)}" for path, one in unlike.items()}
    kept = [seen for path, seen in looks.items() if path not in faults]
    grey = sum(seen.grey for seen in kept)
    channels = 1 if all(seen.grey for seen in learning if size or seen.size == target) else 3
    notes = []
    if size and unlike:
        notes.append(f"{len(unlike):,} of {len(looks):,} images are brought to {_times(size)}, cut at the edges")
    if grey and channels == 3:
        notes.append(f"{grey:,} of {len(kept):,} images are grey, and made colour as the others are")
    if grey < len(kept) and channels == 1:
        notes.append(
            f"{len(kept) - grey:,} of {len(kept):,} images are in colour, and made grey as those to learn from"
        )
    return Plan(
        input=InputSpec(kind="image", shape=(*target, channels), dtype="uint8", minimum=0.0, maximum=255.0),
        decode=partial(decode, size=target, channels=channels),
        faults=faults,
        notes=tuple(notes),
    )


def decode(image: Image.Image, size: Size, channels: int) -> Array:
    """Reads the pixels of an image.

    An image of another size is scaled until it covers this one, then cut at its edges.

    Args:
        image: with only its head read.
        size: height and width.
        channels: 1 for grey, 3 for red, green and blue.

    Returns:
        Pixels of shape (height, width, channels) and type uint8, from 0 to 255.
    """
    height, width = size
    if image.size != (width, height):
        image.draft(None, (2 * width, 2 * height))
    pixels = _eight_bit(image) if _is_16_bit(image) else image
    mode = "L" if channels == 1 else "RGB"
    converted = pixels if pixels.mode == mode else pixels.convert(mode)
    if converted.size != (width, height):
        converted = ImageOps.fit(converted, (width, height), Image.Resampling.BILINEAR)
    return np.frombuffer(converted.tobytes(), np.uint8).reshape(height, width, channels)


def _open_image(file: BinaryIO) -> Image.Image:
    try:
        return Image.open(file, formats=_formats())
    except UnidentifiedImageError:  # whose message has the file's address in memory
        raise ValueError("no image, or none that is whole") from None


@cache
def _suffixes() -> frozenset[str]:
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS)


@cache
def _formats() -> tuple[str, ...]:
    """The formats that this build of Pillow knows."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _times(size: Size) -> str:
    return f"{size[0]}×{size[1]}"


def _is_16_bit(image: Image.Image) -> bool:
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in _SIXTEEN_BIT_FORMATS)


def _has_known_range(image: Image.Image) -> bool:
    return image.mode not in {"I", "F"} or _is_16_bit(image)


def _eight_bit(image: Image.Image) -> Image.Image:
    """The upper eight of sixteen bits; Pillow's own conversion would cut values off at 255."""
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
