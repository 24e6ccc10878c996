"""Shared fixtures: networks that are nested in one file."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from smallmodels import Product, nested_products


@pytest.fixture(scope="session")
def products(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Product]:
    """A wide network, with 8 MB of weights, and two that are nested in its file."""
    path = tmp_path_factory.mktemp("nested") / "products.tflite"
    return nested_products(path, {"wide": 8192, "middle": 512, "narrow": 64})


@pytest.fixture
def damaged_products(products: dict[str, Product], tmp_path: Path) -> dict[str, Product]:
    """The same, in a file where the nested ones are damaged."""
    path, whole = tmp_path / "damaged.tflite", products["wide"].target.path
    content = bytearray(whole.read_bytes())
    with zipfile.ZipFile(whole) as archive:
        for entry in archive.infolist():
            content[entry.header_offset + 500] ^= 1
    path.write_bytes(content)
    return {name: product._replace(target=product.target._replace(path=path)) for name, product in products.items()}
