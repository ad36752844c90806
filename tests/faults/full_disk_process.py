"""A child process whose files may not grow past a size, as under a quota: RLIMIT_FSIZE, which Python lets end in an error.

`python -m tests.faults.full_disk_process DATABASE URL`. It sends until there is no room, says what it was told, makes room,
and goes on.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

from convokit import Convokit
from convokit.errors import ConvokitError
from convokit.store.engine import parse_database_url
from tests.faults.child_process import hurried

ROOM_BYTES = 200_000


def main() -> None:
    """Send until the disk is full, and again when it is not."""
    database, url = sys.argv[1:]
    file = Path(str(parse_database_url(database).database))
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    with hurried(Convokit(database, model="m", base_url=url)) as kit:
        chat = kit.chat("k")
        chat.send("first")
        resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + ROOM_BYTES, unlimited[1]))
        number, name = 0, "x" * 3000
        for number in range(200):
            name = f"question {number} " + "x" * 3000
            try:
                text = chat.send(name, idempotency_key=f"k{number}").text
            except ConvokitError as error:
                tell(error=type(error).__name__, name=name)
                break
            tell(name=name, text=text)
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        tell(name=name, text=chat.send(name, idempotency_key=f"k{number}").text)
        tell(name="there is room", text=chat.send("there is room").text)


def tell(**facts: str) -> None:
    """Write one line. The limit is on files: this is a pipe."""
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()
