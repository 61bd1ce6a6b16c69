"""The official modules and the drop-in ones: the same tests run with both.

Without the official wheels this import fails: it has to.
"""

from __future__ import annotations

from types import ModuleType
from typing import Final, NamedTuple

import asapo_consumer
import asapo_producer

import beamstream.compat.asapo_consumer
import beamstream.compat.asapo_producer


class Clients(NamedTuple):
    """A pair of modules that a program may import."""

    producer: ModuleType
    consumer: ModuleType


IMPLEMENTATIONS: Final[dict[str, Clients]] = {
    "official": Clients(asapo_producer, asapo_consumer),
    "drop-in": Clients(beamstream.compat.asapo_producer, beamstream.compat.asapo_consumer),
}
