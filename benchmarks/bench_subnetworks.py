"""Nested subnetworks of DS-CNN S: accuracy on CIFAR-10 and on spoken digits, against networks trained alone.

CIFAR-10: the network that REDS starts from, trained by its authors on the original images, is ordered by Taylor
importance; widths are chosen for 25, 50, 75 and 100 % of the multiply-accumulates and trained together on the images as
JPEG. Beside them each is cut out of the same network and fine-tuned alone for as many epochs, and the two narrowest are
trained alone from scratch. Losses, learning rate and the way to weigh widths were chosen on the tune split, in short
runs like those of ``choice``. Reported are the 5,000 test images, which no decision has read.

Spoken digits: DS-CNN S from scratch, and its subnetworks, cross-validated over five folds.

Trainings take hours: ``--only PART``, several times if wanted, makes some of them, and without it what is missing.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
from cifar import DATA, Cache, right, training_data
from results import save
from sklearn.model_selection import StratifiedKFold, train_test_split

from premodel.evaluation import bootstrap_interval
from zoo.architectures import ARCHITECTURES
from zoo.backend import keras, make_deterministic
from zoo.batches import TrainingData
from zoo.channels import analyse, permute_model
from zoo.cost import count_macs
from zoo.datasets import Dataset, Indices, ReadOptions, load_dataset
from zoo.finetune import train
from zoo.importance import importance, order
from zoo.models import base_model
from zoo.subnetworks import Member, Weighing, choose_widths, count_costs, cut_member, train_jointly

CACHE = Cache("subnetworks")
SEED = 0
"""One only: three would take a day."""
MODEL = DATA / "models" / "reds_cifar10_dscnn_s.h5"
FRACTIONS = (0.25, 0.5, 0.75, 1.0)
EPOCHS = 20
RATE = 8e-3
CHOICE_EPOCHS = 6
CHOICES: Mapping[str, Mapping[str, Any]] = {
    "balanced-distilled": {},
    "balanced-reds": {"loss": "reds"},
    "sum-reds": {"loss": "reds", "weighing": "sum"},
    "balanced-distilled-l1": {"criterion": "l1"},
    "balanced-distilled-scratch": {"scratch": True},
}
RECORDINGS = DATA / "fsdd" / "fsdd-five-speakers.tar.gz"
FOLDS = 5
DIGIT_EPOCHS, DIGIT_TUNE_EPOCHS = 30, 20
DIGIT_RATE, DIGIT_TUNE_RATE = 2e-3, 4e-3


def main() -> None:
    """Makes what is not there yet; writes the numbers when all is."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--only", choices=_PARTS, action="append")
    arguments.add_argument("--report", action="store_true", help="train nothing: write the numbers of what was made")
    asked = arguments.parse_args()
    for part in () if asked.report else asked.only or _PARTS:
        CACHE.once(part, _PARTS[part])
    if not asked.only:
        save("subnetworks", summary())


# CIFAR-10.


@cache
def images() -> TrainingData:
    """CIFAR-10."""
    return training_data()


def given() -> Any:
    """The network as REDS's authors trained it."""
    data = images()
    return base_model(str(MODEL), data.dataset, data.train).model


def ladder(
    model: Any, data: TrainingData, criterion: str = "taylor", weighing: Weighing = "balanced"
) -> tuple[Any, list[Member]]:
    """The network in the order of importance, and its subnetworks."""
    scores = importance(model, criterion, data, seed=SEED)
    found = choose_widths(count_costs(analyse(model), "macs"), scores, FRACTIONS, weighing=weighing)
    for line in found.lines():
        print(line)
    return permute_model(model, order(scores)), [Member(rung.kept, rung.skipped) for rung in found.rungs]


def together() -> dict[str, Any]:
    """The subnetworks trained together."""
    data = images()
    model, members = ladder(given(), data)
    begun = time.monotonic()
    family = train_jointly(model, members, data, epochs=EPOCHS, learning_rate=RATE, seed=SEED)
    return {
        "widths": [dict(member.widths) for member in members],
        "macs": [count_macs(network) for network in family],
        "parameters": [network.count_params() for network in family],
        "right": [right(network, data) for network in family],
        "shared_statistics": [
            right(_with_norms_of(family[-1], network, member), data)
            for network, member in zip(family, members, strict=True)
        ],
        "seconds": time.monotonic() - begun,
    }


def _with_norms_of(whole: Any, network: Any, member: Member) -> Any:
    """A subnetwork with the batch normalisation of the whole one."""
    made = cut_member(whole, member)
    for layer in network.layers:
        if not isinstance(layer, keras.layers.BatchNormalization) and layer.weights:
            made.get_layer(layer.name).set_weights(layer.get_weights())
    return made


def alone(number: int, scratch: bool = False) -> dict[str, Any]:
    """One of these networks trained by itself: cut out of the trained one, or with new weights."""
    data = images()
    model, members = ladder(given(), data)
    network = cut_member(model, members[number])
    make_deterministic(SEED)
    if scratch:
        network = keras.models.clone_model(network)
    train(network, data, epochs=EPOCHS, learning_rate=RATE, seed=SEED)
    return {"right": right(network, data)}


def as_given() -> dict[str, Any]:
    """The network before any training on JPEG."""
    return {"right": right(given(), images())}


def choice(name: str) -> dict[str, Any]:
    """A short training in another way, told by the tune split."""
    data = dataclasses.replace(images(), train=images().train[::2])
    options = dict(CHOICES[name])
    loss, scratch = options.pop("loss", "distilled"), options.pop("scratch", False)
    model, members = ladder(given(), data, **options)
    if scratch:
        make_deterministic(SEED)
        model = keras.models.clone_model(model)
    family = train_jointly(model, members, data, epochs=CHOICE_EPOCHS, learning_rate=RATE, seed=SEED, loss=loss)
    return {
        "widths": [list(member.widths.values()) for member in members],
        "tune_accuracy": [float((data.tune_answers(network) == data.y_tune).mean()) for network in family],
    }


# Spoken digits.


def fold(number: int) -> dict[str, Any]:
    """One fold: the whole network from scratch, then its subnetworks together, and the narrowest alone."""
    dataset = load_dataset(f"speech:{RECORDINGS}", ReadOptions(seconds=1.0))
    folds = list(StratifiedKFold(FOLDS, shuffle=True, random_state=SEED).split(dataset.y, dataset.y))
    rest, test = folds[number]
    chosen, tune = train_test_split(rest, test_size=0.12, stratify=dataset.y[rest], random_state=SEED)
    data = TrainingData(dataset, np.sort(chosen), np.sort(tune), ("shift",))
    make_deterministic(SEED)
    model = ARCHITECTURES["ds-cnn"](dataset.input, len(dataset.classes))
    untrained = model.get_weights()
    train(model, data, epochs=DIGIT_EPOCHS, learning_rate=DIGIT_RATE, seed=SEED)
    whole = _right(model, dataset, test)
    model, members = ladder(model, data)
    family = train_jointly(model, members, data, epochs=DIGIT_TUNE_EPOCHS, learning_rate=DIGIT_TUNE_RATE, seed=SEED)
    model.set_weights(untrained)
    narrow = cut_member(model, members[0])
    make_deterministic(SEED)
    train(narrow, data, epochs=DIGIT_EPOCHS + DIGIT_TUNE_EPOCHS, learning_rate=DIGIT_RATE, seed=SEED)
    return {
        "widths": [list(member.widths.values()) for member in members],
        "before": whole,
        "right": [_right(network, dataset, test) for network in family],
        "narrowest_alone": _right(narrow, dataset, test),
    }


def _right(network: Any, dataset: Dataset, test: Indices) -> list[bool]:
    answers = network.predict(dataset.x[test], verbose=0, batch_size=64).argmax(axis=1)
    return [bool(value) for value in answers == dataset.y[test]]


# What is reported.


def summary() -> dict[str, Any]:
    """Accuracies, what was lost against the whole network, and against networks trained alone."""
    return {
        "cifar10": {
            "epochs": EPOCHS,
            "learning_rate": RATE,
            "train_images": len(images().train),
            "as_given": _share(CACHE.read("as-given")["right"]),
            **_compared(),
            "choices_on_tune": {name: CACHE.read(f"choice-{name}") for name in CHOICES if CACHE.has(f"choice-{name}")},
        },
        "spoken_digits": _spoken([CACHE.read(name) for name in _DIGITS if CACHE.has(name)]),
    }


def _spoken(folds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of the folds that were trained."""
    whole, narrow, alone = (
        _joined([one["right"][-1] for one in folds]),
        _joined([one["right"][0] for one in folds]),
        _joined([one["narrowest_alone"] for one in folds]),
    )
    return {
        "folds": len(folds),
        "recordings": len(whole),
        "epochs": [DIGIT_EPOCHS, DIGIT_TUNE_EPOCHS],
        "before": _share(_joined([one["before"] for one in folds])),
        "subnetworks": {
            f"{fraction:g}": _against(_joined([one["right"][number] for one in folds]), whole)
            for number, fraction in enumerate(FRACTIONS)
        },
        "narrowest_alone": _share(alone),
        "narrowest_less_than_alone": _lost(alone, narrow),
    }


def _compared() -> dict[str, Any]:
    made = CACHE.read("together-given")
    rows = {}
    for number, fraction in enumerate(FRACTIONS):
        own = made["right"][number]
        rows[f"{fraction:g}"] = {
            "widths": list(made["widths"][number].values()),
            "macs": made["macs"][number],
            "parameters": made["parameters"][number],
            **_against(own, made["right"][-1]),
            "with_norms_of_the_whole": _share(made["shared_statistics"][number]),
        }
        for start in "given", "scratch":
            if CACHE.has(f"alone-{start}-{number}"):
                by_itself = CACHE.read(f"alone-{start}-{number}")["right"]
                rows[f"{fraction:g}"] |= {
                    f"alone_{start}": _share(by_itself),
                    f"less_than_alone_{start}": _lost(by_itself, own),
                }
    return {"seconds": made["seconds"], "subnetworks": rows}


def _against(own: Sequence[bool], whole: Sequence[bool]) -> dict[str, Any]:
    return {"accuracy": _share(own), "lost": _lost(whole, own)}


def _lost(before: Sequence[bool], after: Sequence[bool]) -> dict[str, Any]:
    """The accuracy lost in points, and its paired 95 % bootstrap interval."""
    difference = 100 * (np.array(before, float) - np.array(after, float))
    low, high = bootstrap_interval(difference)
    return {"points": float(difference.mean()), "interval": [low, high]}


def _share(rights: Sequence[bool]) -> float:
    return float(np.mean(rights))


def _joined(parts: Sequence[Sequence[bool]]) -> list[bool]:
    return [value for part in parts for value in part]


_DIGITS = [f"digits-{number}" for number in range(FOLDS)]
_PARTS: Mapping[str, Callable[[], dict[str, Any]]] = {
    "as-given": as_given,
    "together-given": together,
    **{f"alone-given-{number}": partial(alone, number) for number in range(len(FRACTIONS))},
    **{f"alone-scratch-{number}": partial(alone, number, scratch=True) for number in (0, 1)},
    **{f"choice-{name}": partial(choice, name) for name in CHOICES},
    **{name: partial(fold, number) for number, name in enumerate(_DIGITS)},
}


if __name__ == "__main__":
    main()
