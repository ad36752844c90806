"""Count tokens with the tokenizer of a llama.cpp server (`/tokenize`).

Each text is one request, and a text that was counted is not asked for again. The request blocks, also in the async API:
use it for a server on this machine or next to it.
"""

from __future__ import annotations

import functools
import threading
from urllib.parse import urlsplit

import httpx

from convokit.errors import BadReply, Rejected, ServerFailed, SettingsError, TimedOut, Unreachable
from convokit.runtime.http_environment import make_in_environment

_CACHED_TEXTS = 4096
_LONGEST_CACHED_CHARS = 16_384  # so the cache stays below 64 MiB of text


class TokenizeCounter:
    """Counts with the tokenizer of the llama.cpp server at `url` (with or without `/v1`), over one kept connection.

    `model` is part of the counter's name (default: the server's address). Pass a name that tells this model's counts
    from another's. `timeout_s` limits each wait for the server. Any thread may count. Close the counter when you are
    done.
    """

    def __init__(self, url: str, model: str = "", api_key: str | None = None, *, timeout_s: float = 30.0) -> None:
        try:
            parts = urlsplit(url)
            httpx.URL(url).copy_with(port=parts.port)  # both libraries check the host, and the first one the port
        except (ValueError, httpx.InvalidURL):
            raise SettingsError("counter", f"needs the URL of a server, not {url!r}") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SettingsError("counter", f"needs the URL of a server, not {url!r}")
        if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
            raise SettingsError("api_key", "contains control characters or non-ASCII characters")
        self._address = parts.netloc.rpartition("@")[2]
        self.name = f"llama.cpp:{model or self._address}"
        self._url = f"{parts.scheme}://{self._address}{parts.path.rstrip('/').removesuffix('/v1')}/tokenize"
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        verify = parts.scheme == "https"  # loading certificates is slow, and plain http needs none
        self._client = make_in_environment(
            lambda: httpx.Client(headers=headers, timeout=timeout_s, trust_env=False, verify=verify)
        )
        self._lock = threading.Lock()
        self._cached = functools.lru_cache(maxsize=_CACHED_TEXTS)(self._ask)

    def count(self, text: str) -> int:
        """Return the number of tokens of `text`.

        Raises: Unreachable, TimedOut, Rejected (a wrong key), ServerFailed, BadReply (not a llama.cpp server).
        """
        if not text:
            return 0
        return (self._cached if len(text) <= _LONGEST_CACHED_CHARS else self._ask)(text)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _ask(self, text: str) -> int:
        with self._lock:
            response = self._post(text)
        status = response.status_code
        if status != httpx.codes.OK:
            problem = f"the server at {self._address} does not tokenize (status {status})"
            raise (ServerFailed if status >= httpx.codes.INTERNAL_SERVER_ERROR else Rejected)(problem, status=status)
        try:
            return len(response.json()["tokens"])
        except (ValueError, KeyError, TypeError):
            raise BadReply(f"the server at {self._address} is not a llama.cpp server: it does not tokenize") from None

    def _post(self, text: str) -> httpx.Response:
        try:
            try:
                return self._client.post(self._url, json={"content": text})
            except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
                # The server may have closed the kept connection. Counting twice does no harm.
                return self._client.post(self._url, json={"content": text})
        except httpx.TimeoutException:
            raise TimedOut(f"the server at {self._address} took too long to count tokens", phase="total") from None
        except RuntimeError:
            raise SettingsError("counter", "was closed; make another one") from None
        except (httpx.HTTPError, UnicodeError) as error:  # UnicodeError: a host name that cannot exist
            raise Unreachable(f"the server at {self._address} that counts tokens does not answer ({error})") from None
