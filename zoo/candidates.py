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
from fleetfoot.files import sha256
from zoo.backend import keras, make_deterministic
from zoo.batches import TrainingData
from zoo.blocks import drop_blocks
from zoo.catalog import Variant
from zoo.channels import permute_model, slice_model
from zoo.cost import count_macs, peak_activation_bytes
from zoo.datasets import spread
from zoo.export import export, parity, predict
from zoo.finetune import FINE_TUNING_RATE, cut_rate, recalibrate_batch_norm, train
from zoo.lowrank import FITTING_INPUTS, decompose, refine
from zoo.recipe import Recipe
from zoo.search.journal import Trial
from zoo.search.strategy import Proposal
from zoo.subnetworks import train_jointly

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
    """Makes all variants of a proposal, in one file, and measures their accuracy on the tune split.

    Raises:
        ModelError: a recipe does not fit the base model, or the result cannot be exported.
    """
    start = time.monotonic()
    networks = make_networks(bench, proposal.recipes)
    (quantize,) = {recipe.quantize for recipe in proposal.recipes.values()}
    ids = {name: variant_id(name, recipe) for name, recipe in proposal.recipes.items()}
    file = f"variants/{_file_stem(ids)}.tflite"
    path = bench.zoo / file
    signatures = {ids[name]: network for name, network in networks.items()}
    spared = export(signatures, path, quantize=quantize, x=bench.data.x_tune, y=bench.data.y_tune)
    digest = sha256(path)
    variants = tuple(
        Variant(
            id=ids[name],
            file=file,
            sha256=digest,
            signature=ids[name],
            recipe=recipe,
            parent=None if recipe == Recipe() else variant_id("base", Recipe()),
            accuracy={"tune": _accuracy(path, ids[name], bench.data)},
            macs=count_macs(networks[name]),
            parameters=networks[name].count_params(),
            size=path.stat().st_size,
            peak_activation_bytes=peak_activation_bytes(networks[name], _BYTES_PER_ACTIVATION[quantize]),
            parity=parity(networks[name], path, ids[name], spread(bench.data.x_tune, _PARITY_INPUTS), quantize),
            float_operators=spared,
        )
        for name, recipe in proposal.recipes.items()
    )
    return Trial(variants=variants, seconds=round(time.monotonic() - start, 3))


def make_networks(bench: Bench, recipes: Mapping[str, Recipe]) -> dict[str, Any]:
    """The networks of recipes that are made together, fine-tuned, by name.

    Raises:
        UsageError: several recipes that are no nested family.
        ModelError: a recipe does not fit the base model.
    """
    first = next(iter(recipes.values()))
    make_deterministic(first.training.seed if first.training else 0)
    if first.order is not None:
        return _nested(bench, recipes, read_order(bench.zoo / first.order))
    if len(recipes) != 1:
        raise UsageError("only the subnetworks of one order are made together")
    network = _decomposed(bench, first) if first.ranks else cut(bench.base, first)
    (name,) = recipes
    if first.training:
        _fine_tune(network, first, bench, name)
    return {name: network}


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
    network = drop_blocks(base, recipe.drop) if recipe.drop else base
    network = slice_model(network, recipe.keep) if recipe.keep else network
    return decompose(network, recipe.ranks) if recipe.ranks else network


def variant_id(name: str, recipe: Recipe) -> str:
    """A name to read and, after it, the beginning of the recipe's hash, which is the identity."""
    return f"{name}-{recipe.digest[:8]}"


def read_order(path: Path) -> dict[str, list[int]]:
    """The channel orders that nested subnetworks are prefixes of: channel group → permutation."""
    return msgspec.json.decode(path.read_bytes(), type=dict[str, list[int]])


def _nested(bench: Bench, recipes: Mapping[str, Recipe], order: Mapping[str, list[int]]) -> dict[str, Any]:
    if any(recipe.ranks or recipe.drop for recipe in recipes.values()):
        raise UsageError("this version decomposes no subnetworks, and drops no blocks of them")
    ladder = [{group: _prefix(kept) for group, kept in recipe.keep.items()} for recipe in recipes.values()]
    (training,) = {recipe.training for recipe in recipes.values()}
    family = train_jointly(
        permute_model(bench.base, order),
        ladder,
        bench.data,
        epochs=training.epochs if training else 0,
        learning_rate=FINE_TUNING_RATE,
        teacher=bench.base if training and training.teacher else None,
        seed=training.seed if training else 0,
    )
    if training and training.epochs == 0:
        for network in family:
            recalibrate_batch_norm(network, bench.data)
    return dict(zip(recipes, family, strict=True))


def _prefix(kept: int | tuple[int, ...]) -> int:
    if not isinstance(kept, int):
        raise UsageError("a subnetwork keeps a prefix of each channel group: give its length")
    return kept


def _file_stem(ids: Mapping[str, str]) -> str:
    """The id of a variant that is alone in its file; for a family, a name made of all ids."""
    first, *others = ids.values()
    return f"subnetworks-{hashlib.sha256('+'.join(ids.values()).encode()).hexdigest()[:8]}" if others else first


def _accuracy(path: Path, signature: str, data: TrainingData) -> float:
    return float((predict(path, signature, data.x_tune).argmax(axis=1) == data.y_tune).mean())
