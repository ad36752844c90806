"""Read the fields of a form."""

from __future__ import annotations

from urllib.parse import parse_qs

from starlette.requests import Request

_MAX_FIELDS = 10


async def read_form(request: Request, max_bytes: int) -> dict[str, str]:
    """Return the fields of a form that is encoded like a query. A longer body counts as empty."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            return {}
    try:
        fields = parse_qs(body.decode("utf-8", "replace"), max_num_fields=_MAX_FIELDS)
    except ValueError:  # too many fields
        return {}
    return {name: values[0] for name, values in fields.items()}
