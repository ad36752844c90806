"""Cut the schemas of the gateway's responses out of an OpenAPI document.

    uv run python -m tests.data.make_schemas openai PATH/openapi.json
    uv run python -m tests.data.make_schemas open_responses PATH/openapi.json

The READMEs beside the results name the documents. Descriptions and examples are left out. `nullable: true`, which JSON Schema
does not know, becomes a union with null. All else stays as it is.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
PREFIX = "#/components/schemas/"
ROOTS = {
    "openai": [
        "ChatCompletionDeleted",
        "CompactResource",
        "ConversationItem",
        "ConversationItemList",
        "ConversationResource",
        "CreateChatCompletionResponse",
        "CreateChatCompletionStreamResponse",
        "DeletedConversationResource",
        "Error",
        "ErrorResponse",
        "ListModelsResponse",
        "Model",
        "Response",
        "ResponseItemList",
        "ResponseStreamEvent",
        "TokenCountsResource",
    ],
    "open_responses": ["CompactResource", "ErrorStreamingEvent", "ResponseResource"],
}
"""The schemas that are kept, with all that they refer to. Each streaming event of Open Responses is one too."""
LEFT_OUT = {"description", "example", "examples", "title", "summary"}


def make_subset(schemas: dict[str, Any], roots: list[str]) -> dict[str, Any]:
    """Return the roots and everything that they refer to, without texts for readers."""
    kept: dict[str, Any] = {}
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        if name not in kept:
            kept[name] = _strip(schemas[name])
            waiting += _list_references(kept[name])
    return {name: kept[name] for name in sorted(kept)}


def _strip(schema: Any) -> Any:
    """Leave out texts for readers. A property may have the name of such a text; its value is a schema."""
    if isinstance(schema, list):
        return [_strip(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("nullable") is True:
        others = {key: value for key, value in schema.items() if key != "nullable"}
        return {"anyOf": [_strip(others), {"type": "null"}]}
    return {
        key: _strip(value)
        for key, value in schema.items()
        if not key.startswith("x-") and (key not in LEFT_OUT or (isinstance(value, dict) and "type" in value))
    }


def _list_references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        for key, value in schema.items():
            if key == "$ref":
                yield value.removeprefix(PREFIX)
            else:
                yield from _list_references(value)
    elif isinstance(schema, list):
        for each in schema:
            yield from _list_references(each)


def main() -> None:
    """Write `schemas.json.gz` of one document."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("name", choices=sorted(ROOTS))
    parser.add_argument("document", type=Path)
    arguments = parser.parse_args()
    document = json.loads(arguments.document.read_bytes())
    schemas = document["components"]["schemas"]
    roots = ROOTS[arguments.name]
    if arguments.name == "open_responses":
        roots = [*roots, *(name for name in schemas if name.startswith("Response") and name.endswith("StreamingEvent"))]
    subset = {"components": {"schemas": make_subset(schemas, roots)}}
    data = json.dumps(subset, ensure_ascii=False, separators=(",", ":")).encode()
    path = FOLDER / arguments.name / "schemas.json.gz"
    path.write_bytes(gzip.compress(data, 9, mtime=0))
    print(f"{path.name}: {len(subset['components']['schemas'])} schemas, {len(data):,} bytes")


if __name__ == "__main__":
    main()
