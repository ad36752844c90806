"""Find the environment variable that makes the HTTP client fail.

httpx reads proxies and certificates from the environment. For an unusable value it raises the errors of many libraries.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies

import httpx

from convokit.errors import SettingsError

Made = TypeVar("Made")
_PROXY_NAMES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY")
_CERTIFICATE_NAMES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
_WAY_OUT = "correct it, unset it, or pass http_client=HttpxClient(httpx.Client(trust_env=False))"


def is_loopback(url: str) -> bool:
    """Return whether the host is this machine: no proxy of the environment is used for it."""
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def make_in_environment(make: Callable[[], Made]) -> Made:
    """Return the HTTP client that `make` returns. Raises: SettingsError that names the variable with an unusable value."""
    try:
        return make()
    except Exception as error:  # ImportError, ValueError, OSError and errors of httpx, depending on the variable
        raise _find_proxy_fault() or _describe_fault(error) from None


def make_tls_context() -> ssl.SSLContext:
    """Return a context with the certificates of the environment, else of certifi. Raises: SettingsError."""
    file, folders = (os.environ.get(name) for name in _CERTIFICATE_NAMES)
    # OpenSSL ignores a folder that does not exist. Then every server's certificate is refused.
    if folders and not file and not any(Path(folder).is_dir() for folder in folders.split(os.pathsep)):
        raise SettingsError("SSL_CERT_DIR", f"{folders!r} is not a folder; {_WAY_OUT}")
    try:
        return httpx.create_ssl_context()
    except Exception as error:
        raise _find_certificate_fault(file) or _describe_fault(error) from None


def list_http_variables(url: str) -> list[str]:
    """Return the names of the variables that steer a request to `url`, to be named when the connection fails."""
    if is_loopback(url):
        return []
    scheme = urlsplit(url).scheme
    names = [name for name in _PROXY_NAMES if name in ("ALL_PROXY", f"{scheme.upper()}_PROXY")]
    if scheme == "https":
        names += _CERTIFICATE_NAMES
    return [found for name in names for found in (name, name.lower()) if os.environ.get(found)]


def _find_proxy_fault() -> SettingsError | None:
    """Return the error for the first proxy variable that httpx cannot use."""
    for name, value in getproxies().items():
        if name in ("http", "https", "all"):
            try:
                url = value if "://" in value else f"http://{value}"
                httpx.HTTPTransport(proxy=httpx.Proxy(url), verify=False).close()
            except Exception as error:
                return SettingsError(_spell(f"{name}_proxy"), _describe_proxy(value, error))
        if name == "no":
            for host in filter(None, map(str.strip, value.split(","))):
                try:
                    httpx.Client(mounts={_to_pattern(host): None}, trust_env=False).close()
                except Exception:
                    problem = f"{host!r} is not a host that httpx knows: an IPv6 address has no brackets and no range"
                    return SettingsError(_spell("no_proxy"), f"{problem}; {_WAY_OUT}")
    return None


def _to_pattern(host: str) -> str:
    """Return an entry of NO_PROXY as httpx reads it."""
    try:
        is_ipv6 = ip_address(host.partition("/")[0]).version == 6
    except ValueError:
        return host if "://" in host else f"all://*{host}"
    return f"all://[{host}]" if is_ipv6 else f"all://{host}"


def _describe_proxy(value: str, error: Exception) -> str:
    shown = re.sub(r"^([^/]*//)?[^@]*@", r"\1…@", value)  # a proxy's URL may contain a password
    if isinstance(error, ImportError):
        return f'{shown!r} is a SOCKS proxy, which needs a package: pip install "httpx[socks]"; or {_WAY_OUT}'
    return f"{shown!r} is not the URL of a proxy, such as http://host:3128 or socks5://host:1080; {_WAY_OUT}"


def _find_certificate_fault(file: str | None) -> SettingsError | None:
    if file:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=file)
        except (OSError, ValueError) as error:
            return SettingsError("SSL_CERT_FILE", f"{file!r} cannot be read ({_get_reason(error)}); {_WAY_OUT}")
    log = os.environ.get("SSLKEYLOGFILE")
    if log:
        return SettingsError("SSLKEYLOGFILE", f"{log!r} cannot be written; correct it or unset it")
    return None


def _describe_fault(error: Exception) -> SettingsError:
    return SettingsError("http_client", f"httpx cannot make a client ({_get_reason(error)}); pass one of your own")


def _get_reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _spell(name: str) -> str:
    """Return the name of a variable as it is set: upper case or lower case."""
    return name if name in os.environ else name.upper()
