"""Serves the application to a browser on this machine, with textual-serve on the loopback interface.

A token protects the server, and every start creates a new token. The first request must contain the token in its
address; later requests send it in a cookie. Pages of other sites can neither read this page nor connect to it, and the
page loads nothing from other hosts.
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
from nanoflux_models.child import build_module_command

HOST, COOKIE = "127.0.0.1", "nanoflux-token"
PAGES = Path(__file__).parent / "pages"
"""The directory with the template of the page in which the application is shown."""
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The policy that the browser applies to the page: it loads resources from this server only."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
"""Answers a request."""


class Gate:
    """Rejects every request that does not contain the token, or that comes from a page of another site."""

    def __init__(self, token: str, port: int) -> None:
        self._token = token
        self._hosts = {f"{name}:{port}" for name in (HOST, "localhost")}

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Handle a request with the token's cookie. A request with the token in its address gets the cookie and is
        redirected to the same page without the token; any other request is rejected with status 403.
        """
        if request.host not in self._hosts or not self._is_same_origin(request):
            raise web.HTTPForbidden(text="This page is served to this machine only.")
        if self._is_token(request.query.get("token", "")):
            redirect = web.HTTPFound("/")  # keeps the token out of the browser's history
            redirect.set_cookie(COOKIE, self._token, httponly=True, samesite="Strict", path="/")
            raise redirect
        if not self._is_token(request.cookies.get(COOKIE, "")):
            raise web.HTTPForbidden(text="The token is missing. Open the address that `nanoflux tui --web` printed.")
        response = await handler(request)
        if not response.prepared:
            response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
            response.headers["Referrer-Policy"] = "no-referrer"
        return response

    def _is_token(self, candidate: str) -> bool:
        return hmac.compare_digest(candidate.encode(), self._token.encode())

    def _is_same_origin(self, request: web.Request) -> bool:
        """Whether the request comes from a page of this server, or from no page at all."""
        origin = request.headers.get("Origin")
        return origin is None or urlsplit(origin).netloc in self._hosts


class LocalServer(Server):
    """textual-serve behind a `Gate`, with a page that loads no fonts from the internet."""

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
        """Print nothing: `serve` has printed the address with its token."""

    def initialize_logging(self) -> None:
        """Log nothing: a logged address would contain the token."""


def serve(home: Path, port: int = 0, light: bool = False) -> None:
    """Serve the application for the home directory `home` until Ctrl-C. Prints the address that the user opens.

    Raises:
        UsageError: the port cannot be bound.
    """
    port, token = _choose_port(port), secrets.token_urlsafe(24)
    options = ["--light"] if light else []
    command = build_module_command("nanoflux_tui", "--home", str(home), *options)
    server = LocalServer(shlex.join(command), port, token)
    click.echo(f"http://{HOST}:{port}/?token={token}")
    click.echo("Open this address in a browser on this machine. Ctrl-C stops the server; runs continue.", err=True)
    server.serve()


def _choose_port(port: int) -> int:
    """The port to use: `port` itself after a check that a server can bind it, or any free port if `port` is 0.

    Raises:
        UsageError: another process uses `port`, or this user may not use it.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            fix = "choose another port, or omit --port to use a free one"
            raise UsageError(f"port {port} cannot be used: {error.strerror}", fix) from error
        return int(probe.getsockname()[1])
