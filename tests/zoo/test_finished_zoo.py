from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fleetfoot.files import sha256
from profiling.invoke import Model
from profiling.nested import standalone
from profiling.profile import Conditions, this_device
from zoo.backend import keras
from zoo.catalog import Variant, Zoo
from zoo.cost import count_macs
from zoo.datasets import SPLITS, Dataset, split_indices
from zoo.recipe import Recipe
from zoo.record import BuildRecord
from zoo.search.journal import Journal


@pytest.fixture(scope="module")
def zoo(finished_zoo: Path) -> Zoo:
    return Zoo.open(finished_zoo)


def family(zoo: Zoo, prefix: str) -> list[Variant]:
    return [variant for variant in zoo.manifest.variants if variant.id.startswith(prefix)]


def test_a_zoo_has_every_family_of_variants(zoo: Zoo) -> None:
    assert len(family(zoo, "pruned-")) >= 2
    assert len(family(zoo, "lowrank-")) >= 2
    assert len(family(zoo, "sub-")) == 3
    assert len(family(zoo, "base-int8-")) == 1
    assert zoo.manifest.variants[0].recipe == Recipe()
    assert len(zoo.variants) == len(zoo.manifest.variants)


def test_subnetworks_share_one_file_and_everybody_else_has_a_file_of_their_own(zoo: Zoo) -> None:
    assert len({variant.file for variant in family(zoo, "sub-")}) == 1
    assert len({variant.file for variant in zoo.manifest.variants}) == len(zoo.variants) - 2


def test_a_variant_s_id_is_its_name_and_the_beginning_of_its_recipe_s_hash(zoo: Zoo) -> None:
    for variant in zoo.manifest.variants:
        assert variant.id.rpartition("-")[2] == variant.recipe.digest[:8]
        assert variant.signature == variant.id
        assert variant.parent == (None if variant.recipe == Recipe() else zoo.manifest.variants[0].id)


def test_every_file_is_the_one_that_was_recorded_and_runs(zoo: Zoo) -> None:
    for variant in zoo.manifest.variants:
        path = zoo.path / variant.file
        assert sha256(path) == variant.sha256
        assert path.stat().st_size == variant.size
        runner = Model(path).runner(variant.signature)
        assert (runner.input.shape, runner.output.shape) == ((1, 8, 8, 1), (1, 10))


def test_every_variant_of_fewer_channels_or_ranks_costs_less_than_the_base_model(zoo: Zoo) -> None:
    base = zoo.manifest.variants[0]
    for variant in zoo.manifest.variants[1:]:
        if variant.recipe.quantize:
            assert (variant.macs, variant.parameters) == (base.macs, base.parameters)
            assert variant.size < base.size / 2
            assert variant.peak_activation_bytes == base.peak_activation_bytes / 4
        else:
            assert variant.macs < base.macs
            assert variant.parameters < base.parameters


def test_subnetworks_are_within_their_fractions_of_the_base_model(zoo: Zoo) -> None:
    base = zoo.manifest.variants[0]
    for variant, fraction in zip(family(zoo, "sub-"), (0.25, 0.5, 0.75), strict=True):
        assert variant.id.startswith(f"sub-{fraction:g}-")
        assert 0.6 * fraction < variant.macs / base.macs <= fraction


def test_the_base_model_is_the_one_that_was_given(zoo: Zoo, base_file: Path) -> None:
    given, kept = (keras.saving.load_model(path, compile=False) for path in (base_file, zoo.path / "base/model.keras"))
    for one, other in zip(given.get_weights(), kept.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert zoo.manifest.variants[0].macs == count_macs(given)
    assert zoo.manifest.variants[0].parameters == given.count_params()


def test_every_accuracy_names_its_split(zoo: Zoo) -> None:
    for variant in zoo.manifest.variants:
        assert set(variant.accuracy) == {"tune", "route", "test"}
        assert all(0.3 < accuracy <= 1 for accuracy in variant.accuracy.values())


def test_float_variants_answer_as_keras_does(zoo: Zoo) -> None:
    for variant in zoo.manifest.variants:
        assert variant.parity <= 1e-4 or variant.recipe.quantize == "int8"


def test_the_zoo_says_what_it_takes_and_which_classes_there_are(zoo: Zoo, digits: Dataset) -> None:
    assert zoo.manifest.input == digits.input
    assert zoo.manifest.classes == digits.classes
    assert zoo.manifest.name == zoo.path.name


def test_the_build_is_on_record(zoo: Zoo, digits: Dataset) -> None:
    record = BuildRecord.read(zoo.path / "build.json")
    assert record.data_fingerprint == digits.fingerprint
    assert record.options.grid.prune == (0.5, 0.75)
    assert {
        "tensorflow",
        "keras",
        "ai-edge-litert",
        "ai-edge-quantizer",
        "numpy",
        "scikit-learn",
        "fleetfoot",
        "python",
    } == record.versions.keys()
    for name, indices in split_indices(digits, record.options.seed).items():
        np.testing.assert_array_equal(record.indices()[name], indices)
    assert record.indices().keys() == SPLITS.keys()


def test_the_hashes_of_other_files_are_in_order_so_that_equal_zoos_are_equal_byte_by_byte(zoo: Zoo) -> None:
    assert list(zoo.manifest.files) == sorted(zoo.manifest.files)
    assert "outcomes.parquet" in zoo.manifest.files


def test_every_trial_is_in_the_journal(zoo: Zoo) -> None:
    journal = Journal(zoo.path / Journal.FILE)
    for variant in zoo.manifest.variants:
        recipes = [other.recipe for other in zoo.manifest.variants if other.file == variant.file]
        (made,) = (found for found in journal.trial(recipes).variants if found.id == variant.id)
        assert made.sha256 == variant.sha256


def test_every_variant_was_measured_here(zoo: Zoo) -> None:
    (profile,) = zoo.profiles()
    assert profile.device_id == this_device().id
    assert profile.measurements.keys() == zoo.variants.keys()
    assert profile.covers(zoo.hashes)
    assert profile.failures == {}
    assert profile.conditions == Conditions()
    for variant in zoo.manifest.variants:
        assert profile.measurements[variant.id].signature == variant.signature
        latency = profile.measurements[variant.id].latency
        assert latency.count >= 2000 or latency.count * latency.mean_ms > 3000
        assert latency.mean_low_ms < latency.mean_ms < latency.mean_high_ms


def test_nothing_is_left_half_written(zoo: Zoo) -> None:
    assert [path.name for path in zoo.path.rglob(".*")] == []


def anybodys_answers(zoo: Path, variant: dict[str, Any], images: Any) -> Any:
    """What the stock runtime makes of raw digits, by a variant's file or the one that is nested in it."""
    from ai_edge_litert.interpreter import Interpreter

    path = zoo / variant["file"]
    content = standalone(path, variant["signature"]) or path.read_bytes()
    run = Interpreter(model_content=content).get_signature_runner(variant["signature"])
    (name,) = run.get_input_details()
    (answer,) = run.get_output_details()
    return np.stack([run(**{name: image[np.newaxis]})[answer][0] for image in images])


def test_anyone_can_run_a_variant_and_gets_the_accuracy_that_the_zoo_states(finished_zoo: Path) -> None:
    import json

    from sklearn.datasets import load_digits

    stated = json.loads((finished_zoo / "zoo.json").read_text())
    test = json.loads((finished_zoo / "build.json").read_text())["splits"]["test"]
    data = load_digits()
    images = data.images[test][..., np.newaxis].astype(np.float32)
    assert len(stated["variants"]) == 9
    for variant in stated["variants"]:
        predicted = anybodys_answers(finished_zoo, variant, images).argmax(axis=1)
        right = int((predicted == data.target[test]).sum())
        assert right / len(test) == pytest.approx(variant["accuracy"]["test"], abs=1e-12), variant["id"]
        names = [stated["classes"][index] for index in predicted[:3]]
        assert set(names) <= {str(digit) for digit in range(10)}
