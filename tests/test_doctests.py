"""The examples in the documentation of the package do what they say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import beamstream

MODULES = sorted(
    module.name for module in pkgutil.walk_packages(beamstream.__path__, "beamstream.")
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert found.failed == 0


def test_there_are_examples() -> None:
    count = sum(
        len(example.examples)
        for name in MODULES
        for example in doctest.DocTestFinder().find(importlib.import_module(name))
    )
    assert count >= 20
