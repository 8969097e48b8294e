"""The application in a browser: a request needs the token and must not come from a page of another site, and the page
loads nothing from other hosts.
"""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from aiohttp import ClientSession

from nanoflux_local.paths import Home

RUN_NAME = "second"
"""The name of a run in the home, which the first screen shows."""


@pytest.fixture(scope="module")
def address(home_with_results: Path, hostile_folder: Path) -> Iterator[str]:
    """The address that `nanoflux tui --web` prints. The command runs in a directory whose Python files must not be
    executed.
    """
    command = [sys.executable, "-P", "-m", "nanoflux_local.cli", "--home", str(home_with_results), "tui", "--web"]
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    server = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env, cwd=hostile_folder
    )
    assert server.stdout is not None
    yield server.stdout.readline().strip()
    server.send_signal(signal.SIGINT)
    assert server.wait(60) == 0


def send_get_request(address: str, path: str, **headers: str) -> tuple[int, dict[str, str], str]:
    """The status, the headers and the body of the response to a GET request. Redirects are not followed. In the names
    of `headers`, an underscore stands for a hyphen.
    """
    parts = urlsplit(address)
    for _ in range(300):
        connection = HTTPConnection(parts.hostname or "", parts.port, timeout=60)
        try:
            connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
            break
        except ConnectionRefusedError:  # the address is printed before the server listens
            time.sleep(0.1)
    response = connection.getresponse()
    return response.status, dict(response.getheaders()), response.read().decode("utf-8", "replace")


def test_page_requires_the_token_and_the_local_origin(address: str) -> None:
    parts = urlsplit(address)
    assert parts.hostname == "127.0.0.1" and re.fullmatch(r"token=[\w-]{32}", parts.query)
    for path in ("/", "/ws", "/static/js/textual.js", "/?token=", "/?token=wrong"):
        assert send_get_request(address, path)[0] == 403, path
    status, headers, _ = send_get_request(address, f"/?{parts.query}")
    cookie = headers["Set-Cookie"]
    assert status == 302 and headers["Location"] == "/" and "HttpOnly" in cookie and "SameSite=Strict" in cookie
    cookie_pair = cookie.partition(";")[0]
    status, headers, page = send_get_request(address, "/", Cookie=cookie_pair)
    assert status == 200 and "NanoFlux" in page and "default-src 'none'" in headers["Content-Security-Policy"]
    assert send_get_request(address, "/static/js/textual.js", Cookie=cookie_pair)[0] == 200
    assert send_get_request(address, "/", Cookie=cookie_pair, Host="evil.example:80")[0] == 403, (
        "a request for another host name must be refused, because DNS rebinding sends such requests"
    )
    assert send_get_request(address, "/ws", Cookie=cookie_pair, Origin="http://evil.example")[0] == 403
    loaded_urls = re.findall(r"(?:src|href)=\"(https?://[^\"]+)", page)
    assert loaded_urls and all(urlsplit(url).netloc == parts.netloc for url in loaded_urls)


def test_websocket_serves_the_application(address: str) -> None:
    async def read_first_screen() -> str:
        """The output of the application until its first screen lists the run."""
        parts = urlsplit(address)
        async with ClientSession() as session:
            async with session.get(address, allow_redirects=False) as response:
                token = response.cookies["nanoflux-token"].value
            url, headers = f"http://{parts.netloc}/ws?width=100&height=30", {"Cookie": f"nanoflux-token={token}"}
            async with session.ws_connect(url, headers=headers) as websocket:
                output = ""
                async for message in websocket:
                    output += message.data.decode("utf-8", "replace") if isinstance(message.data, bytes) else ""
                    if "NanoFlux" in output and RUN_NAME in output:
                        return output
        return output

    assert "NanoFlux" in asyncio.run(asyncio.wait_for(read_first_screen(), 120))


def test_error_on_a_port_in_use_suggests_another_port(empty_home: Home) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        command = [sys.executable, "-m", "nanoflux_tui", "--home", str(empty_home.root), "--web", "--port",
                 str(listener.getsockname()[1])]  # fmt: skip
        result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 2 and "cannot be used" in result.stderr and "choose another port" in result.stderr
