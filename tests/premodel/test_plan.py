"""The plan of a device, as a file."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from fleetfoot.errors import NotAZooError, SchemaError
from premodel.plan import Plan, Stage


@pytest.fixture
def plan() -> Plan:
    return Plan(
        device_id="board-1",
        variants={"b": "11", "a": "22"},
        estimate_sha256="33",
        p_right={"b": 0.9, "a": 0.5},
        stages=(
            Stage(name="table", mean_ms=0.0, variance=0.0),
            Stage(name="estimate", mean_ms=0.1, variance=0.01),
        ),
        measured=True,
    )


def test_a_plan_is_read_as_it_was_written_variants_in_their_order(tmp_path: Path, plan: Plan) -> None:
    path = Plan.path(tmp_path, plan.device_id)
    plan.write(path)
    read = Plan.read(path)
    assert msgspec.structs.replace(read, schema_version=0) == plan
    assert list(read.variants) == ["b", "a"]
    assert path == tmp_path / "premodel" / "board-1.json"


def test_a_stage_that_this_version_does_not_know_is_refused(tmp_path: Path, plan: Plan) -> None:
    path = Plan.path(tmp_path, plan.device_id)
    plan.write(path)
    path.write_text(path.read_text().replace('"estimate"', '"oracle"'))
    with pytest.raises(SchemaError, match=r"board-1\.json"):
        Plan.read(path)


def test_a_device_that_was_never_planned_has_no_plan(tmp_path: Path) -> None:
    with pytest.raises(NotAZooError, match=r"board-2\.json does not exist"):
        Plan.read(Plan.path(tmp_path, "board-2"))
