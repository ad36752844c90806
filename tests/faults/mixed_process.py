"""A child process whose threads and tasks do everything at once on one conversation.

`python -m tests.faults.mixed_process {...}` takes an `Order` as JSON. Each line that it writes is the outcome of one action.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

from convokit import AsyncChat, AsyncConvokit, Chat, Convokit, Reply, Retry, Timeouts
from convokit.errors import ConvokitError

ACTIONS = ("send", "send", "repeat", "stream", "leave", "resume", "regenerate", "cancel", "supersede")
KEYS = 6
"""Idempotency keys that all workers share."""


@dataclass
class Order:
    """How long to go on, and with how many threads and tasks."""

    database: str
    url: str
    seconds: float
    seed: int
    threads: int = 3
    tasks: int = 3


_out = threading.Lock()


def tell(**facts: Any) -> None:
    line = (json.dumps(facts) + "\n").encode()
    with _out:
        while line:
            line = line[os.write(1, line) :]


def tell_reply(action: str, name: str, reply: Reply) -> None:
    tell(action=action, name=name, turn=str(reply.turn_id), text=reply.text)


def make_settings(order: Order) -> dict[str, Any]:
    return {
        "model": "m",
        "base_url": order.url,
        "retry": Retry(attempts=1),
        "timeouts": Timeouts(busy_s=20, total_s=20),
    }


def work_in_thread(order: Order, chat: Chat, chance: random.Random, until: float) -> None:
    """Do one action after the other."""
    count = 0
    while time.monotonic() < until:
        action, count = chance.choice(ACTIONS), count + 1
        name = f"{os.getpid()}.{threading.get_ident()}.{count}"
        key = f"key{chance.randrange(KEYS)}"
        try:
            if action == "send":
                tell_reply(action, name, chat.send(name, on_busy="wait"))
            elif action == "repeat":
                tell_reply(action, key, chat.send(key, on_busy="wait", idempotency_key=key))
            elif action == "supersede":
                tell_reply(action, name, chat.send(name, on_busy="supersede"))
            elif action == "resume":
                tell_reply(action, name, chat.resume(on_busy="wait"))
            elif action == "regenerate":
                tell_reply(action, name, chat.regenerate(on_busy="wait"))
            elif action == "cancel":
                tell(action=action, done=chat.cancel())
            else:
                with chat.stream(name, on_busy="wait") as events:
                    for event in events:
                        if action == "leave" and event.text:
                            break
                    else:
                        tell_reply(action, name, events.reply)
        except ConvokitError as error:
            tell(action=action, name=name, error=type(error).__name__, message=str(error))


async def work_in_task(chat: AsyncChat, chance: random.Random, until: float, number: int) -> None:
    """Do one action after the other, and cancel some of them."""
    count = 0
    while time.monotonic() < until:
        count += 1
        name, key = f"{os.getpid()}.task{number}.{count}", f"key{chance.randrange(KEYS)}"
        action = chance.choice(("send", "repeat", "cancelled"))
        try:
            if action == "repeat":
                tell_reply(action, key, await chat.send(key, on_busy="wait", idempotency_key=key))
            elif action == "send":
                tell_reply(action, name, await chat.send(name, on_busy="wait"))
            else:
                await asyncio.wait_for(chat.send(name, on_busy="wait"), chance.uniform(0.01, 0.5))
        except ConvokitError as error:
            tell(action=action, name=name, error=type(error).__name__, message=str(error))
        except TimeoutError:
            continue


def main() -> None:
    """Run the threads, and the tasks in an event loop beside them."""
    order = Order(**json.loads(sys.argv[1]))
    until = time.monotonic() + order.seconds
    with Convokit(order.database, **make_settings(order)) as kit:
        threads = [
            threading.Thread(
                target=work_in_thread,
                args=(order, kit.chat("k"), random.Random(order.seed * 100 + number), until),
            )
            for number in range(order.threads)
        ]
        for thread in threads:
            thread.start()

        async def run_tasks() -> None:
            async with AsyncConvokit(order.database, **make_settings(order)) as akit:
                chances = [random.Random(order.seed * 1000 + number) for number in range(order.tasks)]
                works = [work_in_task(akit.chat("k"), each, until, number) for number, each in enumerate(chances)]
                await asyncio.gather(*works)

        asyncio.run(run_tasks())
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main()
