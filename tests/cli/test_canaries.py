"""Hosted endpoints return errors that repeat the user's secrets; no file and no output may contain a secret."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

SECRET_BY_VARIABLE = {
    "OPENAI_API_KEY": "sk-canary-1111222233334444",
    "LAB_KEY": "canary lab key with spaces",
    "HF_TOKEN": "hf_canaryAAAABBBBCCCC",
    "DB_PASSWORD": "canary-password",
    "AWS_SECRET_ACCESS_KEY": "canary/aws+secret",
}
"""The secret in each environment variable that the commands get."""
SECRET_IN_KEY_FILE = "sk-ant-canary-in-a-file-5555"
SECRETS = (*SECRET_BY_VARIABLE.values(), SECRET_IN_KEY_FILE)


@pytest.fixture
def repeating_server() -> Iterator[tuple[str, list[str]]]:
    """The URL of a server that refuses every request with an error that repeats all secrets, and the headers of the
    requests that it received.
    """
    received_headers: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            received_headers.append(str(self.headers))
            message = f"Incorrect API key provided: {' and '.join(SECRETS)} in {self.headers}"
            body = json.dumps({"error": {"message": message, "type": "authentication_error", "code": message}}).encode()
            self.send_response(401, "No " + SECRETS[0])
            self.send_header("X-Request-Id", SECRETS[0])
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", received_headers
    server.shutdown()
    server.server_close()


def wait_until_run_ends(show_run: Callable[[], Any]) -> Any:
    """Call `show_run` until no process works on the run, and return the result of the last call."""
    deadline = time.monotonic() + 90
    result = show_run()
    while result.json["status"] in ("running", "stalled") and time.monotonic() < deadline:
        time.sleep(0.2)
        result = show_run()
    return result


@pytest.mark.parametrize(
    ("role", "interface"),
    [
        ("attacker", "openai_responses"),
        ("defender", "anthropic_messages"),
        ("judge", "openai_chat"),
        ("search", "google"),
    ],
)
def test_secrets_stay_out_of_files_and_output_after_endpoint_errors(
    role: str, interface: str, repeating_server: tuple[str, list[str]], nanoflux: Callable[..., Any],
    scripted_start: tuple[str, ...], tmp_path: Path
) -> None:  # fmt: skip
    url, received_headers = repeating_server
    key_file = tmp_path / "key"
    key_file.write_text(SECRET_IN_KEY_FILE)
    key_file.chmod(0o600)
    uses_key_file = interface == "anthropic_messages"
    key_setting = f'key_file = "{key_file}"' if uses_key_file else 'key_env = "OPENAI_API_KEY"'
    config_file = tmp_path / "hosted.toml"
    endpoint_table = f'[endpoints.hosted]\ninterface = "{interface}"\nmodel = "m"\nurl = "{url}/v1"\n{key_setting}\n'
    search_tables = (
        f'[judge]\nfact_check = true\n[search]\nengine = "{interface}"\nurl = "{url}"\ncx = "c"\n{key_setting}\n'
    )
    role_tables = f'{endpoint_table}[roles.{role}]\nendpoint = "hosted"\n'
    config_file.write_text(search_tables if role == "search" else role_tables)
    home, report_folder, bundle = tmp_path / "home", tmp_path / "report", tmp_path / "bundle" / "out.pyz"
    bundle.parent.mkdir()

    def run_with_secrets(*arguments: str) -> Any:
        return nanoflux(home, *arguments, **SECRET_BY_VARIABLE)

    start = run_with_secrets(*scripted_start, "--max-turns", "9", "--name", "r", "--config", str(config_file))
    resume = run_with_secrets("run", "resume", "r", "--detach")
    ended_run = wait_until_run_ends(lambda: run_with_secrets("run", "show", "r", "--json"))
    table = run_with_secrets("run", "show", "r")
    report = run_with_secrets("report", "r", "-o", str(report_folder))
    bundling = run_with_secrets("bundle", "create", "-o", str(bundle), "--no-software", "--export", "r")
    expected_key = SECRET_IN_KEY_FILE if uses_key_file else SECRET_BY_VARIABLE["OPENAI_API_KEY"]
    assert any(expected_key in headers for headers in received_headers), "the server did not receive the key"
    message = "refuses the request" if role == "search" else "Incorrect API key"
    assert start.code == 1 and message in start.err
    assert ended_run.json["status"] == "failed" and message in ended_run.json["message"]
    for result in (start, resume, ended_run, table, report, bundling):
        assert not [secret for secret in SECRETS if secret in result.out + result.err]
    assert bundling.code == 0, bundling.err
    folders = (home, report_folder, bundle.parent)
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 3
    for path in files:
        content = path.read_bytes()
        assert not [secret for secret in SECRETS if secret.encode() in content], path
        assert path.stat().st_mode & 0o077 == 0, f"{path} is accessible to other users"
