"""The child process behind `local`: one llama.cpp server that lives as long as its stdin is open.

It is run as a file, so that it need not import convokit. The first line of stdin is its configuration as JSON (the key is not
for the process list), the first line of stdout its address, stderr the server's log. When stdin ends, its parent is done or
dead, and it ends at once: nothing is left running, however the parent went.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from importlib import import_module
from typing import Any


def serve() -> None:
    """Load the model, say where it answers, and wait for the end of stdin."""
    settings = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    xllamacpp: Any = import_module("xllamacpp")  # of the `local` group, without types
    chosen = xllamacpp.CommonParams()
    chosen.model.path = settings["path"]
    chosen.model_alias = {settings["model"]}
    chosen.n_ctx = settings["context_tokens"]
    chosen.hostnames = ["127.0.0.1"]
    chosen.port = 0  # the system chooses
    chosen.api_keys = [settings["api_key"]]
    chosen.ui = False
    server = xllamacpp.Server(chosen)
    print(server.listening_address, flush=True)
    threading.Event().wait()


def _end_with_parent() -> None:
    """Wait for stdin's end. A reply may be on its way in the server's own threads: nothing of it is worth waiting for."""
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    serve()
