"""The memory behind the cache: there from the start, or an error at the start."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from open_files import files_open

from beamstream import limits
from beamstream.errors import BadSetting
from beamstream.store import arenas as module
from beamstream.store.arenas import Arenas, available_nbytes


def resident_nbytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_all_memory_is_there_from_the_start_and_goes_at_the_end() -> None:
    fds = files_open()
    before = resident_nbytes()
    arenas = Arenas(limits.CACHE_NBYTES_MIN, 4)
    assert resident_nbytes() - before >= limits.CACHE_NBYTES_MIN
    assert [view.nbytes for view in arenas.views] == [limits.CACHE_NBYTES_MIN // 4] * 4
    for number, (fd, view) in enumerate(zip(arenas.fds, arenas.views, strict=True)):
        view[:3] = b"%03d" % number
        assert os.pread(fd, 3, 0) == b"%03d" % number
        assert not os.get_inheritable(fd)
    arenas.close()
    assert files_open() == fds
    assert resident_nbytes() - before < limits.CACHE_NBYTES_MIN


def test_a_view_that_is_still_in_use_keeps_its_memory() -> None:
    arenas = Arenas(limits.CACHE_NBYTES_MIN, 2)
    kept = arenas.views[0][:5]
    kept[:] = b"hello"
    arenas.close()
    assert bytes(kept) == b"hello"
    kept.release()


def test_what_does_not_fit_is_an_error_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadSetting, match="too small"):
        Arenas(limits.CACHE_NBYTES_MIN - 1)
    with pytest.raises(BadSetting, match="does not fit"):
        Arenas(available_nbytes() + limits.GIB)


def test_the_control_group_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_control_group", lambda: tmp_path)
    machine = available_nbytes()
    assert machine > 0
    for limit, used, expected in (("max", 5, machine), (1000, 400, 600), (1000, 2000, 0)):
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        (tmp_path / "memory.current").write_text(f"{used}\n")
        found = available_nbytes()
        assert found == pytest.approx(expected, rel=0.2)
    (tmp_path / "memory.max").write_text("rubbish")
    assert available_nbytes() > 1000
