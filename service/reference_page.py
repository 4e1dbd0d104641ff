"""``/docs``: the OpenAPI document as one page to read, without scripts and without anything from elsewhere."""

import json
from collections.abc import Iterator
from html import escape
from typing import Any

Json = dict[str, Any]

STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a;background:#fff}
h2{border-bottom:1px solid #ccc;margin-top:2.5rem}h3{font:600 1rem ui-monospace,monospace;margin:2rem 0 .3rem}h3 b{color:#05c}
pre{background:#f5f5f5;padding:.8rem;overflow:auto;font-size:.85rem}td,th{padding:.2rem .8rem .2rem 0;text-align:left;vertical-align:top}
summary{cursor:pointer;color:#05c}
@media(prefers-color-scheme:dark){body{color:#ddd;background:#111}pre{background:#222}h3 b,a,summary{color:#7af}}"""


def reference_page(document: Json) -> str:
    """The page: operations by tag, then the schemas that they refer to."""
    info = document["info"]
    body = [
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1><p>{escape(info['summary'])}</p><p>{escape(info['description'])}</p>"
    ]
    for tag, operations in _by_tag(document).items():
        body.append(f"<h2>{escape(tag)}</h2>")
        body += [_operation(*operation) for operation in operations]
    body.append("<h2>schemas</h2>")
    for name, schema in sorted(document["components"]["schemas"].items()):
        body.append(f'<h3 id="{escape(name)}">{escape(name)}</h3><p>{escape(schema.get("description", ""))}</p>{_folded("schema", schema)}')
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(info["title"])}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style><body>{"".join(body)}</body></html>'
    )


def _by_tag(document: Json) -> dict[str, list[tuple[str, str, Json]]]:
    found: dict[str, list[tuple[str, str, Json]]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            found.setdefault(operation["tags"][0], []).append((method, path, operation))
    return found


def _operation(method: str, path: str, operation: Json) -> str:
    return "".join(
        [
            f"<h3><b>{escape(method.upper())}</b> {escape(path)}</h3><p>{escape(operation.get('description') or operation['summary'])}</p>",
            *_parameters(operation.get("parameters", [])),
            *_body(operation.get("requestBody", {}).get("content", {})),
            *_responses(operation["responses"]),
        ]
    )


def _parameters(parameters: list[Json]) -> Iterator[str]:
    if parameters:
        rows = (
            f"<tr><td><code>{escape(item['name'])}</code><td>{escape(item['in'])}<td>{escape(item.get('description', ''))}"
            for item in parameters
        )
        yield f"<table>{''.join(rows)}</table>"


def _body(content: Json) -> Iterator[str]:
    for media_type, media in content.items():
        yield f"<p>Body <code>{escape(media_type)}</code> {_link(media['schema'])}</p>"
        examples = [media["example"]] if "example" in media else [item["value"] for item in media.get("examples", {}).values()]
        for example in examples:
            yield f"<pre>{escape(json.dumps(example, indent=2))}</pre>"


def _responses(responses: Json) -> Iterator[str]:
    for status, response in responses.items():
        links = {_link(media["schema"]) for media in response.get("content", {}).values() if "schema" in media} - {""}
        if not status.startswith(("4", "5")):
            yield f"<p>{escape(status)} {escape(response['description'])} {' '.join(sorted(links))}</p>"


def _link(schema: Json) -> str:
    name = schema.get("$ref", "").rpartition("/")[2]
    return f'<a href="#{escape(name)}">{escape(name)}</a>' if name else ""


def _folded(title: str, value: Json) -> str:
    return f"<details><summary>{escape(title)}</summary><pre>{escape(json.dumps(value, indent=2))}</pre></details>"
