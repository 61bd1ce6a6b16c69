"""One tree of settings: defaults < TOML file < environment < flags, each value with its origin.

A setting has one name everywhere: ``data_port`` in the file, ``BEAMSTREAM_DATA_PORT`` in the
environment, ``--data-port`` as a flag; ``folders.layout`` stands in the table ``[folders]`` and is
``BEAMSTREAM_FOLDERS_LAYOUT``. A name that nobody knows is an error, not a setting that silently
does nothing.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import msgspec

from beamstream import limits
from beamstream.errors import BadSetting
from beamstream.model import Level
from beamstream.settings_values import (
    Address,
    one_of,
    parse_absolute,
    parse_address,
    parse_boolean,
    parse_cache_size,
    parse_host,
    parse_level,
    parse_path,
    parse_share,
    parse_size,
    show_size,
    template,
)

__all__ = [
    "KEYS",
    "Address",
    "Folders",
    "Log",
    "Origins",
    "Settings",
    "items",
    "load",
    "parse_address",
    "parse_size",
    "show_size",
]

ENVIRONMENT_PREFIX: Final = "BEAMSTREAM_"

LOOPBACK: Final = "127.0.0.1"
ALL_INTERFACES: Final = "0.0.0.0"  # noqa: S104

CORE_TEMPLATE: Final = "{data}/beamtimes/{beamtime}"
BEAMLINE_TEMPLATE: Final = "{data}/beamlines/{beamline}/{beamtime}"

_FILE_NBYTES_MAX: Final = limits.MIB
# What clients and tests read from the environment; none of it is a setting of the node.
_NOT_SETTINGS: Final = re.compile(
    ENVIRONMENT_PREFIX
    + "(URL|TOKEN|BEAMTIME|CONFIG|CONNECT_FILE|TLS_CA|SHM|SHARED|TEST_.*|BENCH_.*)"
)

Origins = dict[str, str]
"""Name of a setting -> where its value comes from, in words."""


class Folders(msgspec.Struct, frozen=True):
    """Where the files of a beamtime lie.

    Parameters
    ----------
    layout : ``data``: below the data folder; ``template``: where `core` and `beamline` say;
        ``asapo``: existing folders are looked up below `root` and `online_root`.
    core, beamline : templates with ``{data}``, ``{beamtime}`` and ``{beamline}``.
    root : has ``<facility>/gpfs/<beamline>/<year>/data/<beamtime>``.
    online_root : has ``<beamline>/current/beamtime-metadata-<beamtime>.json``.
    """

    layout: Literal["data", "template", "asapo"] = "data"
    core: str = CORE_TEMPLATE
    beamline: str = BEAMLINE_TEMPLATE
    root: Path | None = None
    online_root: Path | None = None


class Log(msgspec.Struct, frozen=True):
    """What is logged, and how; ``auto`` is text on a terminal and JSON lines elsewhere."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "text", "json"] = "auto"


class Settings(msgspec.Struct, frozen=True):
    """All that can be set of a node.

    Parameters
    ----------
    data : the data folder.
    http, ingest, data_port, native : addresses of the doors.
    tls_cert, tls_key : files of a certificate (with its chain) and its key, for http and native.
    cache_nbytes : size of the cache of payloads.
    cache_share : the largest payload that goes through the cache, as a share of it.
    durability : the level at which producers are answered.
    advertise : host that is told to clients; empty for the one by which they came.
    allow_network : some door is meant to be reached from other machines.
    monitor : the process behind the page is started with the node.
    """

    data: Path = Path("beamstream-data")
    http: Address = Address(LOOPBACK, 8400)
    ingest: Address = Address(LOOPBACK, 8401)
    data_port: Address = Address(LOOPBACK, 8402)
    native: Address = Address(LOOPBACK, 8403)
    tls_cert: Path | None = None
    tls_key: Path | None = None
    cache_nbytes: int = limits.GIB
    cache_share: float = 1 / limits.CACHE_ARENAS
    durability: Level = Level.DISK
    advertise: str = ""
    allow_network: bool = False
    monitor: bool = True
    folders: Folders = Folders()
    log: Log = Log()

    @property
    def doors(self) -> dict[str, Address]:
        return {
            "http": self.http,
            "ingest": self.ingest,
            "data_port": self.data_port,
            "native": self.native,
        }

    @property
    def tls(self) -> bool:
        """The doors http and native speak TLS."""
        return self.tls_cert is not None

    @property
    def open_doors(self) -> dict[str, Address]:
        """Those that other machines can reach."""
        return {name: door for name, door in self.doors.items() if not door.is_loopback}

    @property
    def cached_payload_nbytes_max(self) -> int:
        """Larger payloads go to disk as they come."""
        return int(self.cache_nbytes * self.cache_share)


def load(
    flags: Mapping[str, object], environ: Mapping[str, str], file: Path | None = None
) -> tuple[Settings, Origins]:
    """Read the settings from all places.

    Parameters
    ----------
    flags : name of a setting -> value; None stands for a flag that was not given.
    environ : the environment; only ``BEAMSTREAM_*`` is looked at.
    file : TOML file, or None for none.

    Raises
    ------
    BadSetting : a name is not known, a value is not understood, or values contradict.

    >>> settings, origins = load({"cache": "2GiB"}, {"BEAMSTREAM_HTTP": ":9000"})
    >>> settings.cache_nbytes, str(settings.http), origins["http"], origins["ingest"]
    (2147483648, '127.0.0.1:9000', 'environment BEAMSTREAM_HTTP', 'default')
    """
    given: dict[str, tuple[object, str]] = {}
    given.update(_from_file(file) if file is not None else {})
    given.update(_from_environment(environ))
    given.update(_from_flags(flags))
    values: dict[str, Any] = {}
    origins: Origins = {}
    for name, key in KEYS.items():
        if name in given:
            value, origins[name] = given[name]
            values[name] = _parse(key, name, value, origins[name])
        else:
            origins[name] = "default"
    return _build(values, origins), origins


def items(settings: Settings) -> Iterator[tuple[str, str]]:
    """Names and values of all settings as the user would write them."""
    for name, key in KEYS.items():
        value: Any = settings
        for attribute in key.path:
            value = getattr(value, attribute)
        yield name, key.show(value)


# ------------------------------------------------------------------------- the three places


def _from_file(file: Path) -> dict[str, tuple[object, str]]:
    try:
        with file.open("rb") as stream:
            text = stream.read(_FILE_NBYTES_MAX + 1)
    except OSError as error:
        raise BadSetting(f"cannot read the settings file {file}: {error.strerror}") from None
    if len(text) > _FILE_NBYTES_MAX:
        raise BadSetting(f"the settings file {file} has more than {_FILE_NBYTES_MAX} bytes")
    try:
        document = tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadSetting(f"the settings file {file} is not TOML: {error}") from None
    given: dict[str, tuple[object, str]] = {}
    for name, value in _flatten(document):
        origin = f"file {file}"
        _known(name, name, origin, list(KEYS))
        given[name] = (value, origin)
    return given


def _flatten(document: dict[str, Any]) -> Iterator[tuple[str, object]]:
    for name, value in document.items():
        if isinstance(value, dict) and (value or any(key.startswith(f"{name}.") for key in KEYS)):
            yield from ((f"{name}.{inner}", below) for inner, below in value.items())
        else:
            yield name, value


def _from_environment(environ: Mapping[str, str]) -> dict[str, tuple[object, str]]:
    names = {_environment_name(name): name for name in KEYS}
    given: dict[str, tuple[object, str]] = {}
    for variable, value in environ.items():
        if variable.startswith(ENVIRONMENT_PREFIX) and not _NOT_SETTINGS.fullmatch(variable):
            _known(variable, names.get(variable, ""), "the environment", list(names))
            given[names[variable]] = (value, f"environment {variable}")
    return given


def _from_flags(flags: Mapping[str, object]) -> dict[str, tuple[object, str]]:
    given: dict[str, tuple[object, str]] = {}
    for name, value in flags.items():
        if value is not None:
            _known(name, name, "the flags", list(KEYS))
            given[name] = (value, f"flag --{name.replace('_', '-')}")
    return given


def _environment_name(name: str) -> str:
    return ENVIRONMENT_PREFIX + name.replace(".", "_").upper()


def _known(shown: str, name: str, origin: str, known: list[str]) -> None:
    if name in KEYS:
        return
    near = difflib.get_close_matches(shown, known, 3, 0.5) or known
    raise BadSetting(
        f"there is no setting {shown[:80]!r}, found in {origin}",
        hint=f"did you mean {' or '.join(near)}?"
        if len(near) <= 3
        else f"known: {', '.join(near)}",
    )


# ------------------------------------------------------------------------- all the settings


class Key(NamedTuple):
    """How one setting is read, where it lies in `Settings`, what it means."""

    path: tuple[str, ...]
    parse: Callable[[object], object]
    text: str
    show: Callable[[Any], str] = str


def _show_level(level: Level) -> str:
    return level.name.lower()


def _show_boolean(value: bool) -> str:
    return str(value).lower()


def _show_optional(path: Path | None) -> str:
    return "" if path is None else str(path)


KEYS: Final[dict[str, Key]] = {
    "data": Key(("data",), parse_path, "data folder"),
    "http": Key(("http",), parse_address, "address for HTTP"),
    "ingest": Key(("ingest",), parse_address, "address for producers of ASAPO"),
    "data_port": Key(("data_port",), parse_address, "address of the data server of ASAPO"),
    "native": Key(("native",), parse_address, "address for native clients"),
    "tls_cert": Key(("tls_cert",), parse_path, "certificate for http and native", _show_optional),
    "tls_key": Key(("tls_key",), parse_path, "key of that certificate", _show_optional),
    "cache": Key(("cache_nbytes",), parse_cache_size, "size of the cache", show_size),
    "cache_share": Key(("cache_share",), parse_share, "largest payload in the cache, as a share"),
    "durability": Key(("durability",), parse_level, "cache, os or disk", _show_level),
    "advertise": Key(("advertise",), parse_host, "host that is told to clients"),
    "allow_network": Key(
        ("allow_network",),
        parse_boolean,
        "addresses without a host are on all interfaces instead of loopback",
        _show_boolean,
    ),
    "monitor": Key(
        ("monitor",), parse_boolean, "start the page's process with the node", _show_boolean
    ),
    "folders.layout": Key(
        ("folders", "layout"), one_of("data", "template", "asapo"), "where files lie"
    ),
    "folders.core": Key(("folders", "core"), template("beamtime"), "core folder of a beamtime"),
    "folders.beamline": Key(
        ("folders", "beamline"), template("beamtime", "beamline"), "beamline folder of a beamtime"
    ),
    "folders.root": Key(
        ("folders", "root"), parse_absolute, "root of core folders", _show_optional
    ),
    "folders.online_root": Key(
        ("folders", "online_root"), parse_absolute, "root of beamline folders", _show_optional
    ),
    "log.level": Key(("log", "level"), one_of("debug", "info", "warning", "error"), "log level"),
    "log.format": Key(("log", "format"), one_of("auto", "text", "json"), "form of log lines"),
}
"""All settings, in the order in which they are shown."""


# --------------------------------------------------------------------------- the whole tree


def _parse(key: Key, name: str, value: object, origin: str) -> object:
    try:
        return key.parse(value)
    except BadSetting as error:
        raise BadSetting(f"setting {name} ({origin}): {error.message}", hint=error.hint) from None


def _build(values: dict[str, Any], origins: Origins) -> Settings:
    tree: dict[str, Any] = {}
    tables: dict[str, dict[str, Any]] = {"folders": {}, "log": {}}
    for name, value in values.items():
        *table, field = KEYS[name].path
        (tables[table[0]] if table else tree)[field] = value
    fallback = ALL_INTERFACES if tree.get("allow_network") else LOOPBACK
    for door in ("http", "ingest", "data_port", "native"):
        default: Address = getattr(Settings(), door)
        address = tree.get(door, Address("", default.port))
        tree[door] = address if address.host else Address(fallback, address.port)
    folders = Folders(**tables["folders"])
    _check_folders(folders, origins)
    settings = Settings(**tree, folders=folders, log=Log(**tables["log"]))
    _check_doors(settings)
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise BadSetting("TLS needs both tls_cert and tls_key", hint="set both or none")
    # Who names a host outside loopback has said that the network may come in.
    network = settings.allow_network or bool(settings.open_doors)
    return msgspec.structs.replace(settings, allow_network=network)


def _check_doors(settings: Settings) -> None:
    seen: dict[Address, str] = {}
    for name, door in settings.doors.items():
        if door.port and door in seen:
            raise BadSetting(f"{seen[door]} and {name} have the same address {door}")
        seen[door] = name


def _check_folders(folders: Folders, origins: Origins) -> None:
    wanted = {
        "folders.core": "template",
        "folders.beamline": "template",
        "folders.root": "asapo",
        "folders.online_root": "asapo",
    }
    for name, layout in wanted.items():
        if origins[name] != "default" and folders.layout != layout:
            raise BadSetting(
                f"setting {name} ({origins[name]}) does nothing with layout {folders.layout!r}",
                hint=f'set folders.layout = "{layout}"',
            )
    if folders.layout == "asapo" and (folders.root is None or folders.online_root is None):
        raise BadSetting("layout 'asapo' needs folders.root and folders.online_root")
