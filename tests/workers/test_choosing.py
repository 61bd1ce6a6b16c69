"""Frames with peaks are kept, and the steps of stock work behind each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamstream.errors import BadInput, BadParameter
from beamstream.testing.detector import SimulatedDetector
from beamstream.testing.steps import run_step
from beamstream.worker import Step
from beamstream.worker.loading import load
from beamstream.workers import average, find_peaks, hits
from beamstream.workers import bin as bin_step


@given(st.lists(st.integers(0, 8), min_size=1, max_size=12), st.integers(1, 8))
def test_kept_is_what_has_so_many_peaks(peaks: list[int], least: int) -> None:
    frames = [np.full((2, 2), k, "u2") for k in range(len(peaks))]
    metas = [{"peaks": number, "k": k} for k, number in enumerate(peaks)]
    made = run_step(hits, frames, metas=metas, min_peaks=least)
    assert [one.id for one in made] == [k + 1 for k, n in enumerate(peaks) if n >= least]
    for one in made:
        assert one.meta == metas[one.id - 1]
        np.testing.assert_array_equal(one.data, frames[one.id - 1])


def test_what_has_only_metadata_is_kept_so() -> None:
    [one] = run_step(hits, [b""], metas=[{"peaks": 5}])
    assert (one.data, one.meta) == (b"", {"peaks": 5})


@pytest.mark.parametrize("meta", [{}, {"peaks": "many"}, {"peaks": None}])
def test_frames_that_nobody_looked_at(meta: dict[str, object]) -> None:
    with pytest.raises(BadInput, match=r"message 1 of test/scan7 .*put a step before it"):
        run_step(hits, [np.zeros((2, 2))], metas=[meta], stream="scan7")


def test_steps_of_stock_behind_each_other() -> None:
    detector = SimulatedDetector((512, 512), seed=2)
    frames = [detector.frame(i) for i in range(20)]
    metas = [detector.meta(i) for i in range(20)]
    binned = run_step(bin_step, frames, metas=metas, mask="detector")
    found = run_step(find_peaks, [one.data for one in binned], metas=[one.meta for one in binned])
    kept = run_step(hits, [one.data for one in found], metas=[one.meta for one in found])
    assert [one.id for one in kept] == [i + 1 for i, meta in enumerate(metas) if meta["hit"]]
    assert kept[0].data.shape == (256, 256)
    assert kept[0].meta["shape"] == [256, 256]
    assert kept[0].meta["binned"] == 2


def test_averages_are_of_ten_ids() -> None:
    ids = [k for k in range(1, 26) if k not in (3, 14)]
    made = run_step(
        average, [np.full((2, 2), k, "u2") for k in ids], ids=ids, metas=[{"k": k} for k in ids]
    )
    assert [one.meta["frames"] for one in made] == [9, 9, 5]
    assert [one.meta["k"] for one in made] == [1, 11, 21]
    assert made[0].data[0, 0] == pytest.approx(np.mean([k for k in ids if k <= 10]))


@pytest.mark.parametrize("name", ["bin", "find_peaks", "average", "hits"])
def test_steps_of_stock_are_found_and_say_what_they_do(name: str) -> None:
    found = load(name)
    assert isinstance(found, Step)
    assert load(found.where) is found
    assert found.doc.splitlines()[0].endswith((".", ":"))
    for parameter in found.parameters:
        assert parameter.help, f"{name}: {parameter.name}"
        assert not parameter.required
    with pytest.raises(BadParameter):
        found.parameters.check({"nothing": 1})
