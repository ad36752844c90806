"""The server's own tokenizer as a counter: llama.cpp's `/tokenize`.

It asks over the network, one request a text, and a text that was counted is not asked for again. The call blocks, also below
the asynchronous face: it is meant for a server on this machine or next to it.
"""

from __future__ import annotations

import functools
import http
import http.client
import json
import ssl
import threading
from urllib.parse import urlsplit

from convokit.errors import BadReply, ModelError, Rejected, ServerFailed, SettingsError, TimedOut, Unreachable

_REMEMBERED = 4096
_LONGEST_REMEMBERED = 16_384
"""Characters: what is remembered stays below 64 MiB of text."""


class TokenizeCounter:
    """Counts with the tokenizer of the llama.cpp server at `url` (with or without `/v1`), over one kept connection.

    `model` names the counter (default: the server's address): pass what tells this model's counts from another's. `timeout_s`
    bounds each wait for the server. Any thread may count; close it when you are done.
    """

    def __init__(self, url: str, model: str = "", api_key: str | None = None, *, timeout_s: float = 30.0) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SettingsError("counter", f"needs the address of a server, not {url!r}")
        self._where = parts.netloc.rpartition("@")[2]
        self.name = f"llama.cpp:{model or self._where}"
        self._path = parts.path.rstrip("/").removesuffix("/v1") + "/tokenize"
        self._headers = {"Content-Type": "application/json"}
        if api_key is not None:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._connection = (
            http.client.HTTPSConnection(self._where, timeout=timeout_s, context=ssl.create_default_context())
            if parts.scheme == "https"
            else http.client.HTTPConnection(self._where, timeout=timeout_s)
        )
        self._lock = threading.Lock()
        self._remembered = functools.lru_cache(maxsize=_REMEMBERED)(self._ask)

    def count(self, text: str) -> int:
        """Return how many tokens `text` is.

        Raises: Unreachable, TimedOut, Rejected (a wrong key), ServerFailed, BadReply (it is no llama.cpp server).
        """
        if not text:
            return 0
        return (self._remembered if len(text) <= _LONGEST_REMEMBERED else self._ask)(text)

    def close(self) -> None:
        """Close the connection; the next count opens it again."""
        with self._lock:
            self._connection.close()

    def _ask(self, text: str) -> int:
        body = json.dumps({"content": text})
        with self._lock:
            try:
                status, answer = self._post_again(body)
            except TimeoutError:
                self._connection.close()
                raise TimedOut(f"the server at {self._where} took too long to count tokens", phase="total") from None
            except (http.client.HTTPException, OSError) as error:
                self._connection.close()
                raise Unreachable(f"the server that counts tokens at {self._where} does not answer ({error})") from None
        if status != http.HTTPStatus.OK:
            raise self._refusal(status)
        try:
            return len(json.loads(answer)["tokens"])
        except (ValueError, KeyError, TypeError):
            raise BadReply(f"the server at {self._where} does not tokenize: it is no llama.cpp server") from None

    def _refusal(self, status: int) -> ModelError:
        said = f"the server at {self._where} does not tokenize (status {status})"
        return (ServerFailed if status >= http.HTTPStatus.INTERNAL_SERVER_ERROR else Rejected)(said, status=status)

    def _post_again(self, body: str) -> tuple[int, bytes]:
        try:
            return self._post(body)
        except TimeoutError:
            raise
        except (http.client.HTTPException, OSError):  # a kept connection may have been closed unseen: once more
            self._connection.close()
            return self._post(body)

    def _post(self, body: str) -> tuple[int, bytes]:
        self._connection.request("POST", self._path, body, self._headers)
        response = self._connection.getresponse()
        return response.status, response.read()
