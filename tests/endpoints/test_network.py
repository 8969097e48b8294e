"""Environment variables set proxies and certificates; the error on an unusable value names its variable."""

import asyncio
import http.client
import importlib.util
import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from nanoflux_local.endpoints.remote.network import check_network, find_proxy, http_options
from nanoflux_local.endpoints.remote.openai_chat import OpenAIChatEndpoint
from nanoflux_local.errors import ConfigError, EndpointError
from nanoflux_local.records import ChatReply, ChatRequest, Message

REMOTE_URL = "http://model.example:8000/v1"
"""The URL of a remote server whose host name does not resolve."""
GOOD_REPLY = {"choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}]}


@pytest.fixture(autouse=True)
def clear_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unset the environment variables for proxies and certificates, so that only those that a test sets apply."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


class ForwardProxy:
    """A proxy on loopback that forwards requests for any host to the server at `target`, and refuses tunnels."""

    def __init__(self, target: str) -> None:
        self.paths: list[str] = []
        proxy, target_address = self, urlsplit(target)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                proxy.paths.append(self.path)
                body = self.rfile.read(int(self.headers["Content-Length"]))
                connection = http.client.HTTPConnection(target_address.netloc, timeout=30)
                connection.request("POST", urlsplit(self.path).path, body, {"Content-Type": "application/json"})
                content = connection.getresponse().read()
                connection.close()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def do_CONNECT(self) -> None:
                proxy.paths.append(self.path)
                self.send_error(403, "tunnels are not allowed")

            def log_message(self, *_: object) -> None:
                return

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def proxy(server) -> Iterator[ForwardProxy]:
    """A proxy in front of a server that answers every request."""
    server.answer((200, GOOD_REPLY))
    forward_proxy = ForwardProxy(server.url)
    yield forward_proxy
    forward_proxy.close()


def request_reply(url: str) -> ChatReply:
    """Send one request to the server at `url`."""

    async def send() -> ChatReply:
        endpoint = OpenAIChatEndpoint("m", url)
        try:
            return await endpoint.chat(ChatRequest(endpoint.identity, (Message("user", "hi"),)))
        finally:
            await endpoint.close()

    return asyncio.run(send())


def find_closed_port() -> int:
    """A loopback port on which nothing listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_requests_to_remote_servers_use_the_proxy(proxy: ForwardProxy, monkeypatch, variable: str) -> None:
    url_or_address = proxy.address if variable == "http_proxy" else f"http://{proxy.address}"  # both forms are valid
    monkeypatch.setenv(variable, url_or_address)
    assert request_reply(REMOTE_URL).text == "yes"
    assert proxy.paths == ["http://model.example:8000/v1/chat/completions"]


def test_requests_to_this_machine_bypass_the_proxy(proxy: ForwardProxy, server, monkeypatch) -> None:
    monkeypatch.setenv("ALL_PROXY", f"http://{proxy.address}")
    monkeypatch.setenv("SSL_CERT_FILE", "/gone/cacert.pem")
    assert request_reply(server.url).text == "yes" and not proxy.paths


def test_error_on_an_unreachable_proxy_names_address_and_variable_but_no_password(monkeypatch) -> None:
    address = f"127.0.0.1:{find_closed_port()}"
    monkeypatch.setenv("HTTP_PROXY", f"http://me:hidden-password@{address}")
    with pytest.raises(EndpointError) as error:
        request_reply(REMOTE_URL)
    assert f"does not answer: All connection attempts failed (using the proxy http://{address}" in str(error.value)
    assert "of HTTP_PROXY)" in str(error.value) and "add model.example to NO_PROXY" in error.value.fix
    assert "hidden-password" not in str(error.value)


def test_error_names_a_proxy_that_refuses_the_tunnel(proxy: ForwardProxy, monkeypatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.address}")
    with pytest.raises(EndpointError, match=r"403.*using the proxy http://127.*of HTTPS_PROXY"):
        request_reply("https://model.example/v1")
    assert set(proxy.paths) == {"model.example:443"}


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
def test_error_on_a_socks_proxy_without_socksio_names_variable_and_package(monkeypatch, scheme: str) -> None:
    if importlib.util.find_spec("socksio"):
        pytest.skip("the package socksio is installed here")
    monkeypatch.setenv("ALL_PROXY", f"{scheme}://me:hidden-password@127.0.0.1:1080")
    message = rf"ALL_PROXY names the SOCKS proxy {scheme}://127.0.0.1:1080, .* socksio"
    with pytest.raises(ConfigError, match=message) as error:
        OpenAIChatEndpoint("m", REMOTE_URL)
    assert "httpx2[socks]" in error.value.fix and "NO_PROXY" in error.value.fix
    assert "hidden-password" not in str(error.value)
    monkeypatch.setenv("NO_PROXY", "other.example,model.example")
    assert find_proxy(REMOTE_URL) is None and http_options(REMOTE_URL)["proxy"] is None


@pytest.mark.parametrize("value", ["ftp://127.0.0.1:1", "http://", "http://127.0.0.1:99999", "socks4://127.0.0.1:1"])
def test_error_on_an_unusable_proxy_names_the_variable(monkeypatch, value: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", value)
    with pytest.raises(ConfigError, match="HTTPS_PROXY names an unusable proxy"):
        check_network("https://model.example/v1")
    check_network(REMOTE_URL)


@pytest.mark.parametrize(("variable", "name"), [("SSL_CERT_FILE", "cacert.pem"), ("SSL_CERT_DIR", "certs")])
def test_error_on_missing_certificates_names_variable_and_path(
    tmp_path: Path, monkeypatch, variable: str, name: str
) -> None:
    monkeypatch.setenv(variable, str(tmp_path / name))
    with pytest.raises(ConfigError, match=f"{variable} names {tmp_path}/{name}, which does not exist"):
        OpenAIChatEndpoint("m", "https://model.example/v1")
    check_network(REMOTE_URL)


def test_certificate_folder_is_loaded_and_a_file_without_certificates_is_refused(tmp_path: Path, monkeypatch) -> None:
    certificate_file = tmp_path / "cacert.pem"
    certificate_file.write_text("no certificate")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate_file))
    with pytest.raises(ConfigError, match="which holds no certificates"):
        check_network("https://model.example/v1")
    monkeypatch.delenv("SSL_CERT_FILE")
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    assert isinstance(http_options("https://model.example/v1")["verify"], ssl.SSLContext)
    assert "verify" not in http_options(REMOTE_URL)
