"""Validate values of the API against the schemas of OpenAI and of Open Responses.

A response and its events must fit both. `tests/data/openai` and `tests/data/open_responses` have the schemas.
"""

from __future__ import annotations

import functools
import gzip
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from tests.support.gateway import Exchange

DATA = Path(__file__).resolve().parent.parent / "data"
MAX_PROBLEMS = 4
OF_OPEN_RESPONSES = {"Response": "ResponseResource", "CompactResource": "CompactResource"}
"""The schemas of OpenAI that Open Responses has too, under its names. Events are found by their type."""
EVENT = "ResponseStreamEvent"
OF_ROUTES = {
    ("POST", "chat/completions"): "CreateChatCompletionResponse",
    ("GET", "chat/completions/*"): "CreateChatCompletionResponse",
    ("DELETE", "chat/completions/*"): "ChatCompletionDeleted",
    ("GET", "models"): "ListModelsResponse",
    ("GET", "models/*"): "Model",
    ("POST", "conversations"): "ConversationResource",
    ("GET", "conversations/*"): "ConversationResource",
    ("POST", "conversations/*"): "ConversationResource",
    ("DELETE", "conversations/*"): "DeletedConversationResource",
    ("POST", "conversations/*/items"): "ConversationItemList",
    ("GET", "conversations/*/items"): "ConversationItemList",
    ("GET", "conversations/*/items/*"): "ConversationItem",
    ("DELETE", "conversations/*/items/*"): "ConversationResource",
    ("POST", "responses"): "Response",
    ("GET", "responses/*"): "Response",
    ("POST", "responses/*/cancel"): "Response",
    ("GET", "responses/*/input_items"): "ResponseItemList",
    ("POST", "responses/input_tokens"): "TokenCountsResource",
    ("POST", "responses/compact"): "CompactResource",
}
"""The schema of each route's answer. OpenAI's document describes no answer of `DELETE /responses/{id}`."""


def validate(name: str, value: object) -> None:
    """Check a value against a schema of OpenAI, and against the one of Open Responses if it has one.

    Args:
        name: The name in OpenAI's document, such as `Response`. `ResponseStreamEvent` is the schema of the event's `type`.
        value: The value as JSON.

    Raises: AssertionError with up to four problems.
    """
    problems = list(_find_problems("openai", _name_in_openai(name, value), value))
    other = _name_in_open_responses(name, value)
    if other is not None:
        problems += _find_problems("open_responses", other, _hide_json_schema(value))
    if problems:
        more = [f"and {len(problems) - MAX_PROBLEMS} more"] if len(problems) > MAX_PROBLEMS else []
        raise AssertionError("\n".join([f"this is no valid {name}:", *problems[:MAX_PROBLEMS], *more]))


def validate_exchange(exchange: Exchange) -> None:
    """Check what the gateway answered to a request: the object of the route, an error, or each event of a stream.

    Raises: AssertionError with the request and up to four problems.
    """
    try:
        _validate_answer(exchange)
    except AssertionError as error:
        raise AssertionError(f"{exchange.method} {exchange.path} ({exchange.status}): {error}") from None


def _validate_answer(exchange: Exchange) -> None:
    found = re.fullmatch(r"(?:/c/[^/]+)?/v1/(.+)", exchange.path)
    if found is None:  # a route that OpenAI does not have
        return
    path = found[1]
    if exchange.status >= 400:
        validate("ErrorResponse", exchange.answer)
    elif exchange.is_stream:
        validate_stream(path, exchange.events)
    else:
        name = _find_route(exchange.method, path)
        if name is not None:
            validate(name, exchange.answer)


def validate_stream(path: str, events: list[Any]) -> None:
    """Check the events of a stream of `chat/completions` or `responses`, their order and their end."""
    if path.startswith("responses"):
        for event in events:
            validate(EVENT, event)
        numbers = [event["sequence_number"] for event in events]
        assert numbers == sorted(set(numbers)), f"the sequence numbers do not rise: {numbers}"
        return
    *chunks, last = events or [None]
    assert last == "[DONE]" or "error" in (last or ()), f"the last event is {last}"
    for event in chunks if last == "[DONE]" else events:
        validate("ErrorResponse" if "error" in event else "CreateChatCompletionStreamResponse", event)


def _find_route(method: str, path: str) -> str | None:
    fixed = ("input_tokens", "compact")
    parts = path.strip("/").split("/")
    start = 2 if parts[:2] == ["chat", "completions"] else 1
    named = [part if at < start or (at - start) % 2 or part in fixed else "*" for at, part in enumerate(parts)]
    if (method, "/".join(named)) == ("DELETE", "responses/*"):
        return None
    try:
        return OF_ROUTES[method, "/".join(named)]
    except KeyError:
        raise AssertionError(f"no schema is known for {method} {path}") from None


def _name_in_openai(name: str, value: object) -> str:
    if name == EVENT:
        return _find_event("openai", value) or name
    return name


def _name_in_open_responses(name: str, value: object) -> str | None:
    if name == EVENT:
        return _find_event("open_responses", value)
    return OF_OPEN_RESPONSES.get(name)


def _hide_json_schema(value: Any) -> Any:
    """Replace the JSON schema that a response repeats: Open Responses wants null for it, OpenAI the schema itself."""
    if not isinstance(value, dict):
        return value
    if isinstance(value.get("response"), dict):
        return {**value, "response": _hide_json_schema(value["response"])}
    text = value.get("text")
    if isinstance(text, dict) and isinstance(text.get("format"), dict) and text["format"].get("type") == "json_schema":
        return {**value, "text": {**text, "format": {"type": "text"}}}
    return value


def _find_event(source: str, value: object) -> str | None:
    kind = value.get("type") if isinstance(value, dict) else None
    return _list_events(source).get(kind) if isinstance(kind, str) else None


@functools.cache
def _read_schemas(source: str) -> Any:
    return json.loads(gzip.decompress((DATA / source / "schemas.json.gz").read_bytes()))


@functools.cache
def _list_events(source: str) -> dict[str, str]:
    """Return the name of the schema of each type of event."""
    schemas = _read_schemas(source)["components"]["schemas"]
    if source == "openai":
        union = schemas[EVENT]
        names = [each["$ref"].rpartition("/")[2] for each in union.get("anyOf") or union["oneOf"]]
    else:
        names = [each for each in schemas if each.endswith("StreamingEvent")]
    return {schemas[each]["properties"]["type"]["enum"][0]: each for each in names}


@functools.cache
def _make_validator(source: str, name: str) -> Any:
    schemas = _read_schemas(source)
    if name not in schemas["components"]["schemas"]:
        raise AssertionError(f"{source} has no schema {name}; add it to ROOTS in tests/data/make_schemas.py")
    resource = Resource.from_contents(schemas, default_specification=DRAFT202012)
    registry: Any = Registry().with_resource(f"urn:{source}", resource)
    return Draft202012Validator({"$ref": f"urn:{source}#/components/schemas/{name}"}, registry=registry)


def _find_problems(source: str, name: str, value: object) -> Iterator[str]:
    errors = sorted(_make_validator(source, name).iter_errors(value), key=lambda each: list(map(str, each.path)))
    for error in _list_causes(errors):
        place = "/".join(map(str, error.absolute_path)) or "the value"
        yield f"  {source} {name}: {place}: {error.message[:200]}"


def _list_causes(errors: Iterable[Any]) -> Iterator[Any]:
    """Replace the error of a union by the errors of the member that fits best."""
    for error in errors:
        members: dict[int, list[Any]] = defaultdict(list)
        for each in error.context:
            members[each.relative_schema_path[0]].append(each)
        if members:
            yield from _list_causes(min(members.values(), key=_rate))
        else:
            yield error


def _rate(errors: Iterable[Any]) -> tuple[bool, bool, int]:
    """Rate a member of a union: first those whose type fits, then those with the fewest errors."""
    found = list(errors)
    of_other_type = any(list(each.relative_path)[-1:] == ["type"] or each.validator == "type" for each in found)
    return of_other_type, any(not each.relative_path and each.validator == "enum" for each in found), len(found)
