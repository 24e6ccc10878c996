"""Training and quantising two networks on real data.

ResNet-8 of MLPerf Tiny, as it was trained on the original CIFAR-10, on the images as JPEG: fine-tuned for five
epochs, then in every number format. DS-CNN S from scratch on spoken digits, cross-validated over five folds, in
float and int8. The settings are the defaults, but for the DS-CNN's learning rate and epochs; test accuracies were seen
while they were tried, so these are no blind results. Data and network are taken from ``$FLEETFOOT_DATA`` or
``../shared/data``.
"""

from __future__ import annotations

import os
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from results import save
from sklearn.metrics import f1_score
from sklearn.model_selection import StratifiedKFold, train_test_split

from premodel.evaluation import bootstrap_interval
from profiling.device import connect_device
from profiling.profile import Target
from zoo.architectures import ARCHITECTURES
from zoo.backend import make_deterministic
from zoo.batches import TrainingData
from zoo.datasets import Dataset, Indices, ReadOptions, load_dataset, split_indices
from zoo.export import export, predict
from zoo.finetune import FINE_TUNING_RATE, recalibrate_batch_norm, train
from zoo.models import base_model
from zoo.recipe import QUANTIZATIONS

ROOT = Path(__file__).parent.parent
DATA = Path(os.environ.get("FLEETFOOT_DATA", ROOT.parent / "shared" / "data"))
IMAGES = ("cifar10-train-jpeg.tar.gz", "cifar10-test-even-jpeg.tar.gz")
RECORDINGS = "fsdd/fsdd-five-speakers.tar.gz"
RESNET_EPOCHS, KEYWORD_EPOCHS, FOLDS = 5, 30, 5
KEYWORD_RATE = 2e-3


def main() -> None:
    """Trains, exports and measures both."""
    if not DATA.exists():
        print(f"training: not measured, {DATA} is absent")
        return
    with tempfile.TemporaryDirectory() as directory:
        numbers = {"resnet8": resnet(Path(directory)), "ds_cnn_s": keywords(Path(directory))}
    save("training", numbers)


def resnet(folder: Path) -> dict[str, Any]:
    """From what was given to what five epochs make of it, and its number formats."""
    for name in IMAGES:
        with tarfile.open(DATA / "cifar10" / name) as archive:
            archive.extractall(folder / "cifar10", filter="data")
    dataset = load_dataset(f"images:{folder / 'cifar10'}")
    splits = split_indices(dataset, 0)
    data, test = TrainingData.of(dataset, splits, ("flip",)), splits["test"]
    make_deterministic(0)
    model = base_model(str(DATA / "models" / "mlperf_tiny_resnet8_cifar10.h5"), dataset, splits["train"]).model
    given = accuracy(model, dataset, test)
    start = time.monotonic()
    recalibrate_batch_norm(model, data)
    recalibration_seconds = time.monotonic() - start
    recalibrated = accuracy(model, dataset, test)
    start = time.monotonic()
    train(model, data, epochs=RESNET_EPOCHS, learning_rate=FINE_TUNING_RATE, name="ResNet-8")
    seconds = time.monotonic() - start
    return {
        "train_images": len(data.train),
        "test_images": len(test),
        "epochs": RESNET_EPOCHS,
        "seconds_per_epoch": round(seconds / RESNET_EPOCHS, 1),
        "accuracy_as_given": given,
        "accuracy_recalibrated": recalibrated,
        "recalibration_seconds": round(recalibration_seconds, 1),
        "accuracy": accuracy(model, dataset, test),
        "formats": formats(model, data, test, folder),
    }


def keywords(folder: Path) -> dict[str, Any]:
    """Accuracy on each fold's held-out recordings, in float and int8; the formats of the last fold's network."""
    dataset = load_dataset(f"speech:{DATA / RECORDINGS}", ReadOptions(seconds=1.0))
    right = np.zeros((2, len(dataset.y)), bool)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(dataset.x, dataset.y)
    for fold, (rest, test) in enumerate(folds):
        learn, tune = train_test_split(rest, test_size=0.1, stratify=dataset.y[rest], random_state=fold)
        data = TrainingData(dataset, np.sort(learn), np.sort(tune), ("shift",))
        make_deterministic(fold)
        model = ARCHITECTURES["ds-cnn"](dataset.input, len(dataset.classes))
        train(model, data, epochs=KEYWORD_EPOCHS, learning_rate=KEYWORD_RATE, seed=fold, name=f"fold {fold + 1}")
        for row, numbers in enumerate((None, "int8")):
            right[row, test] = answers(model, data, numbers, test, folder)[0].argmax(axis=1) == dataset.y[test]
    float_right, int8_right = right
    return {
        "recordings": len(dataset.y),
        "folds": FOLDS,
        "epochs": KEYWORD_EPOCHS,
        "accuracy": float(float_right.mean()),
        "int8_accuracy": float(int8_right.mean()),
        "int8_lost_interval": lost_interval(float_right, int8_right),
        "formats": formats(model, data, test, folder),
    }


def formats(model: Any, data: TrainingData, test: Indices, folder: Path) -> dict[str, Any]:
    """What each number format keeps of a network's accuracy, how large it is and what it takes on one thread."""
    rows: dict[str, dict[str, Any]] = {}
    y = data.dataset.y[test]
    reference: npt.NDArray[np.bool_] | None = None
    for numbers in (None, *QUANTIZATIONS):
        probabilities, spared = answers(model, data, numbers, test, folder)
        predicted = probabilities.argmax(axis=1)
        reference = predicted == y if reference is None else reference
        rows[numbers or "float32"] = {
            "accuracy": float((predicted == y).mean()),
            "macro_f1": float(f1_score(y, predicted, average="macro")),
            "lost_interval": lost_interval(reference, predicted == y),
            "bytes": (folder / f"{numbers}.tflite").stat().st_size,
            "kept_in_float": len(spared),
        }
    targets = [Target(numbers or "float32", folder / f"{numbers}.tflite", "m") for numbers in (None, *QUANTIZATIONS)]
    profile = connect_device("local").measure(targets, threads=1)
    for name, row in rows.items():
        row["p50_ms"] = round(profile.measurements[name].latency.p50_ms, 4)
    return rows


def answers(
    model: Any, data: TrainingData, numbers: str | None, test: Indices, folder: Path
) -> tuple[npt.NDArray[Any], tuple[str, ...]]:
    """Probabilities of the exported network for test inputs, and which operators stayed in float."""
    path = folder / f"{numbers}.tflite"
    spared = export({"m": model}, path, quantize=numbers, x=data.x_tune, y=data.y_tune)
    return predict(path, "m", data.dataset.x[test]), spared


def accuracy(model: Any, dataset: Dataset, indices: Indices) -> float:
    """The share of inputs that a Keras network answers rightly."""
    return float((model.predict(dataset.x[indices], verbose=0).argmax(axis=1) == dataset.y[indices]).mean())


def lost_interval(before: npt.NDArray[np.bool_], after: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """The paired 95 % bootstrap interval of the accuracy that was lost."""
    return bootstrap_interval(before.astype(float) - after.astype(float))


if __name__ == "__main__":
    main()
