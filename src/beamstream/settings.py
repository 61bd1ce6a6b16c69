"""One tree of settings: defaults < TOML file < environment < flags, each value with its origin.

A setting has one name everywhere: ``data_port`` in the file, ``BEAMSTREAM_DATA_PORT`` in the
environment, ``--data-port`` as a flag; ``folders.layout`` stands in the table ``[folders]`` and is
``BEAMSTREAM_FOLDERS_LAYOUT``. A name that nobody knows is an error, not a setting that silently
does nothing.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
import string
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import msgspec

from beamstream import limits
from beamstream.errors import BadSetting
from beamstream.model import Level

ENVIRONMENT_PREFIX: Final = "BEAMSTREAM_"

LOOPBACK: Final = "127.0.0.1"
ALL_INTERFACES: Final = "0.0.0.0"  # noqa: S104

CORE_TEMPLATE: Final = "{data}/beamtimes/{beamtime}"
BEAMLINE_TEMPLATE: Final = "{data}/beamlines/{beamline}/{beamtime}"

_FILE_NBYTES_MAX: Final = limits.MIB
# What clients and tests read from the environment; none of it is a setting of the node.
_NOT_SETTINGS: Final = re.compile(
    ENVIRONMENT_PREFIX + "(URL|TOKEN|BEAMTIME|CONFIG|SHARED|TEST_.*|BENCH_.*)"
)
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_SIZE: Final = re.compile(r"\s*(\d{1,19}(?:\.\d{1,6})?)\s*([kKMGT]?)(i?)[bB]?\s*")
_SIZE_MAX: Final = 2**63
_UNITS: Final = {"": 0, "k": 1, "K": 1, "M": 2, "G": 3, "T": 4}

Origins = dict[str, str]
"""Name of a setting -> where its value comes from, in words."""


class Address(msgspec.Struct, frozen=True):
    """Where a door listens. Port 0 asks for any free one.

    >>> str(Address("127.0.0.1", 8400))
    '127.0.0.1:8400'
    """

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Only programs on this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


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
    http, ingest, data_port : addresses of the three doors.
    cache_nbytes : size of the cache of payloads.
    cache_share : the largest payload that goes through the cache, as a share of it.
    durability : the level at which producers are answered.
    advertise : host that is told to clients; empty for the one by which they came.
    allow_network : some door is meant to be reached from other machines.
    """

    data: Path = Path("beamstream-data")
    http: Address = Address(LOOPBACK, 8400)
    ingest: Address = Address(LOOPBACK, 8401)
    data_port: Address = Address(LOOPBACK, 8402)
    cache_nbytes: int = limits.GIB
    cache_share: float = 1 / limits.CACHE_ARENAS
    durability: Level = Level.DISK
    advertise: str = ""
    allow_network: bool = False
    folders: Folders = Folders()
    log: Log = Log()

    @property
    def doors(self) -> dict[str, Address]:
        return {"http": self.http, "ingest": self.ingest, "data_port": self.data_port}

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
        if isinstance(value, dict):
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


# ----------------------------------------------------------------------------- the values


def parse_size(text: object) -> int:
    """Return nbytes from a number or a text such as ``1GiB``, ``500M`` (10^6) or ``64k``.

    Raises
    ------
    BadSetting : it is not a size.

    >>> parse_size("1.5 GiB"), parse_size("500M")
    (1610612736, 500000000)
    """
    hint = "for example 1GiB, 500M or 65536"
    if isinstance(text, int) and not isinstance(text, bool) and 0 <= text < _SIZE_MAX:
        return text
    found = _SIZE.fullmatch(text) if isinstance(text, str) and text.isascii() else None
    if found is None:
        raise BadSetting(f"{_shown(text)} is not a size", hint=hint)
    number, unit, binary = found.groups()
    whole, _, fraction = number.partition(".")
    factor: int = (1024 if binary else 1000) ** _UNITS[unit]
    # Whole numbers only: floats would round sizes above 2^53 bytes.
    nbytes = int(whole) * factor + int(fraction or 0) * factor // int(10 ** len(fraction))
    if nbytes >= _SIZE_MAX:
        raise BadSetting(f"{_shown(text)} is more than any machine has", hint=hint)
    return nbytes


def show_size(nbytes: int) -> str:
    """Write a number of bytes in the largest unit that leaves no remainder.

    >>> show_size(2**30), show_size(500_000_000), show_size(1000)
    ('1GiB', '500M', '1k')
    """
    for factor, unit in ((1024, "iB"), (1000, "")):
        for power, letter in ((4, "T"), (3, "G"), (2, "M"), (1, "k" if not unit else "K")):
            if nbytes and nbytes % factor**power == 0:
                return f"{nbytes // factor**power}{letter}{unit}"
    return str(nbytes)


def parse_address(text: object) -> Address:
    """Return the address in ``HOST:PORT``; ``:PORT`` leaves the host empty.

    Raises
    ------
    BadSetting : it is not an address.

    >>> parse_address("[::1]:0")
    Address(host='::1', port=0)
    """
    hint = "HOST:PORT, for example 127.0.0.1:8400; port 0 takes any free one"
    if isinstance(text, Address):
        return text
    host, colon, port = text.rpartition(":") if isinstance(text, str) else ("", "", "")
    if not colon or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        raise BadSetting(f"{_shown(text)} is not an address", hint=hint)
    if host.startswith("[") and host.endswith("]"):
        host = _ipv6(host[1:-1], text, hint)
    elif host and not _HOST.fullmatch(host):
        raise BadSetting(f"{_shown(text)} is not an address", hint=hint)
    return Address(host, int(port))


def _ipv6(host: str, text: object, hint: str) -> str:
    try:
        return str(ipaddress.IPv6Address(host))
    except ValueError:
        raise BadSetting(f"{_shown(text)} is not an address", hint=hint) from None


def _shown(value: object) -> str:
    return repr(value)[:80]


def _cache_size(value: object) -> int:
    nbytes = parse_size(value)
    if nbytes < limits.CACHE_NBYTES_MIN:
        raise BadSetting(
            f"a cache of {nbytes} bytes is too small",
            hint=f"at least {show_size(limits.CACHE_NBYTES_MIN)}",
        )
    return nbytes


def _share(value: object) -> float:
    largest = 1 / limits.CACHE_ARENAS
    try:
        share = float(value) if isinstance(value, str | int | float) else 0.0
    except ValueError:
        share = 0.0
    if not 0 < share <= largest:
        raise BadSetting(
            f"{_shown(value)} is not a share of the cache", hint=f"above 0, up to {largest}"
        )
    return share


def _level(value: object) -> Level:
    if isinstance(value, Level):
        return value
    if isinstance(value, str) and value.upper() in Level.__members__:
        return Level[value.upper()]
    raise BadSetting(f"{_shown(value)} is not a level", hint="cache, os or disk")


def _boolean(value: object) -> bool:
    known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in known:
        return known[value.lower()]
    raise BadSetting(f"{_shown(value)} is neither true nor false")


def _host(value: object) -> str:
    if value == "":
        return ""
    if isinstance(value, str) and _HOST.fullmatch(value):
        return value
    raise BadSetting(f"{_shown(value)} is not a host", hint="a name or IPv4 address, without port")


def _path(value: object) -> Path:
    text = str(value) if isinstance(value, str | Path) else ""
    if not text or "\0" in text:
        raise BadSetting(f"{_shown(value)} is not a path")
    return Path(text).expanduser() if text.startswith("~") else Path(text)


def _absolute(value: object) -> Path:
    path = _path(value)
    if not path.is_absolute():
        raise BadSetting(f"{_shown(value)} is not an absolute path")
    return path


def _template(*needed: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        text = str(_path(value))
        try:
            parts = list(string.Formatter().parse(text))
        except ValueError as error:
            raise BadSetting(f"{_shown(value)} is not a template: {error}") from None
        fields = [field for _, field, _, _ in parts if field is not None]
        plain = all(not spec and not conversion for _, _, spec, conversion in parts)
        if not plain or not set(needed) <= set(fields) <= {"data", "beamtime", "beamline"}:
            raise BadSetting(
                f"{_shown(value)} is not a template of a beamtime's folder",
                hint=f"it needs {{{'} and {'.join(needed)}}}, may have {{data}} and {{beamline}}",
            )
        return text

    return parse


def _one_of(*words: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if value not in words:
            raise BadSetting(f"{_shown(value)} is not possible", hint=", ".join(words))
        return str(value)

    return parse


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
    "data": Key(("data",), _path, "data folder"),
    "http": Key(("http",), parse_address, "address for HTTP"),
    "ingest": Key(("ingest",), parse_address, "address for producers of ASAPO"),
    "data_port": Key(("data_port",), parse_address, "address of the data server of ASAPO"),
    "cache": Key(("cache_nbytes",), _cache_size, "size of the cache", show_size),
    "cache_share": Key(("cache_share",), _share, "largest payload in the cache, as a share"),
    "durability": Key(("durability",), _level, "cache, os or disk", _show_level),
    "advertise": Key(("advertise",), _host, "host that is told to clients"),
    "allow_network": Key(
        ("allow_network",),
        _boolean,
        "addresses without a host are on all interfaces instead of loopback",
        _show_boolean,
    ),
    "folders.layout": Key(
        ("folders", "layout"), _one_of("data", "template", "asapo"), "where files lie"
    ),
    "folders.core": Key(("folders", "core"), _template("beamtime"), "core folder of a beamtime"),
    "folders.beamline": Key(
        ("folders", "beamline"), _template("beamtime", "beamline"), "beamline folder of a beamtime"
    ),
    "folders.root": Key(("folders", "root"), _absolute, "root of core folders", _show_optional),
    "folders.online_root": Key(
        ("folders", "online_root"), _absolute, "root of beamline folders", _show_optional
    ),
    "log.level": Key(("log", "level"), _one_of("debug", "info", "warning", "error"), "log level"),
    "log.format": Key(("log", "format"), _one_of("auto", "text", "json"), "form of log lines"),
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
    for door in ("http", "ingest", "data_port"):
        default: Address = getattr(Settings(), door)
        address = tree.get(door, Address("", default.port))
        tree[door] = address if address.host else Address(fallback, address.port)
    folders = Folders(**tables["folders"])
    _check_folders(folders, origins)
    settings = Settings(**tree, folders=folders, log=Log(**tables["log"]))
    _check_doors(settings)
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
