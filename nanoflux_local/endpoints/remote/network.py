"""Reads which proxy and which certificates the environment sets for a server.

A variable with an unusable value is refused before the first request, with an error that names the variable. Otherwise
the client would raise an ImportError, or an error about a missing file without the file's path. Requests to servers on
this machine never use a proxy.
"""

import importlib.util
import ipaddress
import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from nanoflux_local.errors import ConfigError

PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
"""The variables that name trusted certificates; the first variable that is set is used."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy and the variable that names it. `url` may contain a password, so show `address` instead."""

    variable: str
    url: str

    @property
    def address(self) -> str:
        """The url without user and password."""
        parts = urlsplit(self.url)
        host_and_port = parts.netloc.rpartition("@")[2]
        return f"{self.url.partition('://')[0]}://{host_and_port}"


def find_proxy(url: str) -> Proxy | None:
    """The proxy for a server; None if requests go to the server directly."""
    parts = urlsplit(url)
    if is_loopback(url) or proxy_bypass(parts.netloc):
        return None
    proxy_by_scheme = getproxies_environment()
    for scheme in (parts.scheme, "all"):
        proxy_url = proxy_by_scheme.get(scheme)
        if proxy_url:
            variable = _find_variable(f"{scheme}_proxy", proxy_url)
            proxy_url_with_scheme = proxy_url if "://" in proxy_url else f"http://{proxy_url}"
            return Proxy(variable, proxy_url_with_scheme)
    return None


def _find_variable(lower_case_name: str, value: str) -> str:
    """The environment variable with this value and this name, in the letter case in which it is set."""
    for name in os.environ:
        if name.lower() == lower_case_name and os.environ[name] == value:
            return name
    return lower_case_name


def check_network(url: str) -> None:
    """Check the environment's proxy and certificates for a server.

    Raises:
        ConfigError: a variable names an unusable proxy, or missing certificates.
    """
    if is_loopback(url):
        return
    proxy = find_proxy(url)
    if proxy is not None:
        _check_proxy(proxy, urlsplit(url).hostname or "")
    if url.startswith("https://") or (proxy is not None and proxy.url.startswith("https://")):
        _load_certificates()


def http_options(url: str) -> dict[str, Any]:
    """The arguments for the httpx client of a server. Redirects are off, since they could send a key to another server.

    Raises:
        ConfigError: as for `check_network`.
    """
    check_network(url)
    proxy = find_proxy(url)
    options: dict[str, Any] = {"trust_env": False, "follow_redirects": False, "proxy": proxy.url if proxy else None}
    certificates = _load_certificates() if url.startswith("https://") else None
    if certificates:
        options["verify"] = certificates
    return options


def is_loopback(url: str) -> bool:
    """Whether a url's host is loopback."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_proxy(proxy: Proxy, host: str) -> None:
    """Raise ConfigError if the proxy for `host` has an invalid address, or a scheme whose package is missing."""
    fix = f"correct or unset {proxy.variable}, or add {host} to NO_PROXY"
    parts = urlsplit(proxy.url)
    try:
        is_usable = parts.scheme in PROXY_SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_usable = False
    if not is_usable:
        raise ConfigError(
            f"{proxy.variable} names an unusable proxy: {proxy.address}",
            f"{fix}; write a proxy as http://HOST:PORT or socks5://HOST:PORT",
        )
    if parts.scheme.startswith("socks") and importlib.util.find_spec("socksio") is None:
        raise ConfigError(
            f"{proxy.variable} names the SOCKS proxy {proxy.address}, which needs the missing package socksio",
            f"pip install 'httpx2[socks]', or {fix}",
        )


def _load_certificates() -> ssl.SSLContext | None:
    """Load the certificates that the environment names; None if it names none.

    Raises:
        ConfigError: the certificates are missing or invalid.
    """
    variable = next((name for name in CERTIFICATES if os.environ.get(name)), "")
    if not variable:
        return None
    path = Path(os.environ[variable])
    is_file = variable == "SSL_CERT_FILE"
    fix = f"correct {variable}, or unset it to use the system's certificates"
    path_exists = path.is_file() if is_file else path.is_dir()
    if not path_exists:
        raise ConfigError(f"{variable} names {path}, which does not exist", fix)
    try:
        if is_file:
            return ssl.create_default_context(cafile=path)
        return ssl.create_default_context(capath=path)
    except OSError as error:
        raise ConfigError(f"{variable} names {path}, which holds no certificates: {error}", fix) from None
