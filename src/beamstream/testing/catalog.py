"""The conformance suite of catalogs: what `beamstream.store.catalog.interface` says, as tests.

A catalog passes when a class like this one passes under pytest::

    class TestMine(CatalogTests):
        @pytest.fixture
        def make_catalog(self, tmp_path):
            return lambda: MyCatalog(tmp_path)

`make_catalog` gives a new, empty catalog (of its own folder or schema) whenever it is called. A
catalog that keeps things should have a method ``reopen()``, which closes it and opens it again.
`failures` runs the same tests without pytest, to show that a wrong catalog does not pass.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence

import pytest

from beamstream.store.catalog.interface import Catalog
from beamstream.testing.catalog_batches import BatchTests
from beamstream.testing.catalog_datasets import DatasetTests
from beamstream.testing.catalog_documents import DocumentTests
from beamstream.testing.catalog_groups import GroupTests
from beamstream.testing.catalog_model import ModelTests
from beamstream.testing.catalog_names import NameTests
from beamstream.testing.catalog_producers import ProducerTests
from beamstream.testing.catalog_reads import ReadTests
from beamstream.testing.catalog_results import ResultTests
from beamstream.testing.catalog_streams import StreamTests

__all__ = ["CatalogTests", "failures"]


class CatalogTests(
    StreamTests,
    BatchTests,
    ProducerTests,
    ResultTests,
    DocumentTests,
    NameTests,
    DatasetTests,
    GroupTests,
    ReadTests,
    ModelTests,
):
    """All tests; a subclass provides the fixture ``make_catalog``."""

    @pytest.fixture
    def catalog(self, make_catalog: Callable[[], Catalog]) -> Iterator[Catalog]:
        catalog = make_catalog()
        yield catalog
        catalog.close()


def failures(make_catalog: Callable[[], Catalog], tests: Sequence[str] | None = None) -> list[str]:
    """Run the suite, or some tests of it by name, without pytest; the names of those that fail."""
    suite = CatalogTests()
    failed: list[str] = []
    for name in tests or [name for name in dir(suite) if name.startswith("test_")]:
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
    return failed
