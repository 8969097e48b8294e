"""`nanoflux profiles` lists, shows, writes and checks profiles."""

import threading
import tomllib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

SERVER_OPTIONS = ("--server", "first-model@http://127.0.0.1:9/v1", "--server", "second-model@http://127.0.0.1:10/v1")
"""Options of `profiles new` for two servers, which the tests do not start."""


def test_profiles_list_shows_packaged_and_user_profiles(tmp_path: Path, invoke: Callable) -> None:
    invoke(tmp_path, "profiles", "new", "lab", *SERVER_OPTIONS)
    (tmp_path / "profiles" / "broken.toml").write_text("a = [")
    entry_by_name = {entry["name"]: entry for entry in invoke(tmp_path, "profiles", "list", "--json").json}
    lab_entry, broken_entry = entry_by_name["lab"], entry_by_name["broken"]
    assert lab_entry["own"] and not entry_by_name["scripted"]["own"]
    assert lab_entry["models"] == {"attacker": "first-model", "defender": "second-model", "judge": "first-model"}
    assert entry_by_name["embedded"]["models"]["attacker"] == "program"
    assert "broken.toml" in broken_entry["summary"] and broken_entry["models"] == {}
    assert "(your own) My own servers." in invoke(tmp_path, "profiles", "list").out


def test_profiles_show_prints_the_file(tmp_path: Path, invoke: Callable) -> None:
    result = invoke(tmp_path, "profiles", "show", "scripted")
    document = invoke(tmp_path, "profiles", "show", "scripted", "--json").json
    assert tomllib.loads(result.out) == document["values"] and document["path"] in result.err
    assert invoke(tmp_path, "profiles", "show", "scriptd").code == 2


@pytest.mark.parametrize(
    ("server_count", "expected_models"),
    [
        (0, ["MODEL", "MODEL", "MODEL"]),
        (1, ["model-0", "model-0", "model-0"]),
        (2, ["model-0", "model-1", "model-0"]),
        (3, ["model-0", "model-1", "model-2"]),
    ],
)
def test_new_profile_is_valid_for_up_to_three_servers(
    tmp_path: Path, invoke: Callable, server_count: int, expected_models: list[str]
) -> None:
    server_options: list[str] = []
    for number in range(server_count):
        server_options += ["--server", f"model-{number}@http://127.0.0.1:{number + 1}/v1"]
    document = invoke(tmp_path, "profiles", "new", "lab", *server_options, "--json").json
    values = tomllib.loads(Path(document["path"]).read_text("utf-8"))
    endpoints = [values["endpoints"][role["endpoint"]] for role in values["roles"].values()]
    assert [endpoint["model"] for endpoint in endpoints] == expected_models
    checks = invoke(tmp_path, "profiles", "check", "lab", "--json").json["checks"]
    assert checks[0]["subject"] == "settings" and checks[0]["ok"]
    has_placeholders = any("placeholder" in check["state"] for check in checks)
    assert has_placeholders == (server_count == 0)


def test_commented_settings_of_a_new_profile_are_valid(tmp_path: Path, invoke: Callable) -> None:
    """Each setting in a comment, once uncommented, is a valid key of an endpoint."""
    path = Path(invoke(tmp_path, "profiles", "new", "lab", *SERVER_OPTIONS, "--json").json["path"])
    uncommented_lines = [
        line.removeprefix("# ") if " = " in line else line for line in path.read_text("utf-8").splitlines()
    ]
    path.write_text("\n".join(uncommented_lines))
    document = invoke(tmp_path, "profiles", "check", "lab", "--json").json
    assert document["checks"][0]["ok"] and all("LAB_KEY" in check["state"] for check in document["checks"][1:3])


def test_profiles_new_refuses_an_existing_profile_and_invalid_arguments(tmp_path: Path, invoke: Callable) -> None:
    assert invoke(tmp_path, "profiles", "new", "lab", "--copy", "scripted").code == 0
    text = (tmp_path / "profiles" / "lab.toml").read_text()
    repeated = invoke(tmp_path, "profiles", "new", "lab")
    assert repeated.code == 3 and "already exists" in repeated.err
    assert (tmp_path / "profiles" / "lab.toml").read_text() == text
    for arguments, message in (
        (("../up",), "is not a valid name for a profile"),
        (("x", "--server", "http://h/v1"), "is not MODEL@URL"),
        (("x", "--server", "m@h:1"), "is not MODEL@URL"),
        (("x", *SERVER_OPTIONS, *SERVER_OPTIONS), "4 servers are given, but a profile has three roles"),
        (("x", *SERVER_OPTIONS, "--copy", "scripted"), "cannot be combined"),
        (("x", "--copy", "scriptd"), "did you mean 'scripted'"),
    ):
        result = invoke(tmp_path, "profiles", "new", *arguments)
        assert result.code == 2 and message in result.err
    assert [path.name for path in (tmp_path / "profiles").iterdir()] == ["lab.toml"]


def test_profiles_set_changes_keys_and_keeps_comments(tmp_path: Path, invoke: Callable) -> None:
    invoke(tmp_path, "profiles", "new", "lab", *SERVER_OPTIONS)
    path = tmp_path / "profiles" / "lab.toml"
    text_before = path.read_text("utf-8")
    settings = (
        "endpoints.first.url=http://127.0.0.1:11/v1",
        "endpoints.first.key_env=LAB_KEY",
        "endpoints.second.model=m2",
    )
    assert invoke(tmp_path, "profiles", "set", "lab", *settings).code == 0
    text_after = path.read_text("utf-8")
    expected_values, values = tomllib.loads(text_before), tomllib.loads(text_after)
    expected_values["endpoints"]["first"] |= {"url": "http://127.0.0.1:11/v1", "key_env": "LAB_KEY"}
    expected_values["endpoints"]["second"]["model"] = "m2"
    comments_before = [line for line in text_before.splitlines() if line.startswith("#")]
    comments_after = [line for line in text_after.splitlines() if line.startswith("#")]
    assert values == expected_values and comments_after == comments_before
    assert 'model = "m2" # the name under which' in text_after


def test_profiles_set_refuses_unknown_keys_and_packaged_profiles(tmp_path: Path, invoke: Callable) -> None:
    invoke(tmp_path, "profiles", "new", "lab", *SERVER_OPTIONS)
    path = tmp_path / "profiles" / "lab.toml"
    text_before = path.read_text("utf-8")
    wrong_key = invoke(tmp_path, "profiles", "set", "lab", "endpoints.first.ulr=x")
    assert wrong_key.code == 2 and "did you mean 'url'" in wrong_key.err
    wrong_endpoint = invoke(tmp_path, "profiles", "set", "lab", "endpoints.frist.url=http://127.0.0.1:11/v1")
    assert wrong_endpoint.code == 2
    assert "no endpoint 'frist'" in wrong_endpoint.err and "did you mean 'first'?" in wrong_endpoint.err
    new_endpoint = invoke(tmp_path, "profiles", "set", "lab", "endpoints.other.url=http://127.0.0.1:11/v1")
    assert new_endpoint.code == 2 and "endpoints.other.interface" in new_endpoint.err, (
        "a name that resembles no endpoint is not treated as a new endpoint"
    )
    assert invoke(tmp_path, "profiles", "set", "lab", "endpoints.first").code == 2
    packaged = invoke(tmp_path, "profiles", "set", "scripted", "concurrency=2")
    assert packaged.code == 3 and "profiles new NAME --copy scripted" in packaged.err
    assert path.read_text("utf-8") == text_before and list(path.parent.iterdir()) == [path]


def test_profiles_set_adds_an_endpoint_with_a_similar_name(tmp_path: Path, invoke: Callable) -> None:
    invoke(tmp_path, "profiles", "new", "lab", *SERVER_OPTIONS)
    keys = ("endpoints.firsts.interface=scripted", "endpoints.firsts.model=m")
    assert invoke(tmp_path, "profiles", "set", "lab", *keys).code == 0


def test_profiles_check_suggests_the_nearest_key(tmp_path: Path, invoke: Callable) -> None:
    invoke(tmp_path, "profiles", "new", "lab", *SERVER_OPTIONS)
    path = tmp_path / "profiles" / "lab.toml"
    path.write_text(path.read_text().replace("url =", "ulr ="))
    result = invoke(tmp_path, "profiles", "check", "lab")
    assert result.code == 2 and "unknown key 'endpoints.first.ulr'" in result.err and "did you mean 'url'" in result.err


def test_profiles_check_reports_missing_weights_and_api_keys(tmp_path: Path, invoke: Callable, monkeypatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    embedded = invoke(tmp_path, "profiles", "check", "embedded", "--json")
    fix_by_subject = {check["subject"]: check["fix"] for check in embedded.json["checks"] if not check["ok"]}
    assert embedded.code == 1 and fix_by_subject == {
        "endpoints.smollm2": "run `nanoflux models pull smollm2-135m`",
        "endpoints.minilm": "run `nanoflux models pull all-minilm-l6-v2`",
    }
    hosted = invoke(tmp_path, "profiles", "check", "hosted")
    assert hosted.code == 1 and "OPENAI_API_KEY is not set" in hosted.out and "checks failed" in hosted.err
    assert invoke(tmp_path, "profiles", "check", "scripted").code == 0


@pytest.fixture
def listing_server() -> Iterator[tuple[str, list[str]]]:
    """The URL of a loopback server that lists the model "first-model", and the paths that were requested."""
    requested_paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requested_paths.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"data": [{"id": "first-model"}]}')

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1", requested_paths
        server.shutdown()


def test_profiles_check_contacts_servers_only_with_connect(
    tmp_path: Path, invoke: Callable, listing_server: tuple[str, list[str]]
) -> None:
    """The server lists one of the profile's two models; the name of the other is misspelt."""
    url, requested_paths = listing_server
    invoke(tmp_path, "profiles", "new", "lab", "--server", f"first-model@{url}", "--server", f"frist-model@{url}")
    assert "not contacted" in invoke(tmp_path, "profiles", "check", "lab").out and not requested_paths
    result = invoke(tmp_path, "profiles", "check", "lab", "--connect")
    assert result.code == 1 and set(requested_paths) == {"/v1/models"}
    assert f"{url} serves first-model" in result.out
    assert f"{url} does not list the model frist-model" in result.out and "did you mean 'first-model'" in result.out
