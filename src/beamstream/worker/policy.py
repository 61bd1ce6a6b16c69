"""What is done about an input that a step fails on."""

from __future__ import annotations

from typing import Annotated, Final, Literal, NamedTuple

import msgspec

from beamstream.errors import BadPipeline, Error

CRASHES: Final = 4
"""Deliveries beyond those that the policy asks for, before the node gives an input up: it may have
been in the hands of workers that died for other reasons."""

BACKOFF_S_MAX: Final = 300.0

Then = Literal["dead", "skip", "stop"]


class OnError(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The policy of a step.

    Parameters
    ----------
    retry : how often a failed input is tried again.
    backoff_s : seconds before the first time; doubled each time.
    then : "dead" (given up, can be offered again), "skip" (as if the step had returned None) or
        "stop" (the worker ends; the input stays open). The first two leave a message in
        ``STEP.failed``.
    """

    retry: Annotated[int, msgspec.Meta(ge=0, le=1_000)] = 0
    backoff_s: Annotated[float, msgspec.Meta(ge=0.0, le=BACKOFF_S_MAX)] = 1.0
    then: Then = "dead"

    @property
    def attempts_max(self) -> int:
        """Deliveries after which the node itself makes a dead letter of an input."""
        return self.retry + 1 + CRASHES


class Retry(NamedTuple):
    after_s: float


class GiveUp(NamedTuple):
    then: Then


def decide(policy: OnError, attempt: int, *, lasting: bool = False) -> Retry | GiveUp:
    """What follows the failed `attempt` (1, 2 …).

    Parameters
    ----------
    lasting : it cannot go better another time.

    >>> decide(OnError(retry=2, backoff_s=0.5), 2)
    Retry(after_s=1.0)
    >>> decide(OnError(retry=2), 3)
    GiveUp(then='dead')
    """
    if lasting or attempt > policy.retry:
        return GiveUp(policy.then)
    # Far beyond any number of doublings that matters, a float would overflow.
    return Retry(min(policy.backoff_s * 2.0 ** min(attempt - 1, 30), BACKOFF_S_MAX))


def parse(text: str) -> OnError:
    """A policy as it is typed: ``dead``, ``retry=3,then=skip``, ``retry=5,backoff_s=0.1,stop``.

    Raises
    ------
    BadPipeline : it is not understood.

    >>> parse("retry=3,skip")
    OnError(retry=3, backoff_s=1.0, then='skip')
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    pairs = [word.partition("=") if "=" in word else ("then", "=", word) for word in words]
    given = {key.strip(): value.strip() for key, _, value in pairs}
    try:
        return msgspec.convert(given, OnError, strict=False)
    except msgspec.ValidationError as error:
        raise BadPipeline(
            f"error policy {text[:80]!r}: {error}",
            hint="retry=N, backoff_s=SECONDS, then=dead|skip|stop, separated by commas",
        ) from None


def lasting(error: BaseException) -> bool:
    """Whether an input that failed so fails so again: what was stored is gone or damaged."""
    return isinstance(error, Error) and error.code in ("E503", "E504")
