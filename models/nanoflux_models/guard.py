"""The guard: the one place that every outgoing connection of this process passes.

Loopback, Unix sockets and hosts that the user named are allowed. Everything else is refused: an address
before a packet is sent, a name before it is looked up. The audit hook also sees libraries that try on their own, and
nothing can take it out again. Standard library only, since it is also run inside interpreters that have nothing else
of ours (`guarded/`). It sees what goes through Python; native code is kept in by the switches in `offline`.
"""

import functools
import ipaddress
import os
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

VARIABLE = "NANOFLUX_ALLOW_HOSTS"
"""The environment variable with further hosts, separated by commas: a proxy, a mirror."""
LOCAL = {"", "localhost", "localhost.localdomain", "ip6-localhost"}
KERNEL = {socket.AF_UNIX, getattr(socket, "AF_NETLINK", socket.AF_UNIX)}
"""Families of addresses that lead nowhere but to this machine's own processes and kernel."""
INTERNET = {socket.AF_INET, socket.AF_INET6}
SENDS = ("connect", "connect_ex", "sendto")
"""Methods of a socket that look a name up themselves, before their audit event."""

_named: set[str] = set()
_learned: set[str] = set()
_refused: dict[str, None] = {}
_installed = False


class OutsideError(Exception):
    """A connection that would leave this machine, to a host that the user did not name.

    Deliberately no OSError: libraries take those for a bad moment of the network, and try again and again.
    """

    exit_code = 3

    def __init__(self, host: str) -> None:
        super().__init__(host)
        self.message = f"refused to reach {host}: nothing leaves this machine but to the hosts that you name"
        self.fix = (
            f"a model server: make it the `url` of an endpoint in the profile; a proxy or a mirror: {VARIABLE}={host}"
        )

    def __str__(self) -> str:
        return f"{self.message}\n  → {self.fix}"


def install() -> None:
    """Guard this process from now on. Calling it again changes nothing."""
    global _installed
    if _installed:
        return
    _installed = True
    allow(*os.environ.get(VARIABLE, "").split(","))
    socket.getaddrinfo = _learning(socket.getaddrinfo)
    for name in SENDS:
        setattr(socket.socket, name, _check_address_before(getattr(socket.socket, name)))
    sys.addaudithook(_audit)


def installed() -> bool:
    """Whether this process is guarded."""
    return _installed


def allow(*hosts: str) -> None:
    """Let connections to these hosts through; each is a name, an address, a URL, or `.domain` for every name in it."""
    for host in hosts:
        plain = _plain((urlsplit(host).hostname or "") if "://" in host else host.strip())
        if plain:
            _named.add(plain)


def allowed() -> list[str]:
    """The hosts that were named so far."""
    return sorted(_named)


def refused() -> list[str]:
    """The hosts that something in this process tried to reach, and did not."""
    return list(_refused)


def refusal_in(error: BaseException) -> OutsideError | None:
    """The refusal behind an exception of a library, which may have wrapped it more than once."""
    return next((each for each in _behind(error, set()) if isinstance(each, OutsideError)), None)


def _behind(error: BaseException, visited: set[int]) -> Iterator[BaseException]:
    if id(error) in visited:
        return
    visited.add(id(error))
    yield error
    group = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    for each in (*group, error.__cause__, error.__context__):
        if each is not None:
            yield from _behind(each, visited)


def _audit(event: str, values: tuple[Any, ...]) -> None:
    if event[:7] != "socket.":  # called for every audit event, so it returns early
        return
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        _check_address(*values)
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        _check_host(values[0])
    elif event == "socket.getnameinfo":
        _check_host(values[0][0])


def _check_address_before(send: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a socket method: check the address, its last argument, before its name is looked up."""

    @functools.wraps(send)
    def asked(self: socket.socket, *arguments: Any) -> Any:
        if arguments:
            _check_address(self, arguments[-1])
        return send(self, *arguments)

    return asked


def _learning(look_up: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a name lookup: the addresses of an allowed name become allowed too, since connections are made to them."""

    @functools.wraps(look_up)
    def getaddrinfo(host: Any, *arguments: Any, **named: Any) -> Any:
        entries = look_up(host, *arguments, **named)
        if _is_named(_plain(host)):
            _learned.update(_plain(entry[4][0]) for entry in entries)
        return entries

    return getaddrinfo


def _check_address(sock: socket.socket, address: Any) -> None:
    if sock.family in KERNEL or address is None:
        return
    if sock.family not in INTERNET:
        _refuse(f"{address!r} (address family {int(sock.family)})")
    if isinstance(address, tuple) and address:  # Python reports an invalid address itself
        _check_host(address[0])


def _check_host(host: Any) -> None:
    plain = _plain(host)
    if plain not in LOCAL and plain not in _learned and not _is_named(plain) and not _is_local(plain):
        _refuse(plain)


def _is_named(host: str) -> bool:
    return host in _named or any(name.startswith(".") and host.endswith(name) for name in _named)


def _refuse(host: str) -> None:
    _refused[host] = None
    raise OutsideError(host)


def _plain(host: Any) -> str:
    """A host in the one form in which it is compared: names in lower case, addresses as `ipaddress` writes them."""
    text = host.decode("ascii", "replace") if isinstance(host, bytes | bytearray) else str(host or "")
    text = text.lower().rstrip(".").partition("%")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return text
    return str(getattr(address, "ipv4_mapped", None) or address)


def _is_local(host: str) -> bool:
    """Whether the address is of this machine alone. Forms that only some resolvers accept ("127.1") are not."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified
