"""Which beamtime a client means, whether its token is for it, and where the files lie.

Names that users give are checked before they become part of a path, and never part of a pattern.
Lookups may wait for a file system: call them outside the event loop when the layout is ``asapo``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import msgspec

from beamstream import limits
from beamstream.errors import BadName, BadSetting, Conflict, NotAllowed, NotFound, StorageError
from beamstream.model import Root, check_beamtime
from beamstream.server.auth import Grant
from beamstream.settings import BEAMLINE_TEMPLATE, CORE_TEMPLATE, Settings
from beamstream.store.folder import FOLDER_MODE
from beamstream.store.registry import Registry, check_beamline

AUTO: Final = "auto"
_DEMO: Final = "demo"

_METADATA: Final = {"current": "beamtime-metadata-", "commissioning": "commissioning-metadata-"}
_COMMISSIONING: Final = "c"
_YEAR: Final = re.compile("[0-9]{4}")
_FOUND_MAX: Final = limits.CLIENTS_MAX


class BeamtimeFolders(msgspec.Struct, frozen=True):
    """A beamtime and its folders.

    Parameters
    ----------
    beamtime : its id.
    beamline : where it takes place; empty when that is not known.
    core : for processed data, and for raw data that is sent there.
    beamline_folder : for raw data; None when there is none (yet, or any more).
    raw_to_core : without a `beamline_folder` raw data lies in the core folder.
    """

    beamtime: str
    beamline: str
    core: Path
    beamline_folder: Path | None = None
    raw_to_core: bool = True

    def place(self, *, raw: bool, to_core: bool = False) -> Root:
        """Return which of the folders a file goes to; `to_core` is bit 16 of the ingest mode.

        Raises
        ------
        NotFound : raw data, but the beamtime is not online at its beamline.
        """
        if not raw or to_core:
            return Root.CORE
        if self.beamline_folder is not None:
            return Root.BEAMLINE
        if self.raw_to_core:
            return Root.CORE
        raise NotFound(
            f"beamtime {self.beamtime} is not online at a beamline",
            hint="raw data can go to its core folder: ingest mode with bit 16",
        )

    def path(self, root: Root) -> Path:
        """Return the folder that `root` stands for."""
        if root is Root.CORE:
            return self.core
        if self.beamline_folder is None:
            raise NotFound(f"beamtime {self.beamtime} has no folder at a beamline")
        return self.beamline_folder


class Beamtimes:
    """Finds beamtimes as the settings say.

    Parameters
    ----------
    settings : with the layout of the folders.
    registry : beamtimes that were opened by hand.
    """

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self._data = settings.data.absolute()
        self._folders = settings.folders
        self._registry = registry
        self._found: dict[str, tuple[Path, str]] = {}

    def resolve(self, beamtime: str, beamline: str, grant: Grant) -> BeamtimeFolders:
        """Return the beamtime that a client with `grant` means, and its folders.

        Parameters
        ----------
        beamtime, beamline : as the client gave them; ``auto`` or empty leaves it open.

        Raises
        ------
        BadName : a name is refused.
        NotAllowed : the token is for something else.
        NotFound : no beamtime is open at the beamline, or its folder is not there.
        """
        return self.folders(self.meant(beamtime, beamline, grant))

    def meant(self, beamtime: str, beamline: str, grant: Grant) -> str:
        """Return only the id of what `resolve` finds; makes no folders.

        What ``auto`` means may change while a client is connected.
        """
        wanted = "" if beamtime in ("", AUTO) else check_beamtime(beamtime)
        at = "" if beamline in ("", AUTO) else check_beamline(beamline)
        if grant.kind == "nd":
            return wanted or self._some()
        if grant.kind == "bl":
            return self._of_beamline_token(wanted, at, grant)
        return self._of_beamtime_token(wanted, at, grant)

    def folders(self, beamtime: str) -> BeamtimeFolders:
        """Return the folders of `beamtime`; they are made if the layout makes folders.

        Raises
        ------
        BadName : the name is refused.
        NotFound : the folder is not there, in the layout ``asapo``.
        """
        check_beamtime(beamtime)
        if self._folders.layout == "asapo":
            return self._look_up(beamtime)
        return self._make(beamtime)

    def beamline_of(self, beamtime: str) -> str:
        """Return the beamline of `beamtime`, or an empty text when it is not known."""
        if self._folders.layout == "asapo":
            return self._core_folder(check_beamtime(beamtime))[1]
        known = self._registry.beamtime(beamtime)
        return known.beamline if known else ""

    # -------------------------------------------------------------------- what is meant

    def _some(self) -> str:
        """A beamtime for who may see all of them and names none."""
        opened = self._registry.beamtimes()
        return opened[-1].beamtime if opened else _DEMO

    def _of_beamtime_token(self, wanted: str, at: str, grant: Grant) -> str:
        if wanted and wanted != grant.name:
            raise NotAllowed("wrong token subject")
        beamtime = grant.name
        if not at:
            return beamtime
        known = self.beamline_of(beamtime)
        if known and known != at:
            raise NotAllowed("wrong token subject")
        if not wanted:
            # The client leaves the beamtime to the beamline, where another one may be running.
            current = self._current(at)
            if current and current != beamtime:
                raise NotAllowed("wrong token subject")
        return beamtime

    def _of_beamline_token(self, wanted: str, at: str, grant: Grant) -> str:
        beamline = grant.name
        if at and at != beamline:
            raise NotAllowed("wrong token subject")
        if not wanted:
            current = self._current(beamline)
            if not current:
                raise NotFound(
                    f"no beamtime is open at beamline {beamline}",
                    hint=f"beamstream beamtime open ID --beamline {beamline}",
                )
            return current
        # A beamtime that is not there and one of another beamline must look the same.
        try:
            known = self.beamline_of(wanted)
        except NotFound:
            known = ""
        if known != beamline:
            raise NotAllowed("wrong token subject")
        return wanted

    def _current(self, beamline: str) -> str:
        if self._folders.layout == "asapo":
            return self._online(beamline)[0]
        current = self._registry.current(beamline)
        return current.beamtime if current else ""

    # ----------------------------------------------------------- folders that are made here

    def _make(self, beamtime: str) -> BeamtimeFolders:
        template = self._folders.layout == "template"
        core = self._folders.core if template else CORE_TEMPLATE
        at_beamline = self._folders.beamline if template else BEAMLINE_TEMPLATE
        beamline = self.beamline_of(beamtime)
        if not beamline and "{beamline}" in core:
            raise BadSetting(
                f"the core folder of beamtime {beamtime} depends on its beamline, not known here",
                hint=f"beamstream beamtime open {beamtime} --beamline NAME",
            )
        return BeamtimeFolders(
            beamtime,
            beamline,
            self._made(core, beamtime, beamline),
            self._made(at_beamline, beamtime, beamline) if beamline else None,
        )

    def _made(self, template: str, beamtime: str, beamline: str) -> Path:
        path = Path(template.format(data=self._data, beamtime=beamtime, beamline=beamline))
        try:
            path.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"cannot make the folder {path} of beamtime {beamtime}: {error.strerror}"
            ) from None
        return path.absolute()

    # ------------------------------------------------------------ folders that others make

    def _look_up(self, beamtime: str) -> BeamtimeFolders:
        core, beamline = self._core_folder(beamtime)
        online, folder = self._online(beamline)
        return BeamtimeFolders(
            beamtime,
            beamline,
            core,
            folder if online == beamtime else None,
            raw_to_core=False,
        )

    def _core_folder(self, beamtime: str) -> tuple[Path, str]:
        """Find ``<root>/<facility>/gpfs/<beamline>/<year>/data/<id>``: the folder, the beamline."""
        found = self._found.get(beamtime)
        if found is not None:
            return found
        if self._folders.root is None:
            raise BadSetting("layout 'asapo' needs folders.root")
        kind = "commissioning" if beamtime.startswith(_COMMISSIONING) else "data"
        folders = [
            (year / kind / beamtime, year.parent.name)
            for year in self._folders.root.glob("*/gpfs/*/*")
            if _YEAR.fullmatch(year.name) and (year / kind / beamtime).is_dir()
        ]
        if not folders:
            raise NotFound(
                f"beamtime {beamtime} has no folder below {self._folders.root}",
                hint=f"looked for <facility>/gpfs/<beamline>/<year>/{kind}/{beamtime}",
            )
        if len(folders) > 1:
            raise Conflict(
                f"beamtime {beamtime} has several folders: {folders[0][0]}, {folders[1][0]}"
            )
        if len(self._found) < _FOUND_MAX:
            self._found[beamtime] = folders[0]
        return folders[0]

    def _online(self, beamline: str) -> tuple[str, Path | None]:
        """Return the beamtime that runs at `beamline`, and its folder there; empty for none."""
        root = self._folders.online_root
        if root is None:
            raise BadSetting("layout 'asapo' needs folders.online_root")
        for name, prefix in _METADATA.items():
            folder = root / check_beamline(beamline) / name
            beamtimes = _announced(folder, prefix)
            if len(beamtimes) > 1:
                raise Conflict(
                    f"beamline {beamline} has several beamtimes in {folder}: "
                    + ", ".join(beamtimes[:5]),
                    hint="there must be one metadata file",
                )
            if beamtimes:
                return beamtimes[0], folder
        return "", None


def _announced(folder: Path, prefix: str) -> list[str]:
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise StorageError(f"cannot look into {folder}: {error.strerror}") from None
    beamtimes = []
    for name in names:
        if name.startswith(prefix) and name.endswith(".json"):
            try:
                beamtimes.append(check_beamtime(name[len(prefix) : -len(".json")]))
            except BadName:
                raise NotFound(f"{folder / name} does not name a beamtime") from None
    return beamtimes
