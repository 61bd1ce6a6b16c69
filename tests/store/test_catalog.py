from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from beamstream.store.catalog.interface import Catalog
from beamstream.store.catalog.sqlite import SqliteCatalog
from beamstream.testing.catalog import CatalogTests
from beamstream.testing.memory_catalog import MemoryCatalog


def sqlite_maker(folder: Path) -> Callable[[], Catalog]:
    numbers = itertools.count()

    def make() -> Catalog:
        own = folder / f"catalog{next(numbers)}"
        own.mkdir()
        return SqliteCatalog(own)

    return make


class TestSqlite(CatalogTests):
    @pytest.fixture
    def make_catalog(self, tmp_path: Path) -> Callable[[], Catalog]:
        return sqlite_maker(tmp_path)


class TestMemory(CatalogTests):
    @pytest.fixture
    def make_catalog(self) -> Callable[[], Catalog]:
        return MemoryCatalog
