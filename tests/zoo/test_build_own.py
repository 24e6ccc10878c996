"""Building a zoo of one's own network and one's own photos, in one go."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from zoo import base, candidates
from zoo.backend import keras, make_deterministic
from zoo.catalog import Zoo
from zoo.commands import build_zoo
from zoo.record import BuildRecord

layers = keras.layers

Array = npt.NDArray[Any]
Call = Callable[..., tuple[int, str]]

CLASSES = ("across", "down", "plain")
ONE_VARIANT = ["--prune", "0.5", "--low-rank", "", "--subnetworks", "", "--quantize", "", "--finetune-epochs", "1"]


def photo(label: int, number: int) -> Array:
    """Stripes across, stripes down, or none, in some colour."""
    random = np.random.default_rng([label, number])
    pixels = np.full((16, 16, 3), random.integers(60, 120, 3), np.float32)
    if label == 0:
        pixels[number % 4 :: 4] += 120
    elif label == 1:
        pixels[:, number % 4 :: 4] += 120
    return (pixels + random.normal(0, 8, pixels.shape)).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty JPEGs of each class; read-only by agreement."""
    root: Path = tmp_path_factory.mktemp("photos")
    for label, name in enumerate(CLASSES):
        (root / name).mkdir()
        for number in range(20):
            Image.fromarray(photo(label, number)).save(root / name / f"{number}.jpg", quality=95)
    return root


def network(classes: int = len(CLASSES)) -> Any:
    make_deterministic(0)
    inputs = keras.Input((16, 16, 3))
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.5)(layers.Conv2D(16, 5, name="first")(inputs)))
    x = layers.GlobalMaxPooling2D()(layers.Conv2D(16, 3, activation="relu", name="second")(x))
    return keras.Model(inputs, layers.Dense(classes, activation="softmax", kernel_initializer="zeros")(x))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that was trained elsewhere, on other photos, whose values were 0 to 1."""
    model = network()
    x = np.stack([photo(label, 100 + number) for label in range(3) for number in range(40)]) / np.float32(255)
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    model.fit(x, np.repeat(range(3), 40), epochs=12, verbose=0)
    path: Path = tmp_path_factory.mktemp("model") / "my.keras"
    model.save(path)
    return path


@pytest.fixture(autouse=True)
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEETFOOT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def build(capsys: pytest.CaptureFixture[str]) -> Call:
    """Calls ``build-zoo`` and returns its exit status and standard error."""

    def call(*arguments: object) -> tuple[int, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            build_zoo.main([str(argument) for argument in arguments], "build-zoo")
        return int(end.value.code or 0), capsys.readouterr().err

    return call


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What is trained, and for how many epochs."""
    seen: list[tuple[str, int]] = []
    for module in (base, candidates):
        real = module.train

        def train(*arguments: Any, real: Any = real, **options: Any) -> None:
            seen.append((options["name"], options["epochs"]))
            real(*arguments, **options)

        monkeypatch.setattr(module, "train", train)
    return seen


def test_a_network_that_knows_something_becomes_a_zoo_as_it_comes(
    build: Call, tmp_path: Path, photos: Path, trained: Path, trainings: list[tuple[str, int]]
) -> None:
    out = tmp_path / "zoo"
    status, said = build("--model", trained, "--data", f"images:{photos}", "--out", out, *ONE_VARIANT)
    assert status == 0, said
    assert "inputs are scaled to 0 to 1 (right by scaling: 0 to 255: " in said
    assert "0 to 1: 100%" in said
    assert "the base model is right on 100.0% of the tune split as it comes" in said
    assert trainings == [("pruned-0.5", 1)]
    zoo = Zoo.open(out)
    assert zoo.problems() == []
    assert zoo.manifest.classes == CLASSES
    assert (zoo.manifest.input.shape, zoo.manifest.input.dtype) == ((16, 16, 3), "uint8")
    assert [variant.rpartition("-")[0] for variant in zoo.variants] == ["base", "pruned-0.5"]
    assert zoo.manifest.variants[0].accuracy["test"] == 1
    kept = keras.saving.load_model(out / "base" / "model.keras", compile=False)
    given = keras.saving.load_model(trained, compile=False)
    for name in ("first", "second"):
        np.testing.assert_array_equal(kept.get_layer(name).get_weights()[0], given.get_layer(name).get_weights()[0])


def test_a_network_at_chance_is_trained(
    build: Call, tmp_path: Path, photos: Path, trainings: list[tuple[str, int]]
) -> None:
    network().save(tmp_path / "new.keras")
    options = ["--model", tmp_path / "new.keras", "--data", f"images:{photos}", "--epochs", 2]
    status, said = build("--out", tmp_path / "zoo", *options, *ONE_VARIANT, "--prune", "")
    assert status == 0, said
    assert "that is hardly better than chance: training it for 2 epochs" in said
    assert trainings == [("the base model", 2)]


def test_a_network_that_knows_something_is_trained_on_when_asked(
    build: Call, tmp_path: Path, photos: Path, trained: Path, trainings: list[tuple[str, int]]
) -> None:
    options = ["--model", trained, "--data", f"images:{photos}", "--train-base", 1]
    status, said = build("--out", tmp_path / "zoo", *options, *ONE_VARIANT, "--prune", "")
    assert status == 0, said
    assert trainings == [("the base model", 1)]


def test_no_epochs_of_fine_tuning_take_the_batch_norm_statistics_anew_and_change_nothing_else(
    build: Call, tmp_path: Path, photos: Path, trained: Path, trainings: list[tuple[str, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    made: list[Any] = []
    real = candidates.recalibrate_batch_norm

    def recalibrate(model: Any, data: Any) -> None:
        made.append((before := model.get_weights(), model))
        real(model, data)
        changed = [not np.array_equal(one, other) for one, other in zip(before, model.get_weights(), strict=True)]
        assert changed.count(True) == 2

    monkeypatch.setattr(candidates, "recalibrate_batch_norm", recalibrate)
    options = ["--model", trained, "--data", f"images:{photos}", *ONE_VARIANT, "--finetune-epochs", 0]
    status, said = build("--out", tmp_path / "zoo", *options)
    assert status == 0, said
    assert trainings == []
    assert len(made) == 1
    _, pruned = Zoo.open(tmp_path / "zoo").manifest.variants
    assert pruned.recipe.training is not None
    assert pruned.recipe.training.epochs == 0


def test_a_photo_that_cannot_be_read_is_refused_or_skipped_as_asked(
    build: Call, tmp_path: Path, photos: Path, trained: Path
) -> None:
    broken = tmp_path / "photos"
    broken.mkdir()
    for name in CLASSES:
        (broken / name).mkdir()
        for file in (photos / name).iterdir():
            (broken / name / file.name).write_bytes(file.read_bytes())
    (broken / "plain" / "19.jpg").write_bytes((photos / "plain" / "19.jpg").read_bytes()[:200])
    command = ["--model", trained, "--data", f"images:{broken}", "--out", tmp_path / "zoo", *ONE_VARIANT]
    status, said = build(*command)
    assert status == 1
    assert "19.jpg" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "zoo").exists()

    status, said = build(*command, "--on-bad", "skip")
    assert status == 0, said
    assert "19.jpg" in said
    record = BuildRecord.read(tmp_path / "zoo" / "build.json")
    assert sum(len(indices) for indices in record.splits.values()) == 59
    assert record.options.read.on_bad == "skip"


def test_a_network_of_other_classes_is_refused_in_one_line_before_anything_is_written(
    build: Call, tmp_path: Path, photos: Path
) -> None:
    network(classes=5).save(tmp_path / "five.keras")
    options = ["--model", tmp_path / "five.keras", "--data", f"images:{photos}", *ONE_VARIANT, "--quiet"]
    status, said = build("--out", tmp_path / "zoo", *options)
    assert status == 1
    assert "answers with shape (5,), and images:" in said
    assert "has 3 classes: retrain its last layer for them" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "zoo").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--augment", "rotate"], "unknown augmentation 'rotate': there is flip, shift"),
        (["--image-size", "0x16"], "is no size"),
        (["--image-size", "big"], "is no size"),
        (["--train-base", "-1"], "--train-base"),
        (["--on-bad", "repair"], "--on-bad"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["build", "dry run"])
def test_what_cannot_be_meant_is_refused_before_anything_is_written(
    build: Call, tmp_path: Path, photos: Path, trained: Path, options: list[str], message: str, dry: list[str]
) -> None:
    command = ["--model", trained, "--data", f"images:{photos}", "--out", tmp_path / "zoo", *ONE_VARIANT, "--quiet"]
    status, said = build(*command, *options, *dry)
    assert status == 2
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "zoo").exists()
