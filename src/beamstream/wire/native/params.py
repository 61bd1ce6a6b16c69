"""What all parameters of calls have in common."""

from __future__ import annotations

import msgspec


class Params(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all parameters. They are maps: keys that are not known are ignored."""
