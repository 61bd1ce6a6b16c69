"""HTML without scripts: pieces of pages, every text escaped. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

STYLE: Final = """
:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif; }
body { margin: 1.5rem auto; max-width: 70rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin: 1.6rem 0 .4rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .2rem .7rem .2rem 0; vertical-align: top;
  border-bottom: 1px solid color-mix(in srgb, currentColor 18%, transparent); }
td.n, th.n { text-align: right; }
code, pre { font: .9em ui-monospace, monospace; }
pre { overflow-x: auto; white-space: pre-wrap; }
.soft { opacity: .7; }
figure { margin: .6rem 0; } figcaption { font-size: .9rem; }
svg { width: 100%; height: auto; display: block; }
svg text { font: 11px system-ui, sans-serif; fill: currentColor; }
svg .axis { stroke: currentColor; stroke-opacity: .3; }
svg polyline { fill: none; stroke-width: 1.5; }
svg .line-0 { stroke: #0072b2; } svg .line-1 { stroke: #d55e00; } svg .line-2 { stroke: #009e73; }
"""
"""Colours that people with any sight tell apart; they go with a legend in words."""


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def safe(value: object) -> str:
    """A value as HTML: escaped, unless it is HTML.

    >>> safe("<script>"), safe(Html("<b>"))
    ('&lt;script&gt;', '<b>')
    """
    return value if isinstance(value, Html) else escape(str(value))


def tag(name: str, *content: object, **attributes: object) -> Html:
    """An element; an underscore at the end of an attribute's name is left out.

    >>> tag("td", "a & b", class_="n")
    '<td class="n">a &amp; b</td>'
    """
    told = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
    )
    return Html(f"<{name}{told}>{''.join(map(safe, content))}</{name}>")


def table(
    columns: Sequence[tuple[str, bool]], rows: Iterable[Sequence[object]], empty: str
) -> Html:
    """A table; a column is its title and whether it has numbers."""
    head = [tag("th", title, **({"class_": "n"} if n else {}), scope="col") for title, n in columns]
    body = [
        tag(
            "tr",
            *(
                tag("td", cell, **({"class_": "n"} if n else {}))
                for cell, (_, n) in zip(row, columns, strict=True)
            ),
        )
        for row in rows
    ]
    if not body:
        return tag("p", empty, class_="soft")
    return tag("table", tag("thead", tag("tr", *head)), tag("tbody", *body))


def page(title: str, *content: object, style: str, refresh_s: int = 0) -> str:
    """A whole page.

    Parameters
    ----------
    style : what stands in its head: a link to a sheet, or the sheet itself.
    refresh_s : after how many seconds it is asked for again; 0: never.
    """
    again = f'<meta http-equiv="refresh" content="{refresh_s}">' if refresh_s else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"{again}<title>{escape(title)}</title>{style}</head><body>"
        f"{''.join(map(safe, content))}</body></html>\n"
    )


_SI: Final = ("", "k", "M", "G", "T", "P")


def compact(value: float | None) -> str:
    """A number in few digits.

    >>> compact(1_234_567), compact(98.71), compact(None)
    ('1.23 M', '98.7', '–')
    """
    if value is None:
        return "–"
    exponent, rest = 0, abs(float(value))
    while rest >= 999.5 and exponent < len(_SI) - 1:
        rest, exponent = rest / 1000, exponent + 1
    if not exponent and rest.is_integer():
        return f"{int(value)}"
    digits = 2 if rest < 9.995 else 1 if rest < 99.95 else 0
    sign = "-" if value < 0 else ""
    return f"{sign}{rest:.{digits}f} {_SI[exponent]}".rstrip()


def quantity(value: float | None, unit: str) -> str:
    """A number with its unit.

    >>> quantity(8_388_608, "B"), quantity(12.5, "Hz")
    ('8.39 MB', '12.5 Hz')
    """
    if value is None:
        return "–"
    shown = compact(value)
    return f"{shown}{unit}" if shown[-1:].isalpha() else f"{shown} {unit}"


def span(seconds: float | None) -> str:
    """A time.

    >>> span(0.043), span(400), span(None)
    ('0.04 s', '6 min 40 s', '–')
    """
    if seconds is None:
        return "–"
    if seconds < 99.95:
        return f"{seconds:.{2 if seconds < 9.995 else 1}f} s"
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes} min {int(seconds % 60)} s"
    return f"{minutes // 60} h {minutes % 60} min"
