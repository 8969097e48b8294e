"""Fixtures for all tests: small models with installed weights, a tiny base model, and servers on loopback. Connections
to other machines are refused.
"""

import asyncio
import contextlib
import ctypes
import gc
import json
import os
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from xdist.scheduler import LoadFileScheduling

from nanoflux_local.endpoints.chaos import Chaos
from nanoflux_local.endpoints.fake_server import FakeServer
from nanoflux_models import guard

# Set before anything imports torch: idle OpenMP threads must not spin on cores that other work needs.
os.environ.setdefault("GOMP_SPINCOUNT", "5000")

# A shell's background jobs and their child processes ignore SIGINT. The default handler is restored, because otherwise
# the tests of Ctrl-C would never end.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

guard.install()

DEFAULT_HOME = Path(__file__).parents[1] / ".nanoflux" / "test-home"
VLLM_FOLDERS = ("rehearsal", "serving")
"""Folders whose tests start vLLM servers, which take up to 4 GB of memory each."""
LONG_FILES = ("test_exploits.py", "test_embedded.py", "test_faulty_run.py", "test_outward.py", "test_hostile.py")
"""Test files that take minutes. They start early, because a long file that starts last keeps one process busy while the
others are idle.
"""


class OneVllmProcess(LoadFileScheduling):
    """Distributes the test files among the processes. All tests that start vLLM servers run in the same process, one
    after the other, because the servers of two files would not fit into the memory together.
    """

    def _split_scope(self, nodeid: str) -> str:
        path = str(super()._split_scope(nodeid))
        return "vllm" if Path(path).parent.name in VLLM_FOLDERS else path


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneVllmProcess | None:
    """The scheduler of `--dist loadfile`."""
    return OneVllmProcess(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the tests with vLLM and the long files first if several processes share the suite."""
    is_one_of_several_processes = hasattr(config, "workerinput")
    if is_one_of_several_processes:
        items.sort(key=_rank_file)


def _rank_file(item: pytest.Item) -> int:
    """The position of a test's file: 0 with vLLM, then the position in `LONG_FILES`, then all other files."""
    if item.path.parent.name in VLLM_FOLDERS:
        return 0
    name = item.path.name
    return 1 + (LONG_FILES.index(name) if name in LONG_FILES else len(LONG_FILES))


@pytest.fixture(scope="module", autouse=True)
def return_memory() -> Iterator[None]:
    """Return the freed memory to the system after each file: after the files that load models in process, the C library
    would otherwise keep several GB, which the servers of other tests need.
    """
    yield
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # other C libraries have no `malloc_trim`
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(scope="session")
def test_home() -> Path:
    """The home in which weights stay installed between test runs: $NANOFLUX_TEST_HOME, else `DEFAULT_HOME`."""
    return Path(os.environ.get("NANOFLUX_TEST_HOME") or DEFAULT_HOME)


@pytest.fixture(scope="session")
def smollm2_dir(test_home: Path) -> Path:
    """The folder with the installed weights of the small chat model."""
    return _pull("smollm2-135m", test_home)


@pytest.fixture(scope="session")
def minilm_dir(test_home: Path) -> Path:
    """The folder with the installed weights of the small embedder."""
    return _pull("all-minilm-l6-v2", test_home)


def _pull(name: str, home: Path) -> Path:
    """Install a model's weights unless they are installed, and return their folder."""
    from nanoflux_models.weights import pull

    return pull(name, home)


CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_base(folder: Path) -> Path:
    """Create a tiny base model with random weights in `folder`; it trains in a second. Returns `folder`."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special_tokens = ["<|im_start|>", "<|im_end|>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: token_id for token_id, token in enumerate([*special_tokens, *letters])}
    bpe_tokenizer = Tokenizer(models.BPE(vocabulary, []))
    bpe_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe_tokenizer.decoder = decoders.ByteLevel()
    bpe_tokenizer.add_special_tokens(special_tokens)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe_tokenizer, eos_token="<|im_end|>", pad_token="<|im_end|>")
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a base model that trains in a second."""
    return make_base(tmp_path_factory.mktemp("tiny_base"))


PLANTED_MODULES = (
    "types",
    "random",
    "tokenize",
    "nanoflux_local",
    "huggingface_hub",
    "accelerate",
    "pip",
    "torch",
    "textual",
)
"""Modules that Python, a library or this project imports. A file with the name of one of them in the working directory
must not be executed.
"""


@pytest.fixture(scope="module")
def hostile_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working directory with a Python file for each name in `PLANTED_MODULES`. After the last test of a test file,
    the fixture fails if any of these files was executed.
    """
    folder = tmp_path_factory.mktemp("working")
    executed = folder / "executed.txt"
    for name in PLANTED_MODULES:
        (folder / f"{name}.py").write_text(f"open({str(executed)!r}, 'a').write('{name} ')\nraise SystemExit(3)\n")
    yield folder
    assert not executed.exists(), f"executed from the working folder: {executed.read_text()}"


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    """Restore the umask after each test, since a command that runs in this process may change it."""
    mask = os.umask(0o022)  # the umask can only be read by setting it
    os.umask(mask)
    yield
    os.umask(mask)


class FakeServers:
    """Runs fake servers on an event loop in a separate thread. Calling an instance starts a server, and returns the
    server's URL and the server itself.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._servers: list[FakeServer] = []

    def __call__(self, chaos: Chaos | None = None, server: FakeServer | None = None) -> tuple[str, FakeServer]:
        if server is None:
            server = FakeServer(chaos)
        self._servers.append(server)
        return self._run(server.start()), server

    def stop(self, server: FakeServer) -> None:
        self._run(server.stop())

    def restart(self, server: FakeServer, url: str) -> None:
        """Restart a stopped server at its former URL."""
        self._run(server.start(urlsplit(url).port or 0))

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine on the event loop, and return its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    def close(self) -> None:
        for server in self._servers:
            self.stop(server)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.close()


@pytest.fixture
def fake_server() -> Iterator[FakeServers]:
    """A `FakeServers`: call it to start a server with the scripted models. All servers stop when the test ends."""
    servers = FakeServers()
    yield servers
    servers.close()


def encode_answer(code: int, body: Any) -> tuple[int, bytes]:
    """A status code and its body in bytes. A body that is not bytes is encoded as JSON."""
    return code, body if isinstance(body, bytes) else json.dumps(body).encode()


class _BatchHTTPServer(ThreadingHTTPServer):
    request_queue_size = 128  # with the default of 5, connections of a large batch are reset


class Server:
    """A server on a loopback port that records its requests. If `choose` is set, the server answers a request with
    `choose(body)`; otherwise, it sends the `answers` in order, and repeats the last one. An answer is a status code and
    a body.
    """

    def __init__(self) -> None:
        self.answers: list[tuple[int, bytes]] = [(200, b"{}")]
        self.choose: Callable[[dict[str, Any]], tuple[int, Any]] | None = None
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.content_type = "application/json"
        self.more_headers: dict[str, str] = {}
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.bodies.append(request)
                server.headers.append({key.lower(): value for key, value in self.headers.items()})
                server.paths.append(self.path)
                if server.choose is not None:
                    code, body = encode_answer(*server.choose(request))
                else:
                    code, body = server.answers.pop(0) if len(server.answers) > 1 else server.answers[0]
                self.send_response(code)
                self.send_header("Content-Type", server.content_type)
                self.send_header("Content-Length", str(len(body)))
                for name, value in server.more_headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                return

        self._http = _BatchHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, *answers: tuple[int, Any]) -> None:
        """Set the answers to the next requests."""
        self.answers = [encode_answer(code, body) for code, body in answers]

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture(scope="session")
def new_server() -> type[Server]:
    """The class `Server`, for module and session fixtures, which create and close a server themselves."""
    return Server


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A `Server`; requests to it bypass the proxies in the environment."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    running_server = Server()
    yield running_server
    running_server.close()
