from __future__ import annotations

import io
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from readerfiles import SIZE, SKIP, labels, pixels, refusal, tar, write_image, write_images, zipped

from fleetfoot.errors import DataError, UsageError
from zoo.datasets import ReadOptions, load_dataset, split_indices
from zoo.readers import images

CATS_AND_DOGS = {"cat": 6, "dog": 5}


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    root = tmp_path / "pets"
    write_images(root, CATS_AND_DOGS)
    return root


def load(path: Path, options: ReadOptions | None = None):
    return load_dataset(f"images:{path}", options)


def test_a_folder_per_class_is_a_dataset(tmp_path: Path) -> None:
    written = write_images(tmp_path, CATS_AND_DOGS)
    dataset = load(tmp_path)
    assert dataset.classes == ("cat", "dog")
    assert labels(dataset) == ["cat"] * 6 + ["dog"] * 5
    assert dataset.y.dtype == np.int64
    assert dataset.test is None
    assert dataset.groups is None
    assert dataset.input.kind == "image"
    assert dataset.input.shape == (*SIZE, 3)
    assert (dataset.input.minimum, dataset.input.maximum) == (0, 255)
    assert dataset.x.dtype == dataset.input.dtype == "uint8"
    np.testing.assert_array_equal(dataset.x, [written[path] for path in sorted(written)])


def test_the_name_finds_it_again_from_elsewhere(pets: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(pets.parent)
    name = load_dataset("images:pets").name
    assert name == f"images:{pets}"
    monkeypatch.chdir("/")
    assert load_dataset(name).classes == ("cat", "dog")


def test_the_inputs_are_mapped_from_the_disk_and_cannot_be_written(pets: Path) -> None:
    x = load(pets).x
    assert isinstance(x, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        x[0] = 0


def test_a_mapped_dataset_hashes_and_divides_as_any_other(tmp_path: Path) -> None:
    write_images(tmp_path, {"cat": 20, "dog": 20})
    dataset = load(tmp_path)
    ids = dataset.input_ids(np.arange(40))
    assert len(set(ids)) == 40
    assert dataset.fingerprint == load(tmp_path).fingerprint
    assert sorted(np.concatenate(list(split_indices(dataset, 0).values()))) == list(range(40))


def test_train_and_test_folders_are_kept_apart_and_validation_is_to_learn_from(tmp_path: Path) -> None:
    write_images(tmp_path, {"train/cat": 5, "train/dog": 5, "val/cat": 2, "test/cat": 1, "test/dog": 3})
    dataset = load(tmp_path)
    assert dataset.classes == ("cat", "dog")
    assert dataset.test is not None
    assert labels(dataset, dataset.test) == ["cat", "dog", "dog", "dog"]
    assert len(dataset.y) == 16


@pytest.mark.parametrize("top", ["Train", "training", "validation", "TEST"])
def test_folders_for_splits_have_several_names(tmp_path: Path, top: str) -> None:
    write_images(tmp_path, {"train/cat": 5, "train/dog": 5, f"{top}/cat": 5, f"{top}/dog": 5})
    dataset = load(tmp_path)
    assert dataset.classes == ("cat", "dog")
    assert (dataset.test is not None) == (top == "TEST")


def test_images_for_testing_decide_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path, {"train/cat": 5, "train/dog": 5}, channels=1)
    write_images(tmp_path, {"test/cat": 20, "test/dog": 20})
    dataset = load(tmp_path)
    assert dataset.x.shape == (50, *SIZE, 1)
    assert "40 of 50 images are in colour, and made grey" in capsys.readouterr().err

    for number in range(20):
        write_image(tmp_path / "test" / "cat" / f"{number}.png", pixels(number, (9, 9)))
    assert "20 of 50 files cannot be used: test/cat/0.png (9×9, and most are 8×6)" in refusal(
        f"images:{tmp_path}", DataError
    )


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    write_images(tmp_path, {"train": 5, "bus": 5})
    assert load(tmp_path).classes == ("bus", "train")


def test_images_may_lie_deeper_than_their_class_folder(tmp_path: Path) -> None:
    write_images(tmp_path, {"cat/red": 3, "cat/black": 3, "dog": 5})
    assert load(tmp_path).classes == ("cat", "dog")


def test_a_folder_around_everything_means_nothing(tmp_path: Path) -> None:
    write_images(tmp_path, {"pets/images/train/cat": 5, "pets/images/train/dog": 5, "pets/images/test/cat": 1})
    dataset = load(tmp_path)
    assert dataset.classes == ("cat", "dog")
    assert dataset.test is not None


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".webp", ".gif", ".jpg", ".JPEG", ".tiff", ".ppm"])
def test_formats(tmp_path: Path, suffix: str) -> None:
    write_images(tmp_path, CATS_AND_DOGS, suffix=suffix)
    assert load(tmp_path).x.shape == (11, *SIZE, 3)


def test_of_an_animation_the_first_frame_is_taken(tmp_path: Path) -> None:
    write_images(tmp_path, CATS_AND_DOGS, suffix=".gif", channels=1)
    first, second = Image.fromarray(pixels(0, channels=1)), Image.fromarray(pixels(1, channels=1))
    first.save(tmp_path / "cat" / "0.gif", save_all=True, append_images=[second])
    np.testing.assert_array_equal(load(tmp_path).x[0, ..., 0], pixels(0, channels=1))


def test_grey_images_have_one_channel(tmp_path: Path) -> None:
    write_images(tmp_path, CATS_AND_DOGS, channels=1)
    assert load(tmp_path).x.shape == (11, *SIZE, 1)


def test_grey_images_among_colour_are_made_colour_and_counted(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grey = pixels(9, channels=1)
    write_image(pets / "cat" / "0.png", grey)
    dataset = load(pets)
    np.testing.assert_array_equal(dataset.x[0], np.repeat(grey[..., np.newaxis], 3, axis=2))
    assert "1 of 11 images are grey, and made colour" in capsys.readouterr().err


@pytest.mark.parametrize("mode", ["1", "LA", "P", "RGBA", "CMYK"])
def test_pixels_of_other_modes_are_converted(tmp_path: Path, mode: str) -> None:
    write_images(tmp_path, CATS_AND_DOGS, suffix=".tiff")
    Image.fromarray(pixels(0)).convert(mode).save(tmp_path / "cat" / "0.tiff")
    assert load(tmp_path).x.shape == (11, *SIZE, 3)


def test_sixteen_bits_are_scaled_to_eight_and_not_cut_off(tmp_path: Path) -> None:
    write_images(tmp_path, CATS_AND_DOGS, channels=1)
    deep = (pixels(0, channels=1).astype(np.uint16) << 8) + 255
    write_image(tmp_path / "cat" / "0.png", deep)
    dataset = load(tmp_path)
    assert dataset.input.shape == (*SIZE, 1)
    np.testing.assert_array_equal(dataset.x[0, ..., 0], pixels(0, channels=1))


def test_pixels_of_unknown_range_are_a_fault(pets: Path) -> None:
    write_image(pets / "cat" / "x.tiff", np.ones(SIZE, np.float32))
    assert "cat/x.tiff (pixels of mode F, whose range is not known)" in refusal(f"images:{pets}", DataError)


def test_images_of_another_size_are_refused_naming_the_first_three(pets: Path) -> None:
    for number in range(5):
        write_image(pets / "dog" / f"big{number}.png", pixels(0, (9, 9)))
    message = refusal(f"images:{pets}", DataError)
    assert "5 of 16 files cannot be used: dog/big0.png (9×9, and most are 8×6), dog/big1.png" in message
    assert "dog/big2.png (9×9, and most are 8×6) and 2 more; " in message
    assert "size" in message
    assert "big3" not in message


def test_images_of_another_size_are_skipped_if_wanted(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(pets / "dog" / "big.png", pixels(0, (9, 9)))
    assert len(load(pets, SKIP).y) == 11
    error = capsys.readouterr().err
    assert "1 of 12 files cannot be used: dog/big.png (9×9, and most are 8×6); they are skipped" in error


def test_with_a_size_given_images_are_brought_to_it_and_counted(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(pets / "dog" / "big.png", np.full((100, 300, 3), 77, np.uint8))
    dataset = load(pets, ReadOptions(size=SIZE))
    assert dataset.x.shape == (12, *SIZE, 3)
    assert (dataset.x[-1] == 77).all()
    assert "1 of 12 images are brought to 8×6" in capsys.readouterr().err


def test_resizing_keeps_the_aspect_and_the_centre(tmp_path: Path) -> None:
    write_images(tmp_path, CATS_AND_DOGS)
    stripes = np.zeros((40, 120, 3), np.uint8)
    stripes[:, 40:80] = 200
    write_image(tmp_path / "cat" / "0.png", stripes)
    x = load(tmp_path, ReadOptions(size=(10, 10))).x[0]
    assert (x[:, 1:-1] == 200).all()
    assert (x > 100).all()


def test_resizing_averages_what_it_makes_smaller(tmp_path: Path) -> None:
    write_images(tmp_path, CATS_AND_DOGS)
    board = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    write_image(tmp_path / "cat" / "0.png", np.repeat(board[..., np.newaxis], 3, axis=2))
    x = load(tmp_path, ReadOptions(size=(8, 8))).x[0]
    assert np.abs(x.astype(int) - 127).max() <= 8


def test_a_photo_is_made_small_as_well_as_a_png(tmp_path: Path) -> None:
    """JPEG decoders may shrink while they decode."""
    rows, columns = np.mgrid[0:480, 0:640]
    photo = np.stack([rows * 255 / 480, columns * 255 / 640, rows * 0 + 90], axis=2).astype(np.uint8)
    for suffix in (".jpg", ".png"):
        write_images(tmp_path / suffix[1:], CATS_AND_DOGS)
        path = write_image(tmp_path / suffix[1:] / "cat" / f"a{suffix}", photo)
        path.rename(path.with_name(f"0{suffix}"))
    jpg, png = (load(tmp_path / kind, ReadOptions(size=(16, 16))).x for kind in ("jpg", "png"))
    assert np.abs(jpg[0].astype(int) - png[0]).mean() < 3


@pytest.mark.parametrize("damage", ["truncated", "empty", "no image"])
def test_unreadable_files_are_refused_or_skipped(pets: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    whole = write_image(pets / "cat" / "zz.png", pixels(99)).read_bytes()
    content = {"truncated": whole[: len(whole) // 2], "empty": b"", "no image": b"id,label\n1,cat\n"}[damage]
    (pets / "cat" / "zz.png").write_bytes(content)
    message = refusal(f"images:{pets}", DataError)
    assert "1 of 12 files cannot be used: cat/zz.png (" in message
    assert "skip them" in message
    assert "0x" not in message, "an address in memory tells nobody anything"

    assert len(load(pets, SKIP).y) == 11
    assert "they are skipped" in capsys.readouterr().err
    refusal(f"images:{pets}", DataError)
    assert len(load(pets, SKIP).y) == 11
    assert "cat/zz.png" in capsys.readouterr().err, "it is said each time"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the images that are opened, as it happens."""
    paths: list[str] = []
    original = images.opened

    def counting(member):
        paths.append(member.path)
        return original(member)

    monkeypatch.setattr(images, "opened", counting)
    return paths


@pytest.mark.parametrize("packed", [False, True])
def test_images_that_look_alike_are_opened_once(pets: Path, tmp_path: Path, opened: list[str], packed: bool) -> None:
    load(tar(pets, tmp_path / "a.tar.gz") if packed else pets)
    assert len(opened) == len(set(opened)) == 11


def test_large_images_are_decoded_when_it_is_known_that_they_are_wanted(tmp_path: Path, opened: list[str]) -> None:
    for number in range(10):
        write_image(tmp_path / "cat" / f"{number}.bmp", pixels(number, (200, 200)))
    assert "only one class" in refusal(f"images:{tmp_path}", DataError)
    assert len(opened) == 10


@pytest.mark.parametrize("odd", ["cat/0", "dog/2", "dog/9"])
@pytest.mark.parametrize("kind", ["another size", "grey", "truncated", "no image", "misplaced"])
def test_rows_stay_with_their_files_whichever_is_unlike_the_others(tmp_path: Path, odd: str, kind: str) -> None:
    written = write_images(tmp_path, {"cat": 10, "dog": 10})
    path, row = tmp_path / f"{odd}.png", written.pop(f"{odd}.png")
    content = path.read_bytes()
    if kind == "another size":
        write_image(path, pixels(0, (9, 9)))
    elif kind == "grey":
        write_image(path, row[..., 0])
        written[f"{odd}.png"] = np.repeat(row[..., :1], 3, axis=2)
    elif kind == "misplaced":
        path.rename(tmp_path / ("a.png" if odd == "cat/0" else "z.png"))
    else:
        path.write_bytes(content[:-60] if kind == "truncated" else b"no image")
    dataset = load(tmp_path, SKIP)
    np.testing.assert_array_equal(dataset.x, [written[name] for name in sorted(written)])
    assert labels(dataset) == [name[:3] for name in sorted(written)]


def test_a_truncated_photo_is_a_fault(tmp_path: Path) -> None:
    write_images(tmp_path, CATS_AND_DOGS, suffix=".jpg")
    path = tmp_path / "dog" / "4.jpg"
    path.write_bytes(path.read_bytes()[:-60])
    assert "dog/4.jpg (" in refusal(f"images:{tmp_path}", DataError)


def test_an_image_that_would_fill_the_memory_is_a_fault(pets: Path) -> None:
    with (pets / "cat" / "bomb.png").open("wb") as file:
        Image.new("1", (12_000, 12_000)).save(file)
    assert "cat/bomb.png (Image size (144000000 pixels) exceeds limit" in refusal(f"images:{pets}", DataError)


def test_a_file_without_permission_and_a_link_to_nowhere_are_faults(pets: Path) -> None:
    (pets / "cat" / "gone.png").symlink_to(pets / "nowhere.png")
    os.mkfifo(pets / "cat" / "pipe.png")
    message = refusal(f"images:{pets}", DataError)
    assert "cat/gone.png (no regular file, or a link to nowhere)" in message
    assert "cat/pipe.png (no regular file" in message


def test_when_no_image_can_be_read_skipping_does_not_help(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "a.png").write_bytes(b"nothing")
    assert "2 of 2 files cannot be used" in refusal(f"images:{tmp_path}", DataError, SKIP)


def test_when_no_image_can_be_decoded_skipping_does_not_help(tmp_path: Path, cache: Path) -> None:
    write_images(tmp_path, CATS_AND_DOGS)
    for path in tmp_path.rglob("*.png"):
        path.write_bytes(path.read_bytes()[:-60])
    assert "11 of 11 files cannot be used" in refusal(f"images:{tmp_path}", DataError, SKIP)
    assert not list(cache.rglob("*.npy"))


def test_links_to_folders_and_files_are_followed_and_loops_are_not(pets: Path, tmp_path: Path) -> None:
    root = tmp_path / "links"
    root.mkdir()
    (root / "cat").symlink_to(pets / "cat")
    (root / "dog").symlink_to(pets / "dog")
    (pets / "dog" / "loop").symlink_to(pets / "dog")
    assert len(load(root).y) == 11


def test_hidden_files_and_what_systems_leave_are_not_looked_at(pets: Path) -> None:
    for name in (".hidden/a.png", "__MACOSX/cat/._0.png", "cat/.DS_Store", "cat/Thumbs.db", ".git/config"):
        path = pets / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(b"x")
    assert len(load(pets).y) == 11


def test_files_that_are_no_images_are_left_out_and_said(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pets / "README.md").write_text("pets")
    assert len(load(pets).y) == 11
    assert "left out: README.md" in capsys.readouterr().err


def test_images_in_no_class_folder_are_faults(pets: Path) -> None:
    write_image(pets / "lost.png", pixels(0))
    assert "lost.png (in no class folder)" in refusal(f"images:{pets}", DataError)
    assert len(load(pets, SKIP).y) == 11


def test_images_that_are_neither_to_learn_from_nor_to_test_are_faults(tmp_path: Path) -> None:
    write_images(tmp_path, {"train/cat": 5, "train/dog": 5, "extra/dog": 1})
    assert "extra/dog/0.png (beside the folders for training and testing)" in refusal(f"images:{tmp_path}", DataError)


def test_links_in_a_circle_are_faults(pets: Path) -> None:
    (pets / "cat" / "loop.png").symlink_to("loop.png")
    assert "cat/loop.png (Too many levels of symbolic links)" in refusal(f"images:{pets}", DataError)
    assert len(load(pets, SKIP).y) == 11


def test_names_that_are_no_utf8_are_read(pets: Path) -> None:
    (pets / "cat" / "0.png").rename(os.fsdecode(os.fsencode(pets) + b"/cat/\xff.png"))
    assert len(load(pets).y) == 11


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        ({}, "holds no images"),
        ({"cat": 6}, "only one class, cat"),
        ({"cat": 6, "dog": 0}, "nothing to read in dog"),
        ({"train/cat": 6, "train/dog": 6, "test/cat": 0}, "nothing to read in test/cat"),
        ({"cat": 6, "dog": 4}, "fewer than 5 examples to learn from: dog (4)"),
        ({"test/cat": 6, "test/dog": 6}, "no examples to learn from"),
        ({"train/cat": 6, "train/dog": 6, "test/emu": 6}, "fewer than 5 examples to learn from: emu (0)"),
    ],
)
def test_what_is_no_dataset_is_refused(tmp_path: Path, folders: dict[str, int], said: str) -> None:
    write_images(tmp_path, folders)
    assert said in refusal(f"images:{tmp_path}", DataError)


def test_what_is_not_there_or_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("id,label\n")
    assert "does not exist" in refusal(f"images:{tmp_path}/gone", DataError)
    assert "neither a folder nor an archive" in refusal(f"images:{tmp_path}/labels.csv", DataError)
    assert "images:PATH" in refusal("images", UsageError)
    assert "images:PATH" in refusal("images:", UsageError)


@pytest.mark.parametrize("option", [{"size": (0, 8)}, {"size": (8, -1)}, {"seconds": 0.0}, {"sampling_rate": 0}])
def test_options_that_cannot_be_meant_are_refused(option: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="has to be positive"):
        ReadOptions(**option)


@pytest.mark.parametrize("pack", [tar, zipped])
@pytest.mark.parametrize("folders", [CATS_AND_DOGS, {"train/cat": 5, "train/dog": 5, "test/dog": 2}])
def test_an_archive_is_as_good_as_its_folder(tmp_path: Path, pack, folders: dict[str, int]) -> None:
    root = tmp_path / "pets"
    write_images(root, folders)
    suffix = ".tgz" if pack is tar else ".ZIP"
    unpacked, packed = load(root), load(pack(root, tmp_path / f"pets{suffix}"))
    rows = {array.tobytes(): label for array, label in zip(unpacked.x, labels(unpacked), strict=True)}
    assert {array.tobytes(): label for array, label in zip(packed.x, labels(packed), strict=True)} == rows
    assert (packed.test is None) == (unpacked.test is None)
    assert packed.name == f"images:{tmp_path}/pets{suffix}"


def test_an_archive_with_a_folder_around_everything_is_read(pets: Path, tmp_path: Path) -> None:
    assert load(tar(pets, tmp_path / "a.tar.gz", "pets-1.0/data")).classes == ("cat", "dog")


@pytest.mark.parametrize("name", ["../../evil/0.png", "/etc/evil/0.png", "cat/../../evil.png"])
@pytest.mark.parametrize("suffix", [".tar.gz", ".zip"])
def test_an_archive_that_leads_out_of_itself_is_refused(pets: Path, tmp_path: Path, name: str, suffix: str) -> None:
    path = tmp_path / f"trick{suffix}"
    content = (pets / "cat" / "0.png").read_bytes()
    if suffix == ".zip":
        with zipfile.ZipFile(zipped(pets, path), "a") as archive:
            archive.writestr(name, content)
    else:
        with tarfile.open(path, "w:gz") as archive:
            archive.add(pets, ".")
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    before = sorted(tmp_path.rglob("*"))
    assert "which leads out of it" in refusal(f"images:{path}", DataError)
    assert sorted(tmp_path.rglob("*")) == before


def test_nothing_of_an_archive_is_written_under_its_own_name(pets: Path, tmp_path: Path, cache: Path) -> None:
    load(tar(pets, tmp_path / "a.tar.gz"))
    assert {path.suffix for path in cache.rglob("*") if path.is_file()} == {".npy", ".json", ""}
    assert not list(cache.rglob("*cat*"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_in_an_archive_are_faults(pets: Path, tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(pets, ".")
        info = tarfile.TarInfo("cat/link.png")
        info.type = kind
        info.linkname = "/etc/passwd"
        archive.addfile(info)
    assert "cat/link.png (a link; those in archives are not followed)" in refusal(f"images:{path}", DataError)
    assert len(load(path, SKIP).y) == 11


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("pack", [tar, zipped])
def test_a_damaged_archive_is_refused(pets: Path, tmp_path: Path, pack, share: float) -> None:
    path = pack(pets, tmp_path / ("a.zip" if pack is zipped else "a.tar.gz"))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert "is damaged, or no archive" in refusal(f"images:{path}", DataError)


def test_a_file_that_is_twice_in_an_archive_is_refused(pets: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(pets, ".")
        archive.add(pets, ".")
    assert "which was there before" in refusal(f"images:{path}", DataError)


def test_an_encrypted_or_broken_member_of_a_zip_is_a_fault(pets: Path, tmp_path: Path) -> None:
    path = zipped(pets, tmp_path / "a.zip")
    content = bytearray(path.read_bytes())
    start = content.index(b"cat/0.png") + len("cat/0.png")
    content[start + 40 : start + 50] = bytes(10)
    path.write_bytes(content)
    assert "1 of 11 files cannot be used: cat/0.png (" in refusal(f"images:{path}", DataError)


def test_the_classes_are_in_the_order_of_text_as_other_tools_have_them(tmp_path: Path) -> None:
    write_images(tmp_path, {"10": 5, "9": 5, "B": 5, "a": 5})
    assert load(tmp_path).classes == ("10", "9", "B", "a")
