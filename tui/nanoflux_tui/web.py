"""The application in a browser of this machine: textual-serve on loopback, behind a token.

Whoever opens the page must show the token of this start once; a cookie carries it from then on. Pages of other sites
can neither read nor connect, and the page itself fetches nothing from outside.
"""

import hmac
import secrets
import shlex
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import click
from aiohttp import web
from textual_serve.server import Server

from nanoflux_local.errors import UsageError
from nanoflux_models.child import module_command

HOST, COOKIE = "127.0.0.1", "nanoflux-token"
PAGES = Path(__file__).parent / "pages"
POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Gate:
    """Lets nobody in without the token of this start."""

    def __init__(self, token: str, port: int) -> None:
        self._token = token
        self._hosts = {f"{name}:{port}" for name in (HOST, "localhost")}

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.host not in self._hosts or not self._same_origin(request):
            raise web.HTTPForbidden(text="This page is for this machine alone.")
        if self._is_token(request.query.get("token", "")):
            answer = web.HTTPFound("/")  # so that the token stays in no history
            answer.set_cookie(COOKIE, self._token, httponly=True, samesite="Strict", path="/")
            raise answer
        if not self._is_token(request.cookies.get(COOKIE, "")):
            raise web.HTTPForbidden(text="Open the address with its token, as `nanoflux tui --web` printed it.")
        response = await handler(request)
        if not response.prepared:
            response.headers.update({"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer"})
        return response

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._token.encode())

    def _same_origin(self, request: web.Request) -> bool:
        origin = request.headers.get("Origin")
        return origin is None or urlsplit(origin).netloc in self._hosts


class LocalServer(Server):
    """textual-serve with the gate before it, and a page of our own that fetches no font from the internet."""

    def __init__(self, command: str, port: int, token: str) -> None:
        super().__init__(command, HOST, port, "NanoFlux", templates_path=str(PAGES))
        self._gate = Gate(token, port)

    async def _make_app(self) -> web.Application:
        app = await super()._make_app()

        @web.middleware
        async def gate(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._gate(request, handler)

        app.middlewares.append(gate)
        return app

    async def on_startup(self, app: web.Application) -> None:
        """Says nothing: the address was printed with its token."""

    def initialize_logging(self) -> None:
        """Writes nothing down: an address in a log would hold the token."""


def serve(home: Path, port: int = 0, light: bool = False) -> None:
    """Serve until Ctrl-C, and print the address to open.

    Raises:
        UsageError: the port is taken.
    """
    port, token = _free(port), secrets.token_urlsafe(24)
    words = module_command("nanoflux_tui", "--home", str(home), *(["--light"] if light else []))
    server = LocalServer(shlex.join(words), port, token)
    click.echo(f"http://{HOST}:{port}/?token={token}")
    click.echo("Open this address in a browser of this machine; Ctrl-C ends it. Runs go on either way.", err=True)
    server.serve()


def _free(port: int) -> int:
    """This port, or any that is free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise UsageError(
                f"port {port} cannot be used: {error.strerror}", "leave --port out, or name another"
            ) from (error)
        return int(probe.getsockname()[1])
