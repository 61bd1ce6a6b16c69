"""The description of the API, made from the table of routes: as OpenAPI, and as a page. Pure."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from beamstream._version import __version__
from beamstream.monitor import documents as doc
from beamstream.monitor.markup import Html, page, table, tag
from beamstream.monitor.routes import ROUTES, Route

_REF: Final = "#/components/schemas/{name}"
_PATH: Final = re.compile(r"\{(\w+)\}")
_NEEDS: Final = {
    "anyone": "anybody",
    "viewer": "whoever may see anything: on loopback anybody, else with a token",
    "operator": "whoever has a token that writes to the beamtime",
}


def document() -> dict[str, Any]:
    """The API as OpenAPI 3.1 describes it."""
    kinds: list[Any] = [route.takes for route in ROUTES if route.method == "POST"]
    kinds += [kind for route in ROUTES for kind in _kinds(route.gives)]
    kinds += [doc.Failure, doc.Told, doc.ErrorFrame]
    _, components = msgspec.json.schema_components(kinds, ref_template=_REF)
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Beamstream monitor",
            "version": __version__,
            "description": (
                "What the page asks. Rates are per second, _s seconds, _ms milliseconds, _ns "
                "nanoseconds since 1970 UTC. The WebSocket ui/feed takes Told and sends "
                "SnapshotFrame and ErrorFrame as text, pictures (as /api/v1/frame) as bytes."
            ),
        },
        "servers": [{"url": ".."}],
        "security": [{}, {"cookie": []}, {"bearer": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "cookie": {"type": "apiKey", "in": "cookie", "name": "beamstream"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    found: dict[str, Any] = {
        "summary": route.text,
        "operationId": f"{route.method.lower()}_{route.path.strip('/').replace('/', '_')}",
        "description": f"For {_NEEDS[route.need]}.",
        "parameters": parameters(route),
        "responses": {
            "200": {"description": "the answer", "content": _content(route.gives)},
            "default": {"description": "why not", "content": _content(doc.Failure)},
        },
    }
    if route.method == "POST":
        if not _PATH.search(route.path):
            found["requestBody"] = {"required": True, "content": _content(route.takes)}
        found["parameters"].append(
            {"name": "X-Beamstream", "in": "header", "required": True, "schema": {"const": "1"}}
        )
    return found


def parameters(route: Route) -> list[dict[str, Any]]:
    """What stands in its path and behind the ?."""
    in_path = set(_PATH.findall(route.path))
    schema = msgspec.json.schema(route.takes, ref_template=_REF)["$defs"][route.takes.__name__]
    required = set(schema.get("required", ()))
    return [
        {
            "name": name,
            "in": "path" if name in in_path else "query",
            "required": name in in_path or name in required,
            "schema": one,
        }
        for name, one in schema["properties"].items()
        if route.method == "GET" or name in in_path or (in_path and name == "node")
    ]


def _content(kind: Any) -> dict[str, Any]:
    if isinstance(kind, str):
        return {kind.partition(";")[0]: {"schema": {"type": "string"}}}
    schemas, _ = msgspec.json.schema_components(_kinds(kind), ref_template=_REF)
    schema = schemas[0] if len(schemas) == 1 else {"anyOf": list(schemas)}
    return {"application/json": {"schema": schema}}


def _kinds(kind: Any) -> tuple[Any, ...]:
    """Documents that are meant."""
    if isinstance(kind, str):
        return ()
    return kind if isinstance(kind, tuple) else (kind,)


# ------------------------------------------------------------------------------ as a page


def docs(style: str) -> str:
    """The API for people, without scripts.

    Parameters
    ----------
    style : what stands in the head of the page.
    """
    described = document()
    parts: list[Html] = [
        tag("h1", "The API of the monitor"),
        tag("p", described["info"]["description"]),
        tag("p", tag("a", "The same as OpenAPI", href="openapi.json")),
    ]
    for route in ROUTES:
        parts += _described(route)
    parts.append(tag("h2", "Documents"))
    for name, schema in sorted(described["components"]["schemas"].items()):
        parts += _schema(name, schema)
    return page("The API of the monitor", *parts, style=style)


def _described(route: Route) -> list[Html]:
    asked = parameters(route)
    gives = route.gives if isinstance(route.gives, str) else _words(_only(_content(route.gives)))
    found = [
        tag("h2", tag("code", f"{route.method} {route.path}")),
        tag("p", f"{route.text} For {_NEEDS[route.need]}."),
    ]
    if asked:
        rows = [(tag("code", one["name"]), _words(one["schema"]), _default(one)) for one in asked]
        found.append(table((("Parameter", False), ("Is", False), ("Default", False)), rows, ""))
    if route.method == "POST" and not _PATH.search(route.path):
        body = _words(_only(_content(route.takes)))
        found.append(tag("p", "Body: ", body, "; with the header ", tag("code", "X-Beamstream: 1")))
    found.append(tag("p", "Answer: ", gives))
    return found


def _only(content: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(iter(content.values()))["schema"]
    return found


def _default(one: dict[str, Any]) -> str:
    return "must be given" if one["required"] else repr(one["schema"].get("default", ""))


def _schema(name: str, schema: dict[str, Any]) -> list[Html]:
    found = [tag("h3", name, id=name)]
    if "description" in schema:
        found.append(tag("p", schema["description"]))
    rows = [(tag("code", key), _words(one)) for key, one in schema.get("properties", {}).items()]
    found.append(table((("Key", False), ("Is", False)), rows, ""))
    return found


def _words(schema: dict[str, Any]) -> Html:
    """A schema in a few words.

    >>> _words({"type": "array", "items": {"type": "integer"}})
    'list of <span>integer</span>'
    """
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return tag("a", name, href=f"#{name}")
    if "anyOf" in schema:
        return Html(" or ".join(map(_words, schema["anyOf"])))
    if "enum" in schema:
        return tag("span", ", ".join(map(str, schema["enum"])))
    if schema.get("type") == "array":
        inner = schema.get("items") or {"anyOf": schema.get("prefixItems", [{}])}
        return Html("list of " + _words(inner if isinstance(inner, dict) else {}))
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return Html("object of " + _words(schema["additionalProperties"]))
    return (
        tag("span", schema.get("type", "anything"))
        if schema.get("const") is None
        else tag("code", schema["const"])
    )
