"""Making candidates: a recipe applied to the base model, fine-tuned, exported, and checked."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

import zoo.architectures  # noqa: F401 - registers the layers that base models may have
from fleetfoot.errors import DamagedFileError, ModelError, UsageError, first_line
from fleetfoot.files import sha256, write_bytes
from zoo.backend import keras, make_deterministic
from zoo.batches import TrainingData
from zoo.blocks import drop_blocks
from zoo.catalog import Variant
from zoo.channels import permute_model, slice_model
from zoo.cost import count_macs
from zoo.datasets import spread
from zoo.export import export, parity, predict
from zoo.finetune import FINE_TUNING_RATE, cut_rate, recalibrate_batch_norm, train
from zoo.lowrank import FITTING_INPUTS, decompose, refine
from zoo.memory import peak_activation_bytes
from zoo.recipe import Recipe, Training
from zoo.search.journal import Trial
from zoo.search.strategy import Proposal
from zoo.subnetworks import Exits, Member, cut_member, read_order, train_exits, train_jointly, with_exits
from zoo.subnetworks.resumable import resumable

UNFINISHED = "unfinished"
"""Where trainings are kept while they run, so that they can go on after a kill."""
_BYTES_PER_ACTIVATION = {None: 4, "int8": 1, "dynamic": 4, "float16": 4}
_PARITY_INPUTS = 256


class Bench(NamedTuple):
    """What every candidate is made from."""

    zoo: Path
    base: Any
    data: TrainingData

    @classmethod
    def open(cls, zoo: Path, data: TrainingData) -> Bench:
        """Takes the base model from its place in the zoo directory.

        Raises:
            DamagedFileError: it cannot be read.
        """
        try:
            return cls(zoo, keras.saving.load_model(base_path(zoo), compile=False), data)
        except Exception as error:  # Keras raises whatever went wrong inside
            raise DamagedFileError(
                f"{base_path(zoo)} cannot be read ({first_line(error)}): delete it, and the same command makes it again"
            ) from None


def base_path(zoo: Path) -> Path:
    """Where the base model is kept in a zoo directory."""
    return zoo / "base" / "model.keras"


def make_candidate(bench: Bench, proposal: Proposal) -> Trial:
    """Makes all variants of a proposal, those of a number format in one file, and measures their tune accuracy.

    Raises:
        ModelError: a recipe does not fit the base model, or the result cannot be exported.
    """
    start = time.monotonic()
    if any(recipe.exit for recipe in proposal.recipes.values()):
        variants = _resumable(bench, proposal.recipes)
        return Trial(variants=variants, seconds=round(time.monotonic() - start, 3))
    networks = make_networks(bench, proposal.recipes)
    by_format: dict[str | None, dict[str, Recipe]] = {}
    for name, recipe in proposal.recipes.items():
        by_format.setdefault(recipe.quantize, {})[name] = recipe
    variants = tuple(variant for recipes in by_format.values() for variant in _exported(bench, recipes, networks))
    return Trial(variants=variants, seconds=round(time.monotonic() - start, 3))


def _exported(bench: Bench, recipes: Mapping[str, Recipe], networks: Mapping[str, Any]) -> list[Variant]:
    """The variants of recipes of one number format, in one file."""
    (quantize,) = {recipe.quantize for recipe in recipes.values()}
    ids, path = _ids(recipes), _file(bench, recipes)
    signatures = {ids[name]: networks[name] for name in recipes}
    spared = export(signatures, path, quantize=quantize, x=bench.data.x_tune, y=bench.data.y_tune)
    return [_variant(bench, ids[name], recipe, networks[name], path, spared) for name, recipe in recipes.items()]


def _resumable(bench: Bench, recipes: Mapping[str, Recipe]) -> tuple[Variant, ...]:
    """The variants of early exits that go on from each other, in one file."""
    exits = make_exits(bench, recipes)
    ids, path = _ids(recipes), _file(bench, recipes)
    networks = dict(zip(ids.values(), exits.networks, strict=True))
    write_bytes(path, resumable(networks, exits.features))
    before = [None, *list(ids.values())[:-1]]
    return tuple(
        msgspec.structs.replace(_variant(bench, ids[name], recipe, network, path), resumes=resumes)
        for (name, recipe), network, resumes in zip(recipes.items(), networks.values(), before, strict=True)
    )


def _ids(recipes: Mapping[str, Recipe]) -> dict[str, str]:
    return {name: variant_id(name, recipe) for name, recipe in recipes.items()}


def _file(bench: Bench, recipes: Mapping[str, Recipe]) -> Path:
    """Named by the id of a variant that is alone in it; for a family, by all ids."""
    first, *others = _ids(recipes).values()
    digest = hashlib.sha256("+".join((first, *others)).encode()).hexdigest()[:8]
    return bench.zoo / "variants" / f"{f'subnetworks-{digest}' if others else first}.tflite"


def _variant(
    bench: Bench, name: str, recipe: Recipe, network: Any, path: Path, spared: tuple[str, ...] = ()
) -> Variant:
    """What there is to say of a variant in a file that is written."""
    return Variant(
        id=name,
        file=path.relative_to(bench.zoo).as_posix(),
        sha256=sha256(path),
        signature=name,
        recipe=recipe,
        parent=None if recipe == Recipe() else variant_id("base", Recipe()),
        accuracy={"tune": _accuracy(path, name, bench.data)},
        macs=count_macs(network),
        parameters=network.count_params(),
        size=path.stat().st_size,
        peak_activation_bytes=peak_activation_bytes(network, _BYTES_PER_ACTIVATION[recipe.quantize]),
        parity=parity(network, path, name, spread(bench.data.x_tune, _PARITY_INPUTS), recipe.quantize),
        float_operators=spared,
    )


def make_networks(bench: Bench, recipes: Mapping[str, Recipe]) -> dict[str, Any]:
    """The networks of recipes that are made together, fine-tuned, by name.

    Raises:
        UsageError: several recipes that are no nested family.
        ModelError: a recipe does not fit the base model.
    """
    first = next(iter(recipes.values()))
    make_deterministic(first.training.seed if first.training else 0)
    if first.order is not None:
        return _nested(bench, recipes, read_order(bench.zoo, first.order))
    if len(recipes) != 1:
        raise UsageError("only the subnetworks of one order are made together")
    network = _decomposed(bench, first) if first.ranks else cut(bench.base, first)
    (name,) = recipes
    if first.training:
        _fine_tune(network, first, bench, name)
    return {name: network}


def make_exits(bench: Bench, recipes: Mapping[str, Recipe]) -> Exits:
    """The networks of recipes with exits, trained together on one trunk.

    Raises:
        UsageError: recipes that are no exits of one base model, or of several trainings, or without the whole network.
        ModelError: the base model has no such exits.
    """
    shares = [recipe.exit for recipe in recipes.values() if recipe.exit]
    if len(shares) != len(recipes) or any(recipe != _exit_alone(recipe) for recipe in recipes.values()):
        raise UsageError("early exits are of the base model as it is, and only they are made together")
    if shares[-1] != 1:
        raise UsageError("early exits are made together with the whole network: give it as the last, with the exit 1")
    training = _training_of(recipes)
    make_deterministic(training.seed if training else 0)
    exits = with_exits(bench.base, shares)
    if training and training.epochs:
        train_exits(
            exits,
            bench.data,
            epochs=training.epochs,
            learning_rate=cut_rate(bench.base),
            teacher=bench.base if training.teacher else None,
            seed=training.seed,
            checkpoint=bench.zoo / UNFINISHED / next(iter(recipes.values())).digest,
        )
    return exits


def _training_of(recipes: Mapping[str, Recipe]) -> Training | None:
    """How recipes are trained together.

    Raises:
        UsageError: they do not agree.
    """
    first, *others = {recipe.training for recipe in recipes.values()}
    if others:
        raise UsageError(f"{' and '.join(recipes)} are trained together: give them one training")
    return first


def _exit_alone(recipe: Recipe) -> Recipe:
    return Recipe(exit=recipe.exit, training=recipe.training)


def _decomposed(bench: Bench, recipe: Recipe) -> Any:
    """The network of a recipe with ranks, its kernels fitted to what the whole one answers to train inputs."""
    whole = cut(bench.base, msgspec.structs.replace(recipe, ranks={}))
    if recipe.training is None:
        return decompose(whole, recipe.ranks)
    if whole is not bench.base:
        recalibrate_batch_norm(whole, bench.data)
    network = decompose(whole, recipe.ranks)
    refine(whole, network, recipe.ranks, bench.data.some_inputs(FITTING_INPUTS), recipe.training.seed)
    return network


def _fine_tune(network: Any, recipe: Recipe, bench: Bench, name: str) -> None:
    """Trains what was cut; no epochs at all means to take the batch-norm statistics anew."""
    training = recipe.training
    assert training is not None
    if training.epochs == 0:
        recalibrate_batch_norm(network, bench.data)
        return
    was_cut = bool(recipe.keep or recipe.drop)
    train(
        network,
        bench.data,
        epochs=training.epochs,
        learning_rate=cut_rate(network) if was_cut else FINE_TUNING_RATE,
        teacher=bench.base if training.teacher else None,
        seed=training.seed,
        checkpoint=bench.zoo / UNFINISHED / recipe.digest,
        name=name,
    )


def cut(base: Any, recipe: Recipe) -> Any:
    """The base model with a recipe's blocks, channels and ranks, not yet fine-tuned.

    Raises:
        ModelError: the recipe does not fit.
    """
    if recipe.build:
        raise ModelError("this version makes no recipes with other architectures")
    if recipe.order is not None:  # which matters to the weights only
        return cut_member(base, _member(recipe))
    if recipe.exit is not None:
        return with_exits(base, [recipe.exit]).networks[0]
    network = drop_blocks(base, recipe.drop) if recipe.drop else base
    network = slice_model(network, recipe.keep) if recipe.keep else network
    return decompose(network, recipe.ranks) if recipe.ranks else network


def variant_id(name: str, recipe: Recipe) -> str:
    """A name to read and, after it, the beginning of the recipe's hash, which is the identity."""
    return f"{name}-{recipe.digest[:8]}"


def _nested(bench: Bench, recipes: Mapping[str, Recipe], order: Mapping[str, list[int]]) -> dict[str, Any]:
    """The subnetworks of one order, trained together; no epochs at all means to take batch-norm statistics anew.

    Those that differ in their number format only are the same network.
    """
    training = _training_of(recipes)
    epochs = training.epochs if training else 0
    in_float = {name: msgspec.structs.replace(recipe, quantize=None) for name, recipe in recipes.items()}
    members = {recipe: _member(recipe) for recipe in in_float.values()}
    first = next(iter(members))
    family = train_jointly(
        permute_model(bench.base, order),
        list(members.values()),
        bench.data,
        epochs=epochs,
        learning_rate=cut_rate(bench.base),
        teacher=bench.base if training and training.teacher else None,
        seed=training.seed if training else 0,
        checkpoint=bench.zoo / UNFINISHED / first.digest,
    )
    if training and epochs == 0:
        for network in family:
            recalibrate_batch_norm(network, bench.data)
    network_of = dict(zip(members, family, strict=True))
    return {name: network_of[recipe] for name, recipe in in_float.items()}


def _member(recipe: Recipe) -> Member:
    """What a subnetwork has of the whole network.

    Raises:
        UsageError: a recipe of no subnetwork.
    """
    if recipe.ranks:
        raise UsageError("this version decomposes no subnetworks")
    return Member({group: _prefix(kept) for group, kept in recipe.keep.items()}, recipe.drop)


def _prefix(kept: int | tuple[int, ...]) -> int:
    if not isinstance(kept, int):
        raise UsageError("a subnetwork keeps a prefix of each channel group: give its length")
    return kept


def _accuracy(path: Path, signature: str, data: TrainingData) -> float:
    return float((predict(path, signature, data.x_tune).argmax(axis=1) == data.y_tune).mean())
