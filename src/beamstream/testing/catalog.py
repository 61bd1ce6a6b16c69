"""The conformance suite of catalogs: what `beamstream.store.catalog.interface` says, as tests.

A catalog passes when a class like this one passes under pytest::

    class TestMine(CatalogTests):
        @pytest.fixture
        def make_catalog(self, tmp_path):
            return lambda: MyCatalog(tmp_path)

`make_catalog` gives a new, empty catalog (of its own folder or schema) whenever it is called.
`failures` runs the same tests without pytest, to show that a wrong catalog does not pass.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator

import pytest

from beamstream.store.catalog.interface import Catalog
from beamstream.testing.catalog_datasets import DatasetTests
from beamstream.testing.catalog_groups import GroupTests
from beamstream.testing.catalog_model import ModelTests
from beamstream.testing.catalog_reads import ReadTests
from beamstream.testing.catalog_streams import StreamTests

__all__ = ["CatalogTests", "failures"]


class CatalogTests(StreamTests, DatasetTests, GroupTests, ReadTests, ModelTests):
    """All tests; a subclass provides the fixture ``make_catalog``."""

    @pytest.fixture
    def catalog(self, make_catalog: Callable[[], Catalog]) -> Iterator[Catalog]:
        catalog = make_catalog()
        yield catalog
        catalog.close()


def failures(make_catalog: Callable[[], Catalog], *, stop_at: int = 1) -> list[str]:
    """Run the suite; names of the first `stop_at` tests that fail, in alphabetical order.

    The tests against a model, which take longest, are run last.
    """
    suite = CatalogTests()
    failed: list[str] = []
    names = [name for name in dir(suite) if name.startswith("test_")]
    for name in sorted(names, key=lambda name: ("model" in name, name)):
        test = getattr(suite, name)
        wanted = inspect.signature(test).parameters
        catalog = make_catalog() if "catalog" in wanted else None
        arguments = {"catalog": catalog, "make_catalog": make_catalog}
        try:
            test(**{key: arguments[key] for key in wanted})
        except Exception:
            failed.append(name)
        finally:
            if catalog is not None:
                catalog.close()
        if len(failed) >= stop_at:
            break
    return failed
