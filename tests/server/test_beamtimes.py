from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from beamstream.errors import BadName, BadSetting, Conflict, NotAllowed, NotFound, StorageError
from beamstream.model import Root
from beamstream.server.auth import Grant
from beamstream.server.beamtimes import Beamtimes
from beamstream.settings import load
from beamstream.store.registry import Registry

TRAVERSALS = [
    "..",
    ".",
    "../x",
    "a/b",
    "/etc",
    "a\0b",
    "*",
    "?",
    "[a-z]",
    "b*",
    "{data}",
    "{0}",
    "a\\b",
    ".hidden",
    "~",
    "~root",
    "$HOME",
    "%2e%2e",
    "a b",
    "a\n",
    "\u202ea",
    "．．",
    "x" * 65,
    "-rf",
]


def bt(name: str) -> Grant:
    return Grant("bt", name, frozenset({"read", "write"}), "t", 1)


def bl(name: str) -> Grant:
    return Grant("bl", name, frozenset({"read", "write"}), "t", 1)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    registry = Registry(tmp_path / "node.db")
    yield registry
    registry.close()


@pytest.fixture
def beamtimes(tmp_path: Path, registry: Registry) -> Beamtimes:
    settings, _ = load({"data": tmp_path / "data"}, {})
    return Beamtimes(settings, registry)


def tree(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


# ------------------------------------------------------------------------ the default layout


@pytest.mark.parametrize(("beamtime", "beamline"), [("auto", "auto"), ("", ""), ("bt1", "auto")])
def test_a_beamtime_token_means_its_beamtime(
    beamtimes: Beamtimes, tmp_path: Path, beamtime: str, beamline: str
) -> None:
    found = beamtimes.resolve(beamtime, beamline, bt("bt1"))
    assert (found.beamtime, found.beamline, found.beamline_folder) == ("bt1", "", None)
    assert found.core == tmp_path / "data" / "beamtimes" / "bt1"
    assert found.core.is_dir()
    assert found.place(raw=False) is found.place(raw=True) is Root.CORE


def test_a_beamline_that_is_not_known_yet_is_no_contradiction(beamtimes: Beamtimes) -> None:
    found = beamtimes.resolve("auto", "p01", bt("bt1"))
    assert (found.beamtime, found.beamline) == ("bt1", "")


def test_raw_data_goes_to_the_beamline(
    beamtimes: Beamtimes, registry: Registry, tmp_path: Path
) -> None:
    registry.open_beamtime("bt1", "p01", 1)
    found = beamtimes.resolve("auto", "p01", bt("bt1"))
    assert found.beamline == "p01"
    assert found.beamline_folder == tmp_path / "data" / "beamlines" / "p01" / "bt1"
    assert found.beamline_folder.is_dir()
    assert found.place(raw=True) is Root.BEAMLINE
    assert found.place(raw=True, to_core=True) is Root.CORE
    assert found.place(raw=False) is Root.CORE
    assert found.path(Root.BEAMLINE) == found.beamline_folder
    assert found.path(Root.CORE) == found.core


def test_wrong_subjects(beamtimes: Beamtimes, registry: Registry, tmp_path: Path) -> None:
    registry.open_beamtime("bt1", "p01", 1)
    registry.open_beamtime("bt2", "p02", 1)
    cases = [
        ("bt2", "auto", bt("bt1")),
        ("bt1", "p02", bt("bt1")),
        ("auto", "p02", bt("bt1")),
        ("auto", "p02", bt("bt9")),
        ("bt2", "auto", bl("p01")),
        ("bt1", "p02", bl("p01")),
        ("auto", "p02", bl("p01")),
        ("bt9", "auto", bl("p01")),
    ]
    for beamtime, beamline, grant in cases:
        with pytest.raises(NotAllowed) as caught:
            beamtimes.resolve(beamtime, beamline, grant)
        assert str(caught.value) == "wrong token subject"
    assert not (tmp_path / "data").exists()


def test_auto_follows_the_beamline(beamtimes: Beamtimes, registry: Registry) -> None:
    with pytest.raises(NotFound, match="beamtime open"):
        beamtimes.resolve("auto", "auto", bl("p01"))
    registry.open_beamtime("bt1", "p01", 1)
    assert beamtimes.resolve("auto", "auto", bl("p01")).beamtime == "bt1"
    registry.open_beamtime("bt2", "p01", 2)
    assert beamtimes.resolve("auto", "p01", bl("p01")).beamtime == "bt2"
    assert beamtimes.resolve("bt1", "auto", bl("p01")).beamtime == "bt1"
    with pytest.raises(NotAllowed):
        beamtimes.resolve("auto", "p01", bt("bt1"))
    registry.close_beamtime("bt2", 3)
    with pytest.raises(NotFound):
        beamtimes.resolve("", "", bl("p01"))
    assert beamtimes.resolve("auto", "p01", bt("bt1")).beamtime == "bt1"


def test_what_is_meant_makes_no_folders(
    beamtimes: Beamtimes, registry: Registry, tmp_path: Path
) -> None:
    registry.open_beamtime("bt1", "p01", 1)
    assert beamtimes.meant("auto", "auto", bl("p01")) == "bt1"
    assert beamtimes.meant("", "", bt("bt7")) == "bt7"
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("name", TRAVERSALS)
def test_traversal_is_refused(
    beamtimes: Beamtimes, registry: Registry, tmp_path: Path, name: str
) -> None:
    registry.open_beamtime("bt1", "p01", 1)
    before = tree(tmp_path)
    for grant in (bt("bt1"), bl("p01")):
        with pytest.raises(BadName):
            beamtimes.resolve(name, "auto", grant)
        with pytest.raises(BadName):
            beamtimes.resolve("bt1", name, grant)
    with pytest.raises(BadName):
        beamtimes.folders(name)
    assert tree(tmp_path) == before


@hypothesis_settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(beamtime=st.text(max_size=70), beamline=st.text(max_size=70))
def test_nothing_is_ever_made_outside(
    beamtimes: Beamtimes, tmp_path: Path, beamtime: str, beamline: str
) -> None:
    try:
        found = beamtimes.resolve(beamtime, beamline, bt("bt1"))
    except (BadName, NotAllowed):
        return
    assert found.core == tmp_path / "data" / "beamtimes" / "bt1"
    assert tree(tmp_path / "data") == {"beamtimes", "beamtimes/bt1"}


def test_a_folder_that_cannot_be_made(beamtimes: Beamtimes, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(StorageError, match="bt1"):
        beamtimes.folders("bt1")


# ----------------------------------------------------------------------------------- templates


def test_templates(tmp_path: Path, registry: Registry) -> None:
    settings, _ = load(
        {
            "data": tmp_path / "data",
            "folders.layout": "template",
            "folders.core": str(tmp_path / "core" / "{beamline}" / "bt-{beamtime}"),
            "folders.beamline": str(tmp_path / "line" / "{beamline}" / "{beamtime}"),
        },
        {},
    )
    beamtimes = Beamtimes(settings, registry)
    with pytest.raises(BadSetting, match="beamtime open bt1"):
        beamtimes.resolve("auto", "auto", bt("bt1"))
    registry.open_beamtime("bt1", "p01", 1)
    found = beamtimes.resolve("auto", "auto", bt("bt1"))
    assert found.core == tmp_path / "core" / "p01" / "bt-bt1"
    assert found.beamline_folder == tmp_path / "line" / "p01" / "bt1"


# -------------------------------------------------------------------------- folders of others


class Facility:
    """A file system as a facility lays it out."""

    def __init__(self, root: Path) -> None:
        self.root = root / "asap3"
        self.online = root / "online"
        self.root.mkdir()
        self.online.mkdir()

    def core(self, beamline: str, year: str, beamtime: str, kind: str = "data") -> Path:
        path = self.root / "petra3" / "gpfs" / beamline / year / kind / beamtime
        path.mkdir(parents=True)
        return path

    def start(self, beamline: str, beamtime: str, kind: str = "current") -> Path:
        folder = self.online / beamline / kind
        folder.mkdir(parents=True, exist_ok=True)
        prefix = "beamtime" if kind == "current" else "commissioning"
        file = folder / f"{prefix}-metadata-{beamtime}.json"
        file.write_text(json.dumps({"beamtimeId": beamtime, "beamline": beamline}))
        return file


@pytest.fixture
def facility(tmp_path: Path) -> Facility:
    return Facility(tmp_path)


@pytest.fixture
def existing(facility: Facility, registry: Registry, tmp_path: Path) -> Beamtimes:
    settings, _ = load(
        {
            "data": tmp_path / "data",
            "folders.layout": "asapo",
            "folders.root": facility.root,
            "folders.online_root": facility.online,
        },
        {},
    )
    return Beamtimes(settings, registry)


def test_lookup_by_id(existing: Beamtimes, facility: Facility) -> None:
    core = facility.core("p07", "2019", "11003924")
    facility.core("p07", "2019", "11003925")
    found = existing.resolve("11003924", "auto", bt("11003924"))
    assert (found.core, found.beamline, found.beamline_folder) == (core, "p07", None)
    assert found.place(raw=False) is Root.CORE
    assert found.place(raw=True, to_core=True) is Root.CORE
    with pytest.raises(NotFound, match="not online"):
        found.place(raw=True)
    with pytest.raises(NotFound):
        found.path(Root.BEAMLINE)


def test_lookup_by_beamline(existing: Beamtimes, facility: Facility) -> None:
    core = facility.core("p07", "2019", "11003924")
    with pytest.raises(NotFound, match="p07"):
        existing.resolve("auto", "auto", bl("p07"))
    file = facility.start("p07", "11003924")
    (file.parent / "raw").mkdir()
    (file.parent / "beamtime-metadata.txt").write_text("no")
    found = existing.resolve("auto", "p07", bl("p07"))
    assert (found.beamtime, found.core) == ("11003924", core)
    assert found.beamline_folder == file.parent
    assert found.place(raw=True) is Root.BEAMLINE
    file.unlink()
    assert existing.resolve("11003924", "auto", bl("p07")).beamline_folder is None
    facility.start("p07", "11003925")
    assert existing.resolve("11003924", "auto", bl("p07")).beamline_folder is None


def test_beamline_must_agree(existing: Beamtimes, facility: Facility) -> None:
    facility.core("p07", "2019", "11003924")
    facility.core("p08", "2019", "11003925")
    facility.start("p07", "11003924")
    assert existing.resolve("auto", "p07", bt("11003924")).beamline == "p07"
    cases = [
        ("11003924", "p08", bt("11003924")),
        ("auto", "p07", bt("11003925")),
        ("11003925", "auto", bl("p07")),
        ("11009999", "auto", bl("p07")),
    ]
    for beamtime, beamline, grant in cases:
        with pytest.raises(NotAllowed, match="wrong token subject"):
            existing.resolve(beamtime, beamline, grant)


def test_commissioning(existing: Beamtimes, facility: Facility) -> None:
    name = "c20180508-000-COM20181"
    facility.core("p07", "2018", name)
    core = facility.core("p07", "2019", name, "commissioning")
    file = facility.start("p07", name, "commissioning")
    found = existing.resolve("auto", "auto", bl("p07"))
    assert (found.beamtime, found.core, found.beamline_folder) == (name, core, file.parent)


def test_lookup_needs_exactly_one(existing: Beamtimes, facility: Facility) -> None:
    with pytest.raises(NotFound, match="gpfs"):
        existing.resolve("auto", "auto", bt("11003924"))
    facility.core("p07", "2019", "11003924")
    facility.core("p07", "2020", "11003924")
    with pytest.raises(Conflict, match="several folders"):
        existing.resolve("auto", "auto", bt("11003924"))
    facility.start("p07", "11003924")
    facility.start("p07", "11003925")
    with pytest.raises(Conflict, match="several beamtimes"):
        existing.resolve("auto", "auto", bl("p07"))


def test_folders_are_never_made_by_lookup(
    existing: Beamtimes, facility: Facility, tmp_path: Path
) -> None:
    before = tree(tmp_path)
    with pytest.raises(NotFound):
        existing.resolve("auto", "auto", bt("1"))
    assert tree(tmp_path) == before


def test_only_years_are_looked_into(existing: Beamtimes, facility: Facility) -> None:
    facility.core("p07", "backup", "11003924")
    facility.core("p07", "20199", "11003924")
    with pytest.raises(NotFound):
        existing.folders("11003924")


@pytest.mark.parametrize("name", TRAVERSALS)
def test_traversal_is_refused_by_lookup(existing: Beamtimes, facility: Facility, name: str) -> None:
    facility.core("p07", "2019", "b1")
    facility.start("p07", "b1")
    for grant in (bt("b1"), bl("p07")):
        with pytest.raises(BadName):
            existing.resolve(name, "auto", grant)
        with pytest.raises(BadName):
            existing.resolve("b1", name, grant)


@pytest.mark.parametrize("name", [".hidden", "", "*", "a b", "auto"])
def test_metadata_files_with_odd_names(existing: Beamtimes, facility: Facility, name: str) -> None:
    facility.start("p07", name)
    with pytest.raises(NotFound, match="does not name"):
        existing.resolve("auto", "auto", bl("p07"))
