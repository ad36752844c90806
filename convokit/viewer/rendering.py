"""Write pages as HTML and as JSON."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from pydantic_core import to_json
from starlette.responses import HTMLResponse, Response

from convokit import Hit, Replay
from convokit.viewer.language import LANGUAGES, Language, format_cost, format_number
from convokit.viewer.markdown import make_visible
from convokit.viewer.message_text import PageTexts, RenderedTexts
from convokit.viewer.message_view import dump_pretty, extract_sent_text, view_messages
from convokit.viewer.page_request import Links, PageRequest
from convokit.viewer.page_size import MAX_BODY_BYTES, shorten

_MAX_PARTS = 400
"""Parts of a window on one page: each takes 250 bytes."""
STATIC_TYPES = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}


def format_time(moment: datetime) -> Markup:
    """Return a time in UTC as an element. The script of the pages may write it in the zone of the reader."""
    utc = moment.astimezone(UTC)
    iso = utc.isoformat(timespec="seconds").replace("+00:00", "Z")
    return Markup('<time datetime="{}">{} UTC</time>').format(iso, utc.strftime("%Y-%m-%d %H:%M:%S"))


def format_duration(duration: timedelta) -> str:
    """Return a duration in seconds, with milliseconds below ten."""
    seconds = duration.total_seconds()
    return f"{seconds:.3f} s" if seconds < 10 else f"{seconds:,.0f} s"


@cache
def _make_environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("convokit.viewer", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "time": format_time,
        "duration": format_duration,
        "number": format_number,
        "cost": format_cost,
        "pretty": dump_pretty,
        "visible": make_visible,
        "shorten": shorten,
    }
    environment.globals |= {
        "view_messages": view_messages,
        "sent_text": extract_sent_text,
        "format_body": format_body,
        "split_marks": split_marks,
        "languages": LANGUAGES,
        "max_parts": _MAX_PARTS,
        "max_body": MAX_BODY_BYTES,
    }
    return environment


@cache
def load_static() -> Mapping[str, tuple[bytes, str]]:
    """Return the static files with their media types, by names that contain a digest of the content."""
    files = {}
    for file in (resources.files("convokit.viewer") / "static").iterdir():
        stem, _, suffix = file.name.rpartition(".")
        if suffix in STATIC_TYPES:
            content = file.read_bytes()
            files[f"{stem}.{hashlib.sha256(content).hexdigest()[:16]}.{suffix}"] = content, STATIC_TYPES[suffix]
    return files


@cache
def _find_static_name(name: str) -> str:
    stem, _, suffix = name.rpartition(".")
    return next(each for each in load_static() if each.startswith(f"{stem}.") and each.endswith(f".{suffix}"))


def render_template(name: str, language: Language, links: Links, **values: Any) -> str:
    """Return a page as HTML."""
    return (
        _make_environment()
        .get_template(f"{name}.html")
        .render(
            t=language,
            links=links,
            static=lambda file: links(f"/-/static/{_find_static_name(file)}"),
            **values,
        )
    )


async def render_page(page: PageRequest, template: str, value: Any, kept: RenderedTexts) -> Response:
    """Return the HTML of a page. A thread renders it, so that other requests go on."""
    given = {"page": page, "value": value, "texts": PageTexts(kept, page.links), "show_source": page.show_source}
    html = await asyncio.to_thread(render_template, template, page.language, page.links, **given)
    return HTMLResponse(html, headers=page.headers)


def format_body(replay: Replay) -> str:
    """Return the request as JSON on several lines, in the order of the bytes that were sent where they are known."""
    body: Any
    if replay.body is not None:
        body = json.loads(replay.body)
    else:
        body = {"model": replay.model, "messages": replay.messages, **replay.parameters}
    return json.dumps(body, ensure_ascii=False, indent=2)


def split_marks(hit: Hit) -> list[tuple[str, bool]]:
    """Return the snippet of a hit in parts, with whether each is a word of the query."""
    parts, last = [], 0
    for start, end in hit.marks:
        parts += [(hit.snippet[last:start], False), (hit.snippet[start:end], True)]
        last = end
    return [*parts, (hit.snippet[last:], False)]


def answer_json(value: Any, status: int = 200) -> Response:
    """Return a value as JSON."""
    return Response(to_json(value, indent=2), status, media_type="application/json")
