"""The variants of a zoo, open and warm."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from fleetfoot.errors import ZooError
from fleetfoot.files import sha256
from runtime.engine import Engine
from zoo.catalog import Manifest, Zoo


def test_every_variant_answers_as_its_file_does(finished_zoo: Path, images: Any, reference: Any) -> None:
    engine = Engine(Zoo.open(finished_zoo))
    assert set(engine.variants) == set(reference)
    for variant, expected in reference.items():
        answered = np.stack([engine.run(variant, image[np.newaxis]) for image in images[:20]])
        np.testing.assert_allclose(answered, expected[:20], atol=1e-6)


def test_subnetworks_of_one_file_can_be_run_in_turn_and_at_once(
    finished_zoo: Path, images: Any, reference: Any
) -> None:
    zoo = Zoo.open(finished_zoo)
    nested = [name for name, variant in zoo.variants.items() if "subnetworks" in variant.file]
    assert len({zoo.variants[name].file for name in nested}) == 1 < len(nested)
    engine = Engine(zoo)
    wrong: list[str] = []

    def run(variant: str) -> None:
        for index, image in enumerate(images):
            if not np.allclose(engine.run(variant, image[np.newaxis]), reference[variant][index], atol=1e-6):
                wrong.append(variant)

    threads = [threading.Thread(target=run, args=(variant,)) for variant in nested * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("damage", ["changed", "missing", "empty"])
def test_a_damaged_variant_is_left_out_with_a_warning(
    zoo_copy: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    zoo = Zoo.open(zoo_copy)
    base, *others = zoo.variants
    file = zoo_copy / zoo.variants[base].file
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(b"" if damage == "empty" else file.read_bytes() + b"\0")
    assert set(Engine(zoo).variants) == set(others)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {base} is left out: {file} is ")
    assert "build the zoo anew" in line


def test_a_damaged_file_takes_all_subnetworks_in_it_along(zoo_copy: Path) -> None:
    zoo = Zoo.open(zoo_copy)
    nested = {name for name, variant in zoo.variants.items() if "subnetworks" in variant.file}
    (zoo_copy / zoo.variants[min(nested)].file).write_bytes(b"damaged")
    assert set(Engine(zoo).variants) == set(zoo.variants) - nested


def test_a_file_that_is_no_model_though_recorded_is_left_out(
    zoo_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = Manifest.read(zoo_copy / Zoo.MANIFEST)
    base, *others = manifest.variants
    (zoo_copy / base.file).write_bytes(b"no model")
    changed = msgspec.structs.replace(base, sha256=sha256(zoo_copy / base.file))
    zoo = Zoo(zoo_copy, msgspec.structs.replace(manifest, variants=(changed, *others)))
    assert set(Engine(zoo).variants) == {variant.id for variant in others}
    assert "no LiteRT model" in capsys.readouterr().err


def test_a_zoo_with_no_usable_variant_is_refused(zoo_copy: Path) -> None:
    for file in (zoo_copy / "variants").iterdir():
        file.write_bytes(b"damaged")
    with pytest.raises(ZooError, match="has no variant that can be used"):
        Engine(Zoo.open(zoo_copy))
