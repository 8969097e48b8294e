"""The network guard refuses connections to hosts that are not allowed. Each test connects with real sockets in a
separate process.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from nanoflux_models.guard import ALLOW_HOSTS_VARIABLE
from nanoflux_models.offline import GUARD_SITE_DIR, SETTINGS, guard_environment

REMOTE = "192.0.2.1"
"""An address that no host has, from the block that is reserved for documentation."""
INSTALL_GUARD = """
import asyncio, json, os, socket, sys
from nanoflux_models import guard
guard.install()
"""
"""The beginning of each test's program."""
TRY_STATEMENT = """
try:
    {statement}
except BaseException as error:
    refusal = guard.find_refusal(error)
    print(json.dumps([type(error).__name__, str(refusal) if refusal else None, guard.refused_hosts()]))
else:
    print(json.dumps(["allowed", None, guard.refused_hosts()]))
"""
"""The end of a test's program. It prints what `try_statement` returns."""


def run_script(script: str, **variables: str) -> Any:
    """Run a script in a separate Python process without the guard's environment variables; return the last line of its
    output, parsed as JSON.
    """
    inherited = {key: value for key, value in os.environ.items() if key not in (*SETTINGS, ALLOW_HOSTS_VARIABLE)}
    environment = {**inherited, **variables}
    result = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def try_statement(statement: str, setup_code: str = "", **variables: str) -> Any:
    """Run a statement in a separate Python process with the guard. Returns the class of its error ("allowed"
    without an error), the text of the guard's refusal (None without a refusal), and the refused hosts.
    """
    return run_script(INSTALL_GUARD + setup_code + TRY_STATEMENT.format(statement=statement), **variables)


@pytest.fixture(scope="module")
def own_address() -> str:
    """An address of this machine outside loopback, to which tests can make a real connection."""
    for interface_addresses in psutil.net_if_addrs().values():
        for address in interface_addresses:
            if address.family.name == "AF_INET" and not address.address.startswith("127."):
                return str(address.address)
    pytest.skip("this machine has only loopback addresses")


@pytest.mark.parametrize(
    ("statement", "host"),
    [
        (f"socket.create_connection(('{REMOTE}', 80), 5)", REMOTE),
        (f"socket.socket().connect(('{REMOTE}', 80))", REMOTE),
        (f"socket.socket().connect_ex(('{REMOTE}', 80))", REMOTE),
        (f"__import__('_socket').socket().connect(('{REMOTE}', 80))", REMOTE),
        (f"socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('{REMOTE}', 53))", REMOTE),
        (f"socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', 0, ('{REMOTE}', 53))", REMOTE),
        (f"socket.socket(type=socket.SOCK_DGRAM).sendmsg([b'x'], [], 0, ('{REMOTE}', 53))", REMOTE),
        ("socket.socket(socket.AF_INET6).connect(('2001:db8::1', 80))", "2001:db8::1"),
        (f"socket.socket(socket.AF_INET6).connect(('::ffff:{REMOTE}', 80))", REMOTE),
        ("socket.socket().connect(('127.1', 80))", "127.1"),
        ("socket.socket().connect(('models.example', 80))", "models.example"),
        ("socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('Logs.Example.', 514))", "logs.example"),
        ("socket.getaddrinfo('models.example', 443)", "models.example"),
        ("socket.getaddrinfo(b'models.example', 443)", "models.example"),
        ("socket.gethostbyname('models.example')", "models.example"),
        (f"socket.gethostbyaddr('{REMOTE}')", REMOTE),
        (f"socket.getnameinfo(('{REMOTE}', 80), 0)", REMOTE),
        (f"asyncio.run(asyncio.open_connection('{REMOTE}', 80))", REMOTE),
        ("asyncio.run(asyncio.open_connection('models.example', 80))", "models.example"),
        ("__import__('urllib.request').request.urlopen('http://models.example/')", "models.example"),
    ],
)
def test_guard_refuses_other_hosts_and_names_the_setting_that_allows_them(statement: str, host: str) -> None:
    _, message, refused_hosts = try_statement(statement)
    assert message is not None and f"refused to reach {host}:" in message
    assert "`url` of an endpoint" in message and f"{ALLOW_HOSTS_VARIABLE}={host}" in message
    assert refused_hosts == [host]


@pytest.mark.skipif(not hasattr(__import__("socket"), "AF_VSOCK"), reason="this Python does not support AF_VSOCK")
def test_guard_refuses_other_address_families() -> None:
    name, message, _ = try_statement("socket.socket(socket.AF_VSOCK).connect((2, 80))")
    if name == "OSError":
        pytest.skip("this kernel does not support AF_VSOCK")
    assert "address family" in message


LISTEN_ON_LOOPBACK = """
server = socket.create_server((HOST, 0), family=FAMILY)
port = server.getsockname()[1]
"""
"""Code that starts a server; tests replace HOST and FAMILY."""


@pytest.mark.parametrize(
    ("host", "family", "statement"),
    [
        ("127.0.0.1", "AF_INET", "socket.create_connection(('127.0.0.1', port), 5)"),
        ("127.0.0.1", "AF_INET", "socket.create_connection(('localhost', port), 5)"),
        ("127.0.0.2", "AF_INET", "socket.socket().connect(('127.0.0.2', port))"),
        ("127.0.0.1", "AF_INET", "asyncio.run(asyncio.open_connection('127.0.0.1', port))"),
        ("127.0.0.1", "AF_INET", "socket.getfqdn('127.0.0.1')"),
        ("::1", "AF_INET6", "socket.create_connection(('::1', port), 5)"),
    ],
)
def test_guard_allows_loopback(host: str, family: str, statement: str) -> None:
    setup_code = LISTEN_ON_LOOPBACK.replace("HOST", repr(host)).replace("FAMILY", f"socket.{family}")
    if family == "AF_INET6" and not Path("/proc/net/if_inet6").exists():
        pytest.skip("this machine has no IPv6")
    assert try_statement(statement, setup_code) == ["allowed", None, []]


def test_guard_allows_unix_sockets(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    setup_code = f"server = socket.socket(socket.AF_UNIX); server.bind({path!r}); server.listen()\n"
    assert try_statement(f"socket.socket(socket.AF_UNIX).connect({path!r})", setup_code) == ["allowed", None, []]


LISTEN_ON_ADDRESS = """
server = socket.create_server((ADDRESS, 0))
port = server.getsockname()[1]
"""
"""Code that starts a server; tests replace ADDRESS."""


def test_guard_sends_no_packet_to_an_address_that_is_not_allowed(own_address: str) -> None:
    setup_code = LISTEN_ON_ADDRESS.replace("ADDRESS", repr(own_address)) + "server.settimeout(0.5)\n"
    statement = f"socket.create_connection(({own_address!r}, port), 5)"
    _, message, _ = try_statement(statement, setup_code)
    assert f"refused to reach {own_address}:" in message
    script = f"""
try:
    socket.socket().connect_ex(({own_address!r}, port))
except guard.OutsideError:
    pass
try:
    server.accept()
    print(json.dumps("connected"))
except TimeoutError:
    print(json.dumps("no connection"))
"""
    assert run_script(INSTALL_GUARD + setup_code + script) == "no connection"
    assert try_statement(statement, setup_code + f"guard.allow({own_address!r})\n") == ["allowed", None, []]
    variables = {ALLOW_HOSTS_VARIABLE: f"proxy.example, {own_address}"}
    assert try_statement(statement, setup_code, **variables) == ["allowed", None, []]


def test_guard_allows_the_addresses_of_an_allowed_name(own_address: str) -> None:
    """The name lookup is replaced, since a real name service would be on another machine."""
    resolver = f"""
import socket
real_lookup = socket.getaddrinfo
def look_up(host, port, *arguments, **options):
    if host == "models.example":
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ({own_address!r}, port))]
    return real_lookup(host, port, *arguments, **options)
socket.getaddrinfo = look_up
"""
    setup_code = LISTEN_ON_ADDRESS.replace("ADDRESS", repr(own_address))
    for allowed_host in ("models.example", "https://Models.Example:8443/v1"):
        script = resolver + INSTALL_GUARD + setup_code + f"guard.allow({allowed_host!r})\n"
        try_code = TRY_STATEMENT.format(statement="socket.create_connection(('models.example', port), 5)")
        assert run_script(script + try_code) == ["allowed", None, []]
        assert run_script(script + "print(json.dumps(guard.allowed_hosts()))") == ["models.example"]


@pytest.mark.parametrize(
    "statement",
    [
        "__import__('openai').OpenAI(base_url='http://models.example/v1', api_key='none', max_retries=0).models.list()",
        f"__import__('openai').OpenAI(base_url='http://{REMOTE}/v1', api_key='none', max_retries=0).models.list()",
        "__import__('huggingface_hub').HfApi().model_info('gpt2')",
        "__import__('huggingface_hub').hf_hub_download('gpt2', 'config.json')",
        "__import__('transformers').AutoConfig.from_pretrained('gpt2')",
        "__import__('requests').get('https://models.example/')",
    ],
)
def test_guard_refusal_is_not_retried_by_libraries(statement: str, tmp_path: Path) -> None:
    record_waits = """
waits = []
def record_wait(event, values):
    if event == "time.sleep":
        waits.append(values[0])
sys.addaudithook(record_wait)
"""
    script = INSTALL_GUARD.replace("guard.install()", record_waits + "guard.install()")
    try_code = TRY_STATEMENT.format(statement=statement).replace("guard.refused_hosts()", "waits")
    name, message, waits = run_script(script + try_code, HF_HOME=str(tmp_path), HOME=str(tmp_path))
    assert message is not None and "refused to reach" in message, name
    assert waits == []


def test_guard_environment_guards_any_python_and_its_children(tmp_path: Path) -> None:
    script = tmp_path / "child.py"
    script.write_text(f"import socket\nsocket.create_connection(('{REMOTE}', 80), 5)\n")
    start_child = f"import subprocess, sys; sys.exit(subprocess.run([sys.executable, {str(script)!r}]).returncode)"
    environment = guard_environment({"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)})
    python_without_packages = sys._base_executable
    for arguments in ([str(script)], ["-c", start_child]):
        command = [python_without_packages, *arguments]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert result.returncode == 1 and f"refused to reach {REMOTE}" in result.stderr, result.stderr
    assert (
        environment["PYTHONPATH"] == f"{GUARD_SITE_DIR}{os.pathsep}{tmp_path}" and environment["HF_HUB_OFFLINE"] == "1"
    )


def test_guard_leaves_invalid_addresses_to_python() -> None:
    name, message, _ = try_statement("socket.socket().connect('nowhere')")
    assert name == "TypeError" and message is None
