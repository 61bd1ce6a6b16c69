"""Stands for the module of the same name in `beamstream.compat`."""

from __future__ import annotations

import sys

from beamstream.compat import asapo_producer

sys.modules[__name__] = asapo_producer
