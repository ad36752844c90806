"""Ask a question of a scripted model, or finish its last reply."""

import json
import os
import signal
import sys
from pathlib import Path

from convokit import Convokit
from convokit.testing import RecordedRequest, ScriptedModel, ScriptedReply

FOLDER = Path(__file__).parent
SCRIPT = json.loads((FOLDER / "script.json").read_text("utf-8"))


def answer(request: RecordedRequest) -> ScriptedReply:
    """Return the reply to the last question of a request. A chunk of a stream comes every 50 ms."""
    return ScriptedReply(SCRIPT["replies"].get(request.text, f"({request.text})"), pause_s=0.05)


with Convokit(
    FOLDER / "demo.db", model="demo", base_url="http://scripted/v1", http_client=ScriptedModel(answer).client()
) as kit:
    kit.migrate()
    chat = kit.chat("trip", developer_prompt=SCRIPT["developer_prompt"])
    if len(sys.argv) == 1:
        print(chat.resume().text)
    else:
        with chat.stream(sys.argv[1]) as events:
            for number, event in enumerate(events):
                print(event.text, end="", flush=True)
                if "--kill" in sys.argv and number == 26:
                    print(flush=True)
                    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))  # Windows has no SIGKILL
        print()
