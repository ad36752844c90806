"""Run one llama.cpp server until stdin ends.

`local_model` starts this file as a child process.

The file imports nothing of convokit. The first line of stdin is the configuration as JSON, because a command line with the API
key would be visible to other users. The first line of stdout is the server's address; stderr is its log.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from importlib import import_module
from typing import Any


def serve() -> None:
    """Load the model, print the server's address, and wait for the end of stdin."""
    settings = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    xllamacpp: Any = import_module("xllamacpp")  # in the `local` extra; it has no types
    params = xllamacpp.CommonParams()
    params.model.path = settings["path"]
    params.model_alias = {settings["model"]}
    params.n_ctx = settings["context_tokens"]
    params.hostnames = ["127.0.0.1"]
    params.port = 0  # the system chooses a free port
    params.api_keys = [settings["api_key"]]
    params.ui = False
    server = xllamacpp.Server(params)
    sys.stdout.write(f"{server.listening_address}\n")
    sys.stdout.flush()
    threading.Event().wait()


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)  # a normal exit would wait for the server's threads, which may still write a reply


if __name__ == "__main__":
    serve()
