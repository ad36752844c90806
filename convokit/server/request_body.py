"""Read JSON bodies, query values and headers of requests, within limits."""

from __future__ import annotations

import asyncio
import json
from typing import Any, NoReturn
from urllib.parse import quote, unquote

from starlette.requests import ClientDisconnect, Request

from convokit.server.refusals import Refusal

_METADATA_PAIRS, _METADATA_KEY, _METADATA_VALUE = 16, 64, 512
"""The bounds of metadata: OpenAI's OpenAPI document, schema `Metadata`."""
MAX_PAGE = 100
_MAX_NESTED = 1_000_000
"""Opening brackets in a body, those of texts too. An empty list of two bytes takes 64 bytes of memory."""
_SAFE = " !#$&'()*+,/:;=?@[]{}|^`<>\\"


async def read_json(request: Request, *, max_bytes: int, timeout_s: float) -> dict[str, Any]:
    """Return the body of a request, which must be a JSON object. An empty body is an empty object. Raises: Refusal."""
    data = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            async for chunk in request.stream():
                data += chunk
                if len(data) > max_bytes:
                    problem = f"the body is larger than {max_bytes:,} bytes"
                    raise Refusal(problem, status=413, code="too_large", headers={"connection": "close"})
    except TimeoutError:
        problem = f"the body did not arrive within {timeout_s:g} s"
        raise Refusal(problem, status=408, code="timeout", headers={"connection": "close"}) from None
    except ClientDisconnect:
        raise Refusal("the client left", status=400, code="client_disconnected") from None
    if data.count(b"[") + data.count(b"{") > _MAX_NESTED:
        raise Refusal(f"the body has more than {_MAX_NESTED:,} brackets", status=413, code="too_large")
    try:
        body = json.loads(data.decode("utf-8") or "{}", parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        problem = "We could not parse the JSON body of your request."
        raise Refusal(problem, code="invalid_json") from None
    if not isinstance(body, dict):
        raise Refusal("the body must be a JSON object", code="invalid_type")
    return body


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)  # NaN and Infinity are not JSON


def read_header(request: Request, name: str) -> str | None:
    """Return a header as text, None if it is not there or empty. HTTP allows ASCII only; clients send UTF-8 all the same."""
    value = request.headers.get(name)
    if not value:
        return None
    try:
        return value.encode("latin-1").decode("utf-8")
    except UnicodeDecodeError:
        return value


def read_name(request: Request, header: str) -> str | None:
    """Return a name in a header. It may be percent-encoded, because headers hold ASCII only, and names hold any text."""
    value = read_header(request, header)
    return None if value is None else unquote(value)


def to_header(name: str) -> str:
    """Return a name as a header value, percent-encoded where that is needed."""
    return quote(name, safe=_SAFE)


def read_retry_count(request: Request) -> int:
    """Return how often the client has repeated this request, as the SDKs of OpenAI say in a header."""
    given = request.headers.get("x-stainless-retry-count", "0")
    return int(given) if given.isdecimal() and given.isascii() and len(given) < 6 else 0


def read_limit(request: Request) -> int:
    """Return the query value `limit`, 20 by default. Raises: Refusal."""
    given = request.query_params.get("limit", "20")
    limit = int(given) if given.isdecimal() and given.isascii() and len(given) < 6 else 0
    if not 1 <= limit <= MAX_PAGE:
        raise Refusal(f"limit: must be a number from 1 to {MAX_PAGE}", param="limit", code="invalid_value")
    return limit


def read_order(request: Request) -> bool:
    """Return whether a list is asked for in descending order, which is the default. Raises: Refusal."""
    order = request.query_params.get("order", "desc")
    if order not in ("asc", "desc"):
        raise Refusal("order: must be asc or desc", param="order", code="invalid_value")
    return order == "desc"


def check_metadata(body: dict[str, Any]) -> dict[str, str]:
    """Return the field `metadata` of a body. Raises: Refusal."""
    metadata = body.get("metadata") or {}
    if not isinstance(metadata, dict) or len(metadata) > _METADATA_PAIRS:
        raise Refusal(
            f"metadata: must be an object of at most {_METADATA_PAIRS} pairs", param="metadata", code="invalid_value"
        )
    for key, value in metadata.items():
        if not isinstance(value, str) or len(key) > _METADATA_KEY or len(value) > _METADATA_VALUE:
            problem = f"keys have at most {_METADATA_KEY} characters, values are texts of at most {_METADATA_VALUE}"
            raise Refusal(f"metadata: {problem}", param="metadata", code="invalid_value")
    return metadata


def require_text(body: dict[str, Any], name: str) -> str:
    """Return a field that must be a text that is not empty. Raises: Refusal."""
    value = body.get(name)
    if not isinstance(value, str) or not value:
        problem = f"Missing required parameter: '{name}'." if value is None else f"{name}: must be a text"
        raise Refusal(problem, param=name, code="missing_required_parameter" if value is None else "invalid_type")
    return value


def read_flag(body: dict[str, Any], name: str) -> bool:
    """Return a field that is true or false, and false by default. Raises: Refusal."""
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise Refusal(f"{name}: must be true or false", param=name, code="invalid_type")
    return bool(value)
