"""What holds for all tests."""

from __future__ import annotations

from hypothesis import settings

# How long an example takes says something about the machine, not about what is tested.
settings.register_profile("beamstream", deadline=None)
settings.load_profile("beamstream")
