"""Images, sound and files: OpenAI's formulas by family, sizes from headers, and the worst case where nothing is known."""

from __future__ import annotations

import base64
import io
import struct
import wave
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convokit import ContextBuilder, Profile
from convokit.domain.profiles import resolve_profile
from convokit.tokens.counter import choose_counter, count_message, count_schema, count_tools
from convokit.tokens.estimate import CharacterEstimate
from convokit.tokens.media import count_audio_tokens, count_file_tokens, count_image_tokens, read_image_size


class Words:
    """Counts words: easy to reason about."""

    name = "words"

    def count(self, text: str) -> int:
        return len(text.split())


def url(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def png(width: int, height: int) -> str:
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", len(head)) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    return url("png", b"\x89PNG\r\n\x1a\n" + chunk)


def jpeg(width: int, height: int, *, before: int = 0) -> str:
    exif = b"\xff\xe1" + struct.pack(">H", before + 2) + b"\xff\xc0" * (before // 2) if before else b""
    frame = b"\xff\xc2" + struct.pack(">HBHHB", 17, 8, height, width, 3) + bytes(9)
    return url("jpeg", b"\xff\xd8" + exif + b"\xff\xff\xdb\x00\x04\x00\x00" + frame)


def webp(kind: bytes, body: bytes) -> str:
    return url("webp", b"RIFF\x00\x00\x00\x00WEBP" + kind + struct.pack("<I", len(body)) + body + bytes(20))


IMAGES = {
    "png": png(640, 480),
    "gif": url("gif", b"GIF89a" + struct.pack("<HH", 640, 480)),
    "jpeg": jpeg(640, 480),
    "jpeg behind metadata": jpeg(640, 480, before=60_000),
    "webp lossy": webp(b"VP8 ", b"\x00\x00\x00\x9d\x01\x2a" + struct.pack("<HH", 640, 480)),
    "webp lossless": webp(b"VP8L", b"\x2f" + struct.pack("<I", 639 | 479 << 14)),
    "webp extended": webp(b"VP8X", bytes(4) + (639).to_bytes(3, "little") + (479).to_bytes(3, "little")),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_the_size_is_read_from_the_header(kind: str) -> None:
    """Width and height of every format that the API takes, without decoding a pixel."""
    assert read_image_size(IMAGES[kind]) == (640, 480)


@given(
    st.binary(max_size=80),
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff", b"RIFF1234WEBPVP8 "]),
)
def test_no_bytes_break_it(data: bytes, head: bytes) -> None:
    """Whatever claims to be an image has a size above zero or none, and costs something in every family."""
    given_url = url("png", head + data)
    size = read_image_size(given_url)
    assert size is None or min(size) > 0
    part = {"type": "image_url", "image_url": {"url": given_url}}
    for model in ("gpt-4o", "gpt-5-mini", "gpt-5.6", "unknown"):
        assert 0 < count_image_tokens(part, resolve_profile(model, "https://api.openai.com/v1").images) <= 50_000


@pytest.mark.parametrize(
    "text", ["", "https://x/y.png", "data:image/png,plain", "data:image/png;base64,%%%", png(0, 5)]
)
def test_what_has_no_readable_size_has_none(text: str) -> None:
    """An address, an encoding that is none, a size of zero: not known."""
    assert read_image_size(text) is None


@pytest.mark.parametrize(
    ("model", "size", "detail", "tokens"),
    [
        ("gpt-4o", (1024, 1024), "high", 85 + 170 * 4),
        ("gpt-4o", (2048, 4096), "high", 85 + 170 * 6),
        ("gpt-4o", (512, 512), "auto", 85 + 170),
        ("gpt-4o", (4096, 8192), "low", 85),
        ("gpt-4o", None, "auto", 85 + 170 * 8),
        ("gpt-4o-mini", (1024, 1024), "high", 2833 + 5667 * 4),
        ("gpt-5", (1024, 1024), "high", 70 + 140 * 4),
        ("o3", (1024, 1024), "high", 75 + 150 * 4),
        ("gpt-5-mini", (1024, 1024), "high", 1659),
        ("gpt-5-nano", (1800, 2400), "high", 3779),
        ("o4-mini", None, "high", 2642),
        ("gpt-5.4", (1024, 1024), "high", 1229),
        ("gpt-5.4", (6000, 6000), "auto", 3000),
        ("gpt-5.4", (6000, 6000), "original", 12_000),
        ("gpt-5.4", (6000, 6000), "low", 308),
        ("gpt-5.6", (6000, 6000), "auto", 36_000),
        ("gpt-5.6", None, "auto", 3000),
        ("gpt-6-luna", (1024, 1024), "auto", 1229),
        ("llama-3.2-vision", (100, 100), "low", 1500),
        ("llama-3.2-vision", (2800, 2800), "high", 10_000),
        ("llama-3.2-vision", (50_000, 50_000), "high", 16_384),
    ],
)
def test_an_image_costs_what_its_family_says(
    model: str, size: tuple[int, int] | None, detail: str, tokens: int
) -> None:
    """Tiles or patches by family, size and detail; at worst where the size or the family is not known."""
    part = {"type": "image_url", "image_url": {"url": png(*size) if size else "https://x/y.png", "detail": detail}}
    assert count_image_tokens(part, resolve_profile(model, "https://api.openai.com/v1").images) == tokens


def test_sound_costs_by_the_second() -> None:
    """A WAV file says its rate; for other sound the lowest rate in common use is taken."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as sound:
        sound.setparams((1, 2, 24_000, 0, "NONE", ""))
        sound.writeframes(bytes(24_000 * 2 * 30))
    data = base64.b64encode(buffer.getvalue()).decode()
    assert 300 <= count_audio_tokens({"input_audio": {"data": data, "format": "wav"}}) <= 303
    mp3 = base64.b64encode(bytes(16_000 * 30)).decode()
    assert count_audio_tokens({"input_audio": {"data": mp3, "format": "mp3"}}) >= 300
    assert count_audio_tokens({}) > 0


def test_a_file_costs_its_pages_or_its_bytes() -> None:
    """Each page of a PDF costs an image and its text; other files their bytes; what is only named, one page."""
    pdf = b"%PDF-1.4\n<< /Type /Pages /Count 3 >>\n" + b"<< /Type /Page >>\n" * 3
    family = resolve_profile("gpt-4o", "https://api.openai.com/v1").images
    page = count_file_tokens({"file": {"file_id": "file-1"}}, family)
    assert page > 1445
    encoded = base64.b64encode(pdf).decode()
    assert count_file_tokens({"file": {"file_data": f"data:application/pdf;base64,{encoded}"}}, family) == 3 * page
    assert (
        count_file_tokens({"file": {"file_data": base64.b64encode(pdf.replace(b"3", b"99999")).decode()}}, family)
        == 100 * page
    )
    text = base64.b64encode(b"word " * 1000).decode()
    assert count_file_tokens({"file": {"file_data": f"data:text/plain;base64,{text}"}}, family) >= 1000


def test_families_have_counters_of_their_own() -> None:
    """A message with an image is counted anew for a model whose images cost otherwise: the counter's name says the family."""
    message = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": png(1024, 1024)}}]}
    counted = {}
    for model in ("gpt-4o", "gpt-4o-mini", "gpt-5-mini", "unknown"):
        counter = choose_counter(resolve_profile(model, "https://api.openai.com/v1"), Words())
        counted[counter.name] = count_message(counter, message)
    assert counted == {
        "words+tiles85/170": 770,
        "words+tiles2833/5667": 25_506,
        "words+patches1536/0*1.62": 1664,
        "words": 1505,
    }


def test_everything_that_is_sent_is_in_the_budget() -> None:
    """Prompt, tools, response schema, messages with their overhead, the reply's opening: the report's sum has them all."""
    tool: dict[str, Any] = {"type": "function", "function": {"name": "f", "description": "a b c", "parameters": {}}}
    schema = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}}
    builder = ContextBuilder(counter=Words())
    bare = builder.build(history=[{"role": "user", "content": "q"}]).report.tokens
    whole = builder.build(
        developer_prompt="one two",
        history=[{"role": "user", "content": "q"}],
        tools=[tool, tool],
        response_format=schema,
    ).report
    assert whole.tokens == bare + 4 + 1 + 2 + count_tools(Words(), [tool, tool]) + count_schema(Words(), schema)
    assert count_tools(Words(), []) == count_schema(Words(), None) == 0
    assert count_tools(Words(), [tool, tool]) > count_tools(Words(), [tool]) > 9


def test_instructions_of_the_template_are_counted() -> None:
    """A template that speaks when nobody else does is part of the sum; with a developer prompt it is not."""
    profile = resolve_profile("SmolLM2-135M-Instruct", "http://127.0.0.1:8080/v1")
    assert profile.template_tokens > 0
    history = [{"role": "user", "content": "q"}]
    for prompt, more in ((None, profile.template_tokens), ("x", 0)):
        said, plain = (
            ContextBuilder(profile=each, counter=Words()).build(developer_prompt=prompt, history=history).report.tokens
            for each in (profile, Profile())
        )
        assert said == plain + more


def test_a_tool_call_and_its_result_are_counted() -> None:
    """Names, arguments and ids cost, and so does the role."""
    counter = CharacterEstimate()
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "京都"}'}}
    asked = count_message(counter, {"role": "assistant", "content": None, "tool_calls": [call]})
    assert asked > count_message(counter, {"role": "assistant", "content": "weather 京都"})
    answered = count_message(counter, {"role": "tool", "tool_call_id": "call_1", "content": "晴れ"})
    assert answered > count_message(counter, {"role": "user", "content": "晴れ"})
