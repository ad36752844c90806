"""Test that the audio of a reply is stored with it, also for late and interrupted replies."""

from __future__ import annotations

import base64
import threading
import time
from typing import Any

import pytest

from convokit.errors import Interrupted
from tests.support.faces import Face
from tests.support.server import LoopbackServer, Script, chunk, completion

# The rules of this module depend on neither database nor API.
pytestmark = pytest.mark.once

SOUND = base64.b64encode(b"RIFF" * 20).decode()
SPEAKING: dict[str, Any] = {"modalities": ["text", "audio"], "audio": {"format": "wav", "voice": "alloy"}}


def _audio(**fields: Any) -> dict[str, Any]:
    return {"id": "audio_1", "expires_at": 2**40, "data": SOUND, "transcript": "聞こえますか", **fields}


def weather(city: str) -> str:
    """Return the weather."""
    return "rain"


def test_audio_reply_with_tool_calls_keeps_its_audio(face: Face, kit: Any, server: LoopbackServer) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Kyoto"}'}}
    server.script(completion(None, audio=_audio(), tool_calls=[call]), completion("it rains"))
    chat = kit.chat("k")
    face.settle(chat.send("weather?", tools=[weather], **SPEAKING))
    assert face.settle(chat.verify()).blobs == 1


def test_audio_without_transcript_is_not_kept(face: Face, kit: Any, server: LoopbackServer) -> None:
    """A stream that breaks before the first word of the transcript leaves no reply and no audio."""
    pieces: list[bytes | float | None] = [chunk({"audio": {"id": "audio_1", "data": SOUND}}), None]
    server.script(Script(pieces, headers={"content-type": "text/event-stream"}))
    chat = kit.chat("k")
    with pytest.raises(Interrupted):
        face.collect(chat.stream("speak", **SPEAKING))
    assert face.settle(chat.verify()).blobs == 0


def test_late_audio_reply_is_kept_off_the_path(face: Face, kit: Any, server: LoopbackServer, database: str) -> None:
    """The reply to a superseded question keeps its audio."""
    slow = completion(None, audio=_audio())
    slow.delay_s = 1.0
    server.script(slow)
    other = Face(face.name)
    kit_beside = other.kit(database, model="loop-1", base_url=server.url)
    outcome: list[Any] = []

    def send() -> None:
        try:
            other.settle(kit_beside.chat("k").send("speak", **SPEAKING))
        except Interrupted as error:
            outcome.append(error)

    thread = threading.Thread(target=send)
    thread.start()
    deadline = time.monotonic() + 10
    while not server.requests and time.monotonic() < deadline:
        time.sleep(0.01)
    chat = kit.chat("k")
    face.settle(chat.send("never mind", on_busy="supersede"))
    thread.join()
    other.close()
    assert outcome
    found = face.settle(chat.verify())
    assert (found.messages, found.blobs) == (4, 1)
