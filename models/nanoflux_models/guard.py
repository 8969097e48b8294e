"""The network guard: checks every outgoing connection of this process.

Loopback, Unix sockets and hosts that the user named are allowed. Everything else is refused: an address before a packet
is sent, and a name before it is looked up. The guard is an audit hook, which cannot be removed and also sees the
connections of libraries. It uses only the standard library, since it also runs in interpreters without this package
(`guarded/`). It sees only connections made through Python; the switches in `offline` keep native code offline.
"""

import functools
import ipaddress
import os
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

ALLOW_HOSTS_VARIABLE = "NANOFLUX_ALLOW_HOSTS"
"""The environment variable with further allowed hosts, such as a proxy or a mirror, separated by commas."""
LOCAL_NAMES = {"", "localhost", "localhost.localdomain", "ip6-localhost"}
"""Names of this machine, which are always allowed."""
LOCAL_FAMILIES = {socket.AF_UNIX, getattr(socket, "AF_NETLINK", socket.AF_UNIX)}
"""Address families that reach only processes and the kernel of this machine."""
INTERNET_FAMILIES = {socket.AF_INET, socket.AF_INET6}
"""Address families whose addresses are compared with the allowed hosts."""
SEND_METHODS = ("connect", "connect_ex", "sendto")
"""Socket methods that look up a name before they raise their audit event."""

_allowed: set[str] = set()
"""Hosts that the user named, and domains with a leading dot."""
_resolved: set[str] = set()
"""The addresses of allowed names, from the name lookups so far."""
_refused: dict[str, None] = {}
"""Refused hosts in the order of their first refusal; the values are not used."""
_installed = False


class OutsideError(Exception):
    """A connection that would leave this machine, to a host that the user did not name.

    It is not an OSError, since libraries treat OSErrors as network failures and retry.
    """

    exit_code = 3

    def __init__(self, host: str) -> None:
        super().__init__(host)
        self.message = f"refused to reach {host}: only hosts that you name are reached from this machine"
        self.fix = (
            "a model server: make it the `url` of an endpoint in the profile; "
            f"a proxy or a mirror: {ALLOW_HOSTS_VARIABLE}={host}"
        )

    def __str__(self) -> str:
        return f"{self.message}\n  → {self.fix}"


def install() -> None:
    """Install the guard in this process. Further calls change nothing."""
    global _installed
    if _installed:
        return
    _installed = True
    allow(*os.environ.get(ALLOW_HOSTS_VARIABLE, "").split(","))
    socket.getaddrinfo = _wrap_lookup(socket.getaddrinfo)
    for name in SEND_METHODS:
        setattr(socket.socket, name, _wrap_send_method(getattr(socket.socket, name)))
    sys.addaudithook(_audit)


def is_installed() -> bool:
    """Whether the guard is installed in this process."""
    return _installed


def allow(*hosts: str) -> None:
    """Allow connections to `hosts`: each is a name, an address, a URL, or `.domain` for every name in a domain."""
    for host in hosts:
        name_or_address = (urlsplit(host).hostname or "") if "://" in host else host.strip()
        normalized = _normalize(name_or_address)
        if normalized:
            _allowed.add(normalized)


def allowed_hosts() -> list[str]:
    """The hosts that have been allowed so far."""
    return sorted(_allowed)


def refused_hosts() -> list[str]:
    """The hosts to which the guard refused connections."""
    return list(_refused)


def find_refusal(error: BaseException) -> OutsideError | None:
    """The guard's refusal that caused a library's exception, however deeply it is wrapped; None if there is none."""
    return next((cause for cause in _walk_causes(error, set()) if isinstance(cause, OutsideError)), None)


def _walk_causes(error: BaseException, visited: set[int]) -> Iterator[BaseException]:
    """Yield an exception and all exceptions that caused it or are grouped in it. `visited` contains the ids of the
    exceptions that were already yielded.
    """
    if id(error) in visited:
        return
    visited.add(id(error))
    yield error
    group = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    for cause in (*group, error.__cause__, error.__context__):
        if cause is not None:
            yield from _walk_causes(cause, visited)


def _audit(event: str, values: tuple[Any, ...]) -> None:
    """The audit hook. Python calls it for every audit event, so it returns early for the events of other modules."""
    if event[:7] != "socket.":
        return
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        _check_address(*values)
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        _check_host(values[0])
    elif event == "socket.getnameinfo":
        _check_host(values[0][0])


def _wrap_send_method(send: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a socket method so that the address, its last argument, is checked before the name in it is looked up."""

    @functools.wraps(send)
    def check_and_send(self: socket.socket, *arguments: Any) -> Any:
        if arguments:
            _check_address(self, arguments[-1])
        return send(self, *arguments)

    return check_and_send


def _wrap_lookup(look_up: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a name lookup so that the addresses of an allowed name become allowed: connections are made to addresses."""

    @functools.wraps(look_up)
    def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
        entries = look_up(host, *arguments, **options)
        if _is_allowed(_normalize(host)):
            socket_addresses = [entry[4] for entry in entries]
            _resolved.update(_normalize(address[0]) for address in socket_addresses)
        return entries

    return getaddrinfo


def _check_address(sock: socket.socket, address: Any) -> None:
    """Raise OutsideError unless a socket may send to an address."""
    if sock.family in LOCAL_FAMILIES or address is None:
        return
    if sock.family not in INTERNET_FAMILIES:
        _refuse(f"{address!r} (address family {int(sock.family)})")
    if isinstance(address, tuple) and address:  # for any other address, the socket call raises an error
        _check_host(address[0])


def _check_host(host: Any) -> None:
    """Raise OutsideError unless a host is allowed or on this machine."""
    normalized = _normalize(host)
    if (
        normalized not in LOCAL_NAMES
        and normalized not in _resolved
        and not _is_allowed(normalized)
        and not _is_local(normalized)
    ):
        _refuse(normalized)


def _is_allowed(host: str) -> bool:
    """Whether the user named the host, or a domain that contains it."""
    return host in _allowed or any(name.startswith(".") and host.endswith(name) for name in _allowed)


def _refuse(host: str) -> None:
    _refused[host] = None
    raise OutsideError(host)


def _normalize(host: Any) -> str:
    """A host in a form that can be compared: names in lower case, addresses as `ipaddress` writes them."""
    text = host.decode("ascii", "replace") if isinstance(host, bytes | bytearray) else str(host or "")
    text = text.lower().rstrip(".").partition("%")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return text
    return str(getattr(address, "ipv4_mapped", None) or address)


def _is_local(host: str) -> bool:
    """Whether the host is an address of this machine. Forms that only some resolvers accept ("127.1") do not count."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified
