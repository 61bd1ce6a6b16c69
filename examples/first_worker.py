"""A first worker: beamstream worker run examples/first_worker.py --start new --above 1"""

from beamstream.worker import step
from beamstream.workers import no_counts


@step(reads="detector", writes="brightness")
def brightness(frame, *, above: float = 0.0):
    """Tell the mean of each frame, in counts per pixel; dark frames give nothing."""
    mean = float(frame[~no_counts(frame)].mean())
    return {"mean": mean} if mean > above else None
