"""The outcomes table: what each variant did on each route and test input.

Which variants to keep, premodel training, oracle, baselines and plots run from this table, without
running a variant again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from fleetfoot.errors import NotAZooError, SchemaError, StaleError
from fleetfoot.files import atomic_path
from zoo.catalog import Balance

Array = npt.NDArray[Any]

_SCHEMA_VERSION = 1
_COLUMNS = (
    "input", "split", "variant", "label", "predicted", "correct", "rank", "confidence", "margin", "entropy",
    "probabilities",
)  # fmt: skip


class _About(msgspec.Struct):
    """What the table says of itself in its metadata."""

    schema_version: int
    hashes: dict[str, str]
    device_id: str | None = None


class Outcomes:
    """The table, one row per input and variant, with the file hash of each variant it was made with.

    A device has a table of its own where the variants were run there, since its kernels may answer otherwise.

    Columns: ``input`` (content hash), ``split``, ``variant``, ``label`` and ``predicted`` (class indices),
    ``correct``, ``rank`` of the true label (1 is best), ``confidence`` (largest probability), ``margin``
    (to the second), ``entropy`` (nats), ``probabilities``.
    """

    FILE: ClassVar[str] = "outcomes.parquet"

    def __init__(self, table: pd.DataFrame, hashes: Mapping[str, str], device_id: str | None = None) -> None:
        self.table = table
        self.hashes = dict(hashes)
        self.device_id = device_id

    @classmethod
    def path(cls, zoo: Path, device_id: str | None = None) -> Path:
        """Where a zoo directory keeps the table; that of a device of its own, where one is named."""
        return zoo / (f"outcomes-{device_id}.parquet" if device_id else cls.FILE)

    def write(self, path: Path) -> None:
        """Writes the table atomically as Parquet, the hashes in its metadata."""
        arrow = pa.Table.from_pandas(self.table, preserve_index=False)
        about = _About(schema_version=_SCHEMA_VERSION, hashes=self.hashes, device_id=self.device_id)
        arrow = arrow.replace_schema_metadata({"fleetfoot": msgspec.json.encode(about)})
        with atomic_path(path) as temporary:
            pq.write_table(arrow, temporary)

    @classmethod
    def read(cls, path: Path) -> Outcomes:
        """Reads a table.

        Raises:
            NotAZooError: there is none.
            SchemaError: it is damaged, of a newer version, or some other table.
        """
        if not path.exists():
            raise NotAZooError(f"{path} does not exist: run build-zoo anew")
        try:
            arrow = pq.read_table(path)
            about = msgspec.json.decode((arrow.schema.metadata or {})[b"fleetfoot"], type=_About)
        except (pa.ArrowException, KeyError, OSError, msgspec.DecodeError) as error:
            raise SchemaError(f"{path} is damaged or no outcomes table: {error}; run build-zoo anew") from None
        if about.schema_version > _SCHEMA_VERSION:
            raise SchemaError(f"{path} was written by a newer Fleetfoot: upgrade fleetfoot")
        if missing := set(_COLUMNS) - set(arrow.column_names):
            raise SchemaError(f"{path} lacks the columns {', '.join(sorted(missing))}")
        return cls(arrow.to_pandas(), about.hashes, about.device_id)

    def require_current(self, hashes: Mapping[str, str]) -> None:
        """Makes sure that the variants with these file hashes are in the table.

        Raises:
            StaleError: it is of others.
        """
        if not hashes.items() <= self.hashes.items():
            raise StaleError("outcomes.parquet is of other variants than zoo.json: run build-zoo anew")

    def matrix(self, column: str, split: str, variants: Sequence[str]) -> pd.DataFrame:
        """One column of a split as a table of inputs (rows) by variants (columns, in the order given)."""
        rows = self.table[self.table["split"] == split].drop_duplicates(["input", "variant"])
        return rows.pivot(index="input", columns="variant", values=column)[list(variants)]

    def accuracy(self, split: str) -> dict[str, float]:
        """The share of a split's inputs that each variant answers rightly."""
        rows = self.table[self.table["split"] == split]
        return {str(name): float(value) for name, value in rows.groupby("variant")["correct"].mean().items()}


def balance(outcomes: Outcomes, variant: str, base: str, classes: Sequence[str]) -> Balance:
    """How evenly a variant does over the classes of the test split, beside the base model."""
    from sklearn.metrics import f1_score

    tests = outcomes.table[outcomes.table["split"] == "test"]
    of_variant = tests[tests["variant"] == variant]
    recall = of_variant.groupby("label")["correct"].mean()
    change = recall - tests[tests["variant"] == base].groupby("label")["correct"].mean()
    return Balance(
        macro_f1=float(f1_score(of_variant["label"], of_variant["predicted"], average="macro", zero_division=0.0)),
        worst_class=classes[int(change.idxmin())],
        worst_change=float(change.min()),
    )


def variant_outcomes(
    variant: str, split: str, inputs: Sequence[str], labels: npt.NDArray[np.int64], probabilities: Array
) -> pd.DataFrame:
    """The rows of one variant and split, from its probabilities of shape (inputs, classes)."""
    ordered = np.sort(probabilities, axis=1)[:, ::-1]
    predicted = probabilities.argmax(axis=1)
    of_label = probabilities[np.arange(len(labels)), labels]
    positive = np.clip(probabilities, 1e-12, 1.0)
    return pd.DataFrame(
        {
            "input": inputs,
            "split": split,
            "variant": variant,
            "label": labels,
            "predicted": predicted,
            "correct": predicted == labels,
            "rank": 1 + (probabilities > of_label[:, np.newaxis]).sum(axis=1),
            "confidence": ordered[:, 0],
            "margin": ordered[:, 0] - ordered[:, 1],
            "entropy": -(positive * np.log(positive)).sum(axis=1),
            "probabilities": list(probabilities),
        }
    )
