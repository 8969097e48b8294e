"""The guard refuses connections to hosts that are not allowed; tested with real sockets in separate processes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from nanoflux_models.guard import VARIABLE
from nanoflux_models.offline import GUARDED, SETTINGS, guard_environment

ELSEWHERE = "192.0.2.1"
"""Of the block that is kept for documentation: no such host is anywhere."""
BEGIN = """
import asyncio, json, os, socket, sys
from nanoflux_models import guard
guard.install()
"""
TRIED = """
try:
    {tried}
except BaseException as error:
    refusal = guard.refusal_in(error)
    print(json.dumps([type(error).__name__, str(refusal) if refusal else None, guard.refused_hosts()]))
else:
    print(json.dumps(["through", None, guard.refused_hosts()]))
"""


def python(script: str, **more: str) -> Any:
    """Run code in a guarded Python; return the last line of its output as JSON."""
    cleared = {key: value for key, value in os.environ.items() if key not in (*SETTINGS, VARIABLE)}
    done = subprocess.run(
        [sys.executable, "-c", script], env={**cleared, **more}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def try_statement(statement: str, before: str = "", **more: str) -> Any:
    return python(BEGIN + before + TRIED.format(tried=statement), **more)


@pytest.fixture(scope="module")
def own_address() -> str:
    """An address of this machine that is not loopback, so that a real connection to it can be tried."""
    addresses_here = [each for addresses in psutil.net_if_addrs().values() for each in addresses]
    outer = [
        each.address for each in addresses_here if each.family.name == "AF_INET" and not each.address.startswith("127.")
    ]
    if not outer:
        pytest.skip("this machine has no network address but loopback")
    return outer[0]


@pytest.mark.parametrize(
    ("statement", "host"),
    [
        (f"socket.create_connection(('{ELSEWHERE}', 80), 5)", ELSEWHERE),
        (f"socket.socket().connect(('{ELSEWHERE}', 80))", ELSEWHERE),
        (f"socket.socket().connect_ex(('{ELSEWHERE}', 80))", ELSEWHERE),
        (f"__import__('_socket').socket().connect(('{ELSEWHERE}', 80))", ELSEWHERE),
        (f"socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('{ELSEWHERE}', 53))", ELSEWHERE),
        (f"socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', 0, ('{ELSEWHERE}', 53))", ELSEWHERE),
        (f"socket.socket(type=socket.SOCK_DGRAM).sendmsg([b'x'], [], 0, ('{ELSEWHERE}', 53))", ELSEWHERE),
        ("socket.socket(socket.AF_INET6).connect(('2001:db8::1', 80))", "2001:db8::1"),
        (f"socket.socket(socket.AF_INET6).connect(('::ffff:{ELSEWHERE}', 80))", ELSEWHERE),
        ("socket.socket().connect(('127.1', 80))", "127.1"),
        ("socket.socket().connect(('models.example', 80))", "models.example"),
        ("socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('Logs.Example.', 514))", "logs.example"),
        ("socket.getaddrinfo('models.example', 443)", "models.example"),
        ("socket.getaddrinfo(b'models.example', 443)", "models.example"),
        ("socket.gethostbyname('models.example')", "models.example"),
        (f"socket.gethostbyaddr('{ELSEWHERE}')", ELSEWHERE),
        (f"socket.getnameinfo(('{ELSEWHERE}', 80), 0)", ELSEWHERE),
        (f"asyncio.run(asyncio.open_connection('{ELSEWHERE}', 80))", ELSEWHERE),
        ("asyncio.run(asyncio.open_connection('models.example', 80))", "models.example"),
        ("__import__('urllib.request').request.urlopen('http://models.example/')", "models.example"),
    ],
)
def test_guard_refuses_other_hosts_and_names_the_setting(statement: str, host: str) -> None:
    _, message, refused = try_statement(statement)
    assert message is not None and f"refused to reach {host}:" in message
    assert "`url` of an endpoint" in message and f"{VARIABLE}={host}" in message
    assert refused == [host]


@pytest.mark.skipif(not hasattr(__import__("socket"), "AF_VSOCK"), reason="this Python knows no such family")
def test_guard_refuses_other_address_families() -> None:
    name, message, _ = try_statement("socket.socket(socket.AF_VSOCK).connect((2, 80))")
    if name == "OSError":
        pytest.skip("this kernel makes no such socket")
    assert "address family" in message


LOOPBACK = """
server = socket.create_server((HOST, 0), family=FAMILY)
place = server.getsockname()[1]
"""


@pytest.mark.parametrize(
    ("host", "family", "statement"),
    [
        ("127.0.0.1", "AF_INET", "socket.create_connection(('127.0.0.1', place), 5)"),
        ("127.0.0.1", "AF_INET", "socket.create_connection(('localhost', place), 5)"),
        ("127.0.0.2", "AF_INET", "socket.socket().connect(('127.0.0.2', place))"),
        ("127.0.0.1", "AF_INET", "asyncio.run(asyncio.open_connection('127.0.0.1', place))"),
        ("127.0.0.1", "AF_INET", "socket.getfqdn('127.0.0.1')"),
        ("::1", "AF_INET6", "socket.create_connection(('::1', place), 5)"),
    ],
)
def test_guard_allows_loopback(host: str, family: str, statement: str) -> None:
    before = LOOPBACK.replace("HOST", repr(host)).replace("FAMILY", f"socket.{family}")
    if family == "AF_INET6" and not Path("/proc/net/if_inet6").exists():
        pytest.skip("this machine has no IPv6")
    assert try_statement(statement, before) == ["through", None, []]


def test_guard_allows_unix_sockets(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    before = f"server = socket.socket(socket.AF_UNIX); server.bind({path!r}); server.listen()\n"
    assert try_statement(f"socket.socket(socket.AF_UNIX).connect({path!r})", before) == ["through", None, []]


ACCEPTING = """
server = socket.create_server((ADDRESS, 0))
place = server.getsockname()[1]
"""


def test_guard_sends_no_packet_to_an_address_that_is_not_allowed(own_address: str) -> None:
    before = ACCEPTING.replace("ADDRESS", repr(own_address)) + "server.settimeout(0.5)\n"
    statement = f"socket.create_connection(({own_address!r}, place), 5)"
    _, message, _ = try_statement(statement, before)
    assert f"refused to reach {own_address}:" in message
    missed = f"""
try:
    socket.socket().connect_ex(({own_address!r}, place))
except guard.OutsideError:
    pass
try:
    server.accept()
    print(json.dumps("a packet came"))
except TimeoutError:
    print(json.dumps("nothing came"))
"""
    assert python(BEGIN + before + missed) == "nothing came"
    assert try_statement(statement, before + f"guard.allow({own_address!r})\n") == ["through", None, []]
    assert try_statement(statement, before, **{VARIABLE: f"proxy.example, {own_address}"}) == ["through", None, []]


def test_guard_allows_the_addresses_of_an_allowed_name(own_address: str) -> None:
    """The name service, the only remote part, is replaced."""
    resolver = f"""
import socket
real = socket.getaddrinfo
played = lambda host, port, *a, **k: real(host, port, *a, **k) if host != "models.example" else [
    (socket.AF_INET, socket.SOCK_STREAM, 6, "", ({own_address!r}, port))]
socket.getaddrinfo = played
"""
    before = ACCEPTING.replace("ADDRESS", repr(own_address))
    for named in ("models.example", "https://Models.Example:8443/v1"):
        script = resolver + BEGIN + before + f"guard.allow({named!r})\n"
        statement = TRIED.format(tried="socket.create_connection(('models.example', place), 5)")
        assert python(script + statement) == ["through", None, []]
        assert python(script + "print(json.dumps(guard.allowed_hosts()))") == ["models.example"]


@pytest.mark.parametrize(
    "statement",
    [
        "__import__('openai').OpenAI(base_url='http://models.example/v1', api_key='none', max_retries=0).models.list()",
        f"__import__('openai').OpenAI(base_url='http://{ELSEWHERE}/v1', api_key='none', max_retries=0).models.list()",
        "__import__('huggingface_hub').HfApi().model_info('gpt2')",
        "__import__('huggingface_hub').hf_hub_download('gpt2', 'config.json')",
        "__import__('transformers').AutoConfig.from_pretrained('gpt2')",
        "__import__('requests').get('https://models.example/')",
    ],
)
def test_guard_refusal_is_not_retried_by_libraries(statement: str, tmp_path: Path) -> None:
    counted = """
waits = []
sys.addaudithook(lambda event, values: waits.append(values[0]) if event == "time.sleep" else None)
"""
    script = BEGIN.replace("guard.install()", counted + "guard.install()")
    tail = TRIED.format(tried=statement).replace("guard.refused_hosts()", "waits")
    name, message, waits = python(script + tail, HF_HOME=str(tmp_path), HOME=str(tmp_path))
    assert message is not None and "refused to reach" in message, name
    assert waits == []


def test_guarded_path_guards_any_python_and_its_children(tmp_path: Path) -> None:
    script = tmp_path / "child.py"
    script.write_text(f"import socket\nsocket.create_connection(('{ELSEWHERE}', 80), 5)\n")
    parent = f"import subprocess, sys; sys.exit(subprocess.run([sys.executable, {str(script)!r}]).returncode)"
    environment = guard_environment({"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)})
    for command in ([str(script)], ["-c", parent]):
        done = subprocess.run(
            [sys._base_executable, *command], env=environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 1 and f"refused to reach {ELSEWHERE}" in done.stderr, done.stderr
    assert environment["PYTHONPATH"] == f"{GUARDED}{os.pathsep}{tmp_path}" and environment["HF_HUB_OFFLINE"] == "1"


def test_guard_leaves_invalid_addresses_to_python() -> None:
    name, message, _ = try_statement("socket.socket().connect('nowhere')")
    assert name == "TypeError" and message is None
