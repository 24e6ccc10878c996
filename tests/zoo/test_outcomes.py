from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetfoot.errors import NotAZooError, SchemaError, StaleError
from zoo.catalog import Zoo
from zoo.outcomes import Outcomes, variant_outcomes

HASHES = {"small": "aa", "large": "bb"}


def small_table() -> Outcomes:
    """Two variants on three route inputs and one test input."""
    rows = []
    for variant, shift in (("small", 0), ("large", 1)):
        for split, inputs in (("route", ["i", "j", "k"]), ("test", ["l"])):
            probabilities = np.eye(4, dtype=np.float32)[(np.arange(len(inputs)) + shift) % 4] * 0.7 + 0.075
            rows.append(variant_outcomes(variant, split, inputs, np.arange(len(inputs)) + 1, probabilities))
    return Outcomes(pd.concat(rows, ignore_index=True), HASHES)


def test_a_row_is_what_one_computes_by_hand() -> None:
    probabilities = np.array([[0.1, 0.6, 0.3], [0.5, 0.25, 0.25]], np.float32)
    rows = variant_outcomes("small", "test", ["i", "j"], np.array([2, 0]), probabilities)
    assert rows["input"].tolist() == ["i", "j"]
    assert rows["split"].tolist() == ["test", "test"]
    assert rows["variant"].tolist() == ["small", "small"]
    assert rows["label"].tolist() == [2, 0]
    assert rows["predicted"].tolist() == [1, 0]
    assert rows["correct"].tolist() == [False, True]
    assert rows["rank"].tolist() == [2, 1]
    assert rows["confidence"].tolist() == pytest.approx([0.6, 0.5])
    assert rows["margin"].tolist() == pytest.approx([0.3, 0.25])
    entropy = -0.1 * np.log(0.1) - 0.6 * np.log(0.6) - 0.3 * np.log(0.3)
    assert rows["entropy"].tolist() == pytest.approx([entropy, 1.0397208], rel=1e-5)  # 1.5 ln 2
    np.testing.assert_array_equal(np.stack(rows["probabilities"]), probabilities)


def test_certainty_has_no_entropy_and_the_whole_margin() -> None:
    rows = variant_outcomes("small", "test", ["i"], np.array([0]), np.array([[1.0, 0.0, 0.0]], np.float32))
    assert rows["entropy"].item() == pytest.approx(0, abs=1e-9)
    assert rows["margin"].item() == 1
    assert rows["confidence"].item() == 1


@given(data=st.data(), inputs=st.integers(1, 5), classes=st.integers(2, 12))
@settings(max_examples=30, deadline=None)
def test_rows_agree_with_themselves(data: st.DataObject, inputs: int, classes: int) -> None:
    logits = np.array(data.draw(st.lists(st.floats(-30, 30), min_size=inputs * classes, max_size=inputs * classes)))
    powers = np.exp(logits.reshape(inputs, classes))
    probabilities = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    labels = np.array(data.draw(st.lists(st.integers(0, classes - 1), min_size=inputs, max_size=inputs)))
    rows = variant_outcomes("v", "test", [str(index) for index in range(inputs)], labels, probabilities)
    assert (rows["correct"] == (rows["predicted"] == rows["label"])).all()
    assert rows["rank"].between(1, classes).all()
    assert (rows.loc[rows["correct"], "rank"] == 1).all()
    assert (rows.loc[rows["rank"] > 1, "correct"] == False).all()  # noqa: E712
    assert (rows["margin"] >= 0).all()
    assert (rows["margin"] <= rows["confidence"]).all()
    assert rows["entropy"].between(-1e-5, np.log(classes) + 1e-5).all()


def test_a_table_reads_as_it_was_written(tmp_path: Path) -> None:
    written = small_table()
    written.write(tmp_path / "outcomes.parquet")
    read = Outcomes.read(tmp_path / "outcomes.parquet")
    assert read.hashes == HASHES
    scalars = [name for name in written.table if name != "probabilities"]
    pd.testing.assert_frame_equal(read.table[scalars], written.table[scalars])
    np.testing.assert_array_equal(np.stack(read.table["probabilities"]), np.stack(written.table["probabilities"]))


def test_a_device_s_own_table_has_its_own_file_and_says_whose_it_is(tmp_path: Path) -> None:
    outcomes = small_table()
    assert Outcomes.path(tmp_path) == tmp_path / "outcomes.parquet"
    path = Outcomes.path(tmp_path, "board-1")
    assert path == tmp_path / "outcomes-board-1.parquet"
    Outcomes(outcomes.table, outcomes.hashes, "board-1").write(path)
    assert Outcomes.read(path).device_id == "board-1"
    outcomes.write(Outcomes.path(tmp_path))
    assert Outcomes.read(Outcomes.path(tmp_path)).device_id is None


def test_a_column_is_a_table_of_inputs_by_variants_in_the_order_asked_for() -> None:
    correct = small_table().matrix("correct", "route", ["large", "small"])
    assert list(correct.columns) == ["large", "small"]
    assert sorted(correct.index) == ["i", "j", "k"]
    assert correct["large"].all()
    assert not correct["small"].any()


def test_accuracy_is_the_share_of_right_answers_of_a_split() -> None:
    outcomes = small_table()
    assert outcomes.accuracy("route") == {"small": 0, "large": 1}
    outcomes.table.loc[0, "correct"] = True
    assert outcomes.accuracy("route") == {"small": pytest.approx(1 / 3), "large": 1}
    assert outcomes.accuracy("test") == {"small": 0, "large": 1}


def test_a_table_of_these_variants_is_current() -> None:
    small_table().require_current({"large": "bb", "small": "aa"})
    small_table().require_current({"small": "aa"})  # the other was taken out of the zoo


@pytest.mark.parametrize("hashes", [{"large": "cc"}, HASHES | {"large": "cc"}, HASHES | {"new": "dd"}])
def test_a_table_of_other_variants_is_stale(hashes: dict[str, str]) -> None:
    with pytest.raises(StaleError, match=r"outcomes\.parquet is of other variants than zoo\.json: run build-zoo"):
        small_table().require_current(hashes)


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotAZooError, match=r"outcomes\.parquet does not exist"):
        Outcomes.read(tmp_path / "outcomes.parquet")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_table_is_refused_by_name(tmp_path: Path, share: float) -> None:
    path = tmp_path / "outcomes.parquet"
    small_table().write(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(SchemaError, match=r"outcomes\.parquet is damaged"):
        Outcomes.read(path)


def test_what_is_no_table_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "outcomes.parquet"
    path.write_text("input,split,variant\n")
    with pytest.raises(SchemaError, match=r"outcomes\.parquet"):
        Outcomes.read(path)


def test_somebody_else_s_table_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "outcomes.parquet"
    pd.DataFrame({"input": ["i"]}).to_parquet(path)
    with pytest.raises(SchemaError, match=r"outcomes\.parquet"):
        Outcomes.read(path)


def rewrite(path: Path, about: bytes, columns: list[str] | None = None) -> None:
    table = pq.read_table(path, columns=columns)
    pq.write_table(table.replace_schema_metadata({"fleetfoot": about}), path)


def test_a_table_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "outcomes.parquet"
    small_table().write(path)
    rewrite(path, msgspec.json.encode({"schema_version": 2, "hashes": HASHES}))
    with pytest.raises(SchemaError, match=r"outcomes\.parquet was written by a newer Fleetfoot: upgrade"):
        Outcomes.read(path)


def test_a_table_that_lacks_columns_is_refused_naming_them(tmp_path: Path) -> None:
    path = tmp_path / "outcomes.parquet"
    small_table().write(path)
    rewrite(path, msgspec.json.encode({"schema_version": 1, "hashes": HASHES}), columns=["input", "split", "variant"])
    with pytest.raises(SchemaError, match="lacks the columns confidence, correct, entropy"):
        Outcomes.read(path)


@pytest.mark.parametrize("about", [b"{", b"{}", b'{"schema_version": 1}'])
def test_a_table_whose_metadata_is_damaged_is_refused_by_name(tmp_path: Path, about: bytes) -> None:
    path = tmp_path / "outcomes.parquet"
    small_table().write(path)
    rewrite(path, about)
    with pytest.raises(SchemaError, match=r"outcomes\.parquet"):
        Outcomes.read(path)


def test_a_table_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "outcomes.parquet"
    small_table().write(path)
    before = path.read_bytes()
    broken = small_table()
    broken.table["probabilities"] = [object()] * len(broken.table)
    with pytest.raises((pa.ArrowException, TypeError)):
        broken.write(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["outcomes.parquet"]


def test_the_zoo_s_table_has_every_variant_on_every_route_and_test_input(finished_zoo: Path) -> None:
    zoo, outcomes = Zoo.open(finished_zoo), Outcomes.read(finished_zoo / Outcomes.FILE)
    outcomes.require_current(zoo.hashes)
    splits = msgspec.json.decode((finished_zoo / "build.json").read_bytes())["splits"]
    assert set(outcomes.table["split"]) == {"route", "test"}
    for split in ("route", "test"):
        correct = outcomes.matrix("correct", split, list(zoo.variants))
        assert correct.shape == (len(splits[split]), len(zoo.variants))
        assert not correct.isna().any().any()
        for variant in zoo.manifest.variants:
            assert variant.accuracy[split] == pytest.approx(correct[variant.id].mean(), abs=1e-12)
