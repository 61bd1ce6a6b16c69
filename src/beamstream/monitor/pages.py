"""Files of the page, as `ui/` has built them; and a plain page for when it has not."""

from __future__ import annotations

import base64
import hashlib
import mimetypes
from pathlib import Path
from typing import Final, NamedTuple

from beamstream.monitor import documents as doc
from beamstream.monitor.markup import STYLE, Html, page, tag
from beamstream.monitor.report import tables

WEB: Final = Path(__file__).with_name("web")
PLAIN_CSS: Final = "plain.css"
REFRESH_S: Final = 2
IMMUTABLE: Final = "public, max-age=31536000, immutable"
NO_STORE: Final = "no-store"

_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
REPORT_POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; frame-ancestors 'none'; base-uri 'none'"
)
"""A report has its style in itself, so that it is one file."""


class File(NamedTuple):
    """A file as it is sent; `packed`: by gzip, None if there is no such copy."""

    data: bytes
    packed: bytes | None
    media: str
    cache: str


class Pages:
    """All files, read once: what is not among them is not served, whatever its name is.

    Parameters
    ----------
    folder : built by ``ui/``; without an index.html there is the plain page.
    """

    def __init__(self, folder: Path = WEB) -> None:
        self._files = {PLAIN_CSS: File(STYLE.encode(), None, "text/css; charset=utf-8", NO_STORE)}
        if (folder / "index.html").is_file():
            for path in sorted(folder.rglob("*")):
                if path.is_file() and path.suffix != ".gz":
                    self._files[path.relative_to(folder).as_posix()] = _read(path)

    @property
    def built(self) -> bool:
        """Whether there is more than the plain page."""
        return "index.html" in self._files

    def file(self, name: str) -> File | None:
        """A file by its name below /ui/."""
        return self._files.get(name or "index.html")


def _read(path: Path) -> File:
    packed = path.with_name(f"{path.name}.gz")
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    text = kind.startswith("text/") or kind in ("application/javascript", "application/json")
    return File(
        data=path.read_bytes(),
        packed=packed.read_bytes() if packed.is_file() else None,
        media=f"{kind}; charset=utf-8" if text else kind,
        # Names of assets hold a digest of what is in them.
        cache=IMMUTABLE if path.parent.name == "assets" else NO_STORE,
    )


def link(css: str) -> str:
    """A link to the style of plain pages, for the head."""
    return f'<link rel="stylesheet" href="{css}">'


def plain(found: doc.Snapshot | None, stale_s: float, why: str) -> str:
    """The numbers of the page without scripts.

    Parameters
    ----------
    found : what there is to see; None: nothing, because of `why`.
    """
    content: list[Html] = [tag("h1", "Beamstream")]
    if found is None:
        content.append(tag("p", why))
    else:
        age = f"The node has answered {stale_s:.1f} s ago."
        content.append(tag("p", f"Node {found.node.name}: {found.sentence} {age}"))
        content += tables(found)
    content.append(
        tag(
            "p",
            "This is the plain page: the other one is not built into this installation. ",
            tag("a", "The API", href="../api/docs"),
            class_="soft",
        )
    )
    return page("Beamstream", *content, style=link(PLAIN_CSS), refresh_s=REFRESH_S)
