"""Callers who leave: a closed stream, a cancelled task, a killed process. What came is kept and the chat goes on."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from convokit import AsyncConvokit, Convokit
from convokit.completion.effects import OpenRequest
from convokit.completion.options import NO_OPTIONS
from convokit.completion.send import SendRequest, send_flow
from convokit.errors import ConversationBusy
from convokit.runtime.sync import SyncDriver
from tests.support.selection import Effort, keep
from tests.support.server import LoopbackServer, completion, stream

KILLED = """
import sys
from convokit import Convokit
kit = Convokit(sys.argv[1], model="m", base_url=sys.argv[2])
with kit.chat("k").stream("count") as events:
    for event in events:
        print(event.text, flush=True)
"""


@pytest.mark.soak(sample=True)
@pytest.mark.once
def test_after_kill_9_the_next_send_goes_through_at_once(database: str, server: LoopbackServer) -> None:
    """A worker killed mid-stream leaves a turn that the next send takes over; what was stored of its reply is kept."""
    server.script(stream([f"word{number} " for number in range(100)], pause_s=0.1))
    child = subprocess.Popen([sys.executable, "-c", KILLED, database, server.url], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    for line in child.stdout:
        if "word15" in line:
            break
    with Convokit(database, model="m", base_url=server.url) as kit:
        with pytest.raises(ConversationBusy):
            kit.chat("k").send("too early")
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        before = time.monotonic()
        assert kit.chat("k").send("and now?").text == "echo: and now?"
        assert time.monotonic() - before < 5
        stored = kit.chat("k").messages()
        assert [message.status for message in stored] == ["complete", "partial", "complete", "complete"]
        assert stored[1].text.startswith("word0 word1 ")
        kit.chat("k").verify()


@pytest.mark.parametrize("delay_ms", keep([0, 2, 5, 10, 20, 40, 80, 160], 5, 40, sample=True))
def test_a_cancelled_task_leaves_a_usable_chat(database: str, server: LoopbackServer, delay_ms: int) -> None:
    """Cancelled at any moment, a turn is closed or was never begun; the next send goes through and the chain holds."""
    server.answer = lambda body: stream(["a ", "b "], pause_s=0.2) if body.get("stream") else completion("ok")

    async def run() -> None:
        async with AsyncConvokit(database, model="m", base_url=server.url) as kit:
            chat = kit.chat("k")

            async def read() -> None:
                async with chat.stream("hello") as events:
                    async for _ in events:
                        pass

            task = asyncio.create_task(read())
            await asyncio.sleep(delay_ms / 1000)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await chat.send("again")).text == "ok"
            await chat.verify()

    asyncio.run(run())


def test_ctrl_c_keeps_what_came(sqlite_file: str, server: LoopbackServer) -> None:
    """KeyboardInterrupt while a reply streams stores the part that came, and is raised to the caller."""
    server.script(stream(["one ", "two "], pause_s=30.0))
    with Convokit(sqlite_file, model="m", base_url=server.url) as kit:

        def read() -> None:
            with kit.chat("k").stream("count") as events:
                for event in events:
                    if event.text:
                        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()

        with pytest.raises(KeyboardInterrupt):
            read()
        assert [message.text for message in kit.chat("k").messages()] == ["count", "one "]


def test_a_turn_torn_away_from_this_process_is_taken_over_at_once(database: str, server: LoopbackServer) -> None:
    """A flow that was thrown away without a chance to save does not keep the chat busy until its lease ends."""
    with Convokit(database, model="m", base_url=server.url) as kit:
        flow = send_flow(kit._state, kit.chat("k")._ref, SendRequest("hello", (), NO_OPTIONS, "raise"), stream=True)
        driver = SyncDriver(kit._runtime._store, kit._runtime._client)
        effect = next(flow)
        while not isinstance(effect, OpenRequest):
            effect = flow.send(driver._perform(effect))
        with pytest.raises(ConversationBusy):
            kit.chat("k").send("too early")
        flow.close()
        assert kit.chat("k").send("and now?").text == "echo: and now?"
        kit.chat("k").verify()


def test_threads_share_a_kit(database: str, server: LoopbackServer) -> None:
    """One kit serves many threads, each with a conversation of its own."""
    with Convokit(database, model="m", base_url=server.url) as kit:
        errors: list[BaseException] = []

        def work(name: int) -> None:
            try:
                for number in range(4):
                    kit.chat(f"k{name}").send(f"turn {number}")
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        for name in range(8):
            assert len(kit.chat(f"k{name}").messages()) == 8
            kit.chat(f"k{name}").verify()


def test_one_conversation_answers_one_at_a_time(database: str, server: LoopbackServer) -> None:
    """Two sends at once on one conversation: both are answered in turn, or one is told that it is busy; none is lost."""
    with Convokit(database, model="m", base_url=server.url) as kit:
        kit.chat("k").send("first")
        outcomes: list[Any] = []

        def work(number: int) -> None:
            try:
                outcomes.append(kit.chat("k").send(f"turn {number}").text)
            except ConversationBusy:
                outcomes.append("busy")

        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        answered = [each for each in outcomes if each != "busy"]
        assert answered
        stored = [message.text for message in kit.chat("k").messages()]
        assert sorted(stored[3::2]) == sorted(answered)
        kit.chat("k").verify()


FORKS = """
import os, sys
from convokit import Convokit
kit = Convokit(sys.argv[1], model="m", base_url=sys.argv[2])
kit.chat("warm").send("warm")
children = []
for number in range(4):
    pid = os.fork()
    if pid == 0:
        chat = kit.chat(f"c{number}")
        ok = all(chat.send(f"secret {number} {turn}").text == f"echo: secret {number} {turn}" for turn in range(5))
        os._exit(0 if ok else 1)
    children.append(pid)
assert kit.chat("warm").send("parent").text == "echo: parent"
failed = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
for number in range(4):
    kit.chat(f"c{number}").verify()
sys.exit(1 if any(failed) else 0)
"""


@pytest.mark.soak(sample=True)
def test_a_kit_may_be_forked(database: str, server: LoopbackServer) -> None:
    """A kit that was used before a fork (gunicorn --preload) works in parent and children, none on another's connection."""
    subprocess.run([sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKS, database, server.url], check=True)


def test_verify_is_right_while_others_write(database: str, server: LoopbackServer, effort: Effort) -> None:
    """A verification sees one moment: turns that are written meanwhile raise no false alarm."""
    with Convokit(database, model="m", base_url=server.url) as kit:
        kit.chat("k").send("first")
        stop = threading.Event()

        def write() -> None:
            while not stop.is_set():
                kit.chat("k").send("more")

        thread = threading.Thread(target=write)
        thread.start()
        try:
            for _ in range(8 if effort == "quick" else 25):
                kit.chat("k").verify()
        finally:
            stop.set()
            thread.join()
