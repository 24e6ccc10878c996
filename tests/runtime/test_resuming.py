"""Variants that go on from what a narrower one has computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from fleetfoot.errors import UsageError
from fleetfoot.files import sha256
from runtime.engine import Engine
from zoo.backend import keras
from zoo.catalog import Zoo
from zoo.subnetworks import with_exits
from zoo.subnetworks.resumable import resumable


@pytest.fixture
def exits(zoo_copy: Path) -> Zoo:
    """A zoo of the base model and two exits of it, none of them trained, in one file."""
    base = keras.saving.load_model(zoo_copy / "base" / "model.keras", compile=False)
    made = with_exits(base, (0.3, 0.8))
    ids = ("early", "late", "whole")
    file = "variants/exits.tflite"
    (zoo_copy / file).write_bytes(resumable(dict(zip(ids, made.networks, strict=True)), made.features))
    zoo = Zoo.open(zoo_copy)
    like, digest = zoo.manifest.variants[0], sha256(zoo_copy / file)
    variants = [
        msgspec.structs.replace(like, id=name, signature=name, file=file, sha256=digest, resumes=before)
        for name, before in zip(ids, (None, "early", "late"), strict=True)
    ]
    return Zoo(zoo_copy, msgspec.structs.replace(zoo.manifest, variants=tuple(variants)))


def test_going_on_answers_as_the_whole_does(exits: Zoo, images: Any) -> None:
    engine = Engine(exits)
    for image in images[:5]:
        x = image[np.newaxis]
        begun = engine.begin("early", x)
        np.testing.assert_allclose(begun.probabilities, engine.run("early", x), atol=1e-6)
        for variant in ("late", "whole"):
            begun = engine.go_on(variant, begun)
            assert begun.variant == variant
            np.testing.assert_allclose(begun.probabilities, engine.run(variant, x), atol=1e-6)
        assert begun.features is None


def test_what_nothing_resumes_can_begin_too(exits: Zoo, images: Any) -> None:
    engine, x = Engine(exits), images[:1]
    begun = engine.begin("whole", x)
    assert begun.features is None
    np.testing.assert_array_equal(begun.probabilities, engine.run("whole", x))


def test_a_variant_goes_on_from_the_one_that_it_resumes_only(exits: Zoo, images: Any) -> None:
    engine, x = Engine(exits), images[:1]
    with pytest.raises(UsageError, match="whole does not go on from early, but from late"):
        engine.go_on("whole", engine.begin("early", x))
    with pytest.raises(UsageError, match="early does not go on from whole, but from none"):
        engine.go_on("early", engine.begin("whole", x))
