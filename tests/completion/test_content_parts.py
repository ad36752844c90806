"""Images, audio and files: stored once, sent again byte for byte, refused or replaced where they cannot go."""

from __future__ import annotations

import base64
import time
from typing import Any

import pytest
from sqlalchemy import text as sql

from convokit import Profile
from convokit.errors import InvalidInput, TooLarge
from convokit.store.engine import open_engine, parse_database_url
from tests.support.faces import Face
from tests.support.server import LoopbackServer, completion

PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"pixel" * 50).decode()
IMAGE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
SOUND = {"type": "input_audio", "input_audio": {"data": base64.b64encode(b"RIFF" * 20).decode(), "format": "wav"}}
PAPER = {"type": "file", "file": {"filename": "報告.pdf", "file_data": f"data:application/pdf;base64,{PIXEL}"}}


def test_binaries_are_stored_once_and_sent_again(face: Face, kit: Any, database: str, server: LoopbackServer) -> None:
    """The same image in two turns is one row of bytes; message JSON holds a reference; both requests carry the image."""
    chat = kit.chat("p")
    for _ in range(2):
        face.settle(chat.send(["look", IMAGE, SOUND, PAPER]))
    assert server.requests[0].body["messages"][0]["content"] == [{"type": "text", "text": "look"}, IMAGE, SOUND, PAPER]
    assert server.requests[1].body["messages"][0] == server.requests[0].body["messages"][0]
    engine = open_engine(parse_database_url(database))
    with engine.connect() as connection:
        assert connection.execute(sql("SELECT count(*) FROM convokit_blob")).scalar_one() == 3
        assert PIXEL[:40] not in str(connection.execute(sql("SELECT parts FROM convokit_message")).scalars().all())
    engine.dispose()
    assert face.settle(chat.messages())[0].text == "look"
    face.settle(chat.verify())


def test_base64_is_the_same_on_every_turn(face: Face, kit: Any, server: LoopbackServer) -> None:
    """Base64 with spaces and without padding is normalised before the first send, so later sends are identical."""
    loose = "\n".join(PIXEL.rstrip("=")[start : start + 20] for start in range(0, len(PIXEL), 20))
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{loose}", "detail": "low"}}
    face.settle(kit.chat("p").send([part]))
    face.settle(kit.chat("p").send("and?"))
    one, two = (request.body["messages"][0]["content"][0]["image_url"] for request in server.requests)
    assert one == two == {"url": f"data:image/png;base64,{PIXEL}", "detail": "low"}


@pytest.mark.once
@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,!!!"}},
        {"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "huge"}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "ogg"}},
        {"type": "file", "file": {}},
        {"type": "video"},
        {"type": "text", "text": "a\x00b"},
        7,
    ],
)
def test_parts_that_cannot_be(face: Face, kit: Any, server: LoopbackServer, part: Any) -> None:
    """A part that is malformed is refused with its place, before anything is written or called."""
    with pytest.raises(InvalidInput, match=r"message\[0\]"):
        face.settle(kit.chat("p").send([part]))
    assert server.requests == []
    assert len(face.settle(kit.conversations())) == 0


@pytest.mark.once
def test_too_much_at_once(face: Face, kit: Any) -> None:
    """Binaries over the limit are refused."""
    big = base64.b64encode(bytes(21 * 1024 * 1024)).decode()
    with pytest.raises(TooLarge, match="attachment_bytes"):
        face.settle(kit.chat("p").send([{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{big}"}}]))


@pytest.mark.once
def test_a_spoken_reply_is_named_by_its_id_while_it_lives(
    face: Face, kit: Any, database: str, server: LoopbackServer
) -> None:
    """Its sound is stored once as bytes; it goes back by id before it expires and as its transcript afterwards."""
    for number, lives_s in enumerate((3600, -10)):
        audio = {"id": "audio_1", "expires_at": int(time.time()) + lives_s, "data": PIXEL, "transcript": "こんにちは"}
        server.script(completion(None, audio=audio))
        chat = kit.chat(f"spoken{number}")
        face.settle(chat.send("speak", modalities=["text", "audio"], audio={"format": "wav", "voice": "alloy"}))
        face.settle(chat.send("again"))
        sent = server.requests[-1].body["messages"][1]
        assert PIXEL[:40] not in str(sent)
        assert (sent.get("audio"), sent["content"]) == (
            ({"id": "audio_1"}, None) if lives_s > 0 else (None, "こんにちは")
        )
        face.settle(chat.verify())


@pytest.mark.once
def test_a_model_without_eyes(face: Face, database: str, server: LoopbackServer) -> None:
    """A part the profile does not take is a typed error, or by choice a text that says what was left out."""
    blind = Profile(parts=frozenset({"text"}))
    kit = face.kit(database, model="m", base_url=server.url, profile=blind)
    with pytest.raises(InvalidInput, match="image"):
        face.settle(kit.chat("p").send(["look", IMAGE]))
    assert server.requests == []
    told = face.kit(database, model="m", base_url=server.url, profile=blind, unsupported="placeholder")
    face.settle(told.chat("q").send(["look", IMAGE]))
    assert "image" in str(server.requests[0].body["messages"][0]["content"])
    assert "base64" not in str(server.requests[0].body)
