"""The supervisor starts, stops and restarts a stand-in for vLLM, explains its exits, and signals no other process."""

import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nanoflux_local.adapters.hash import CONFIG, WEIGHTS, adapter_hash
from nanoflux_local.endpoints.managed.fleet import MAX_RESTARTS, Fleet
from nanoflux_local.endpoints.managed.vllm import VllmEndpoint
from nanoflux_local.endpoints.managed.waves import take_turns
from nanoflux_local.errors import EndpointError, RefusedError
from nanoflux_local.records import ChatRequest, Message
from nanoflux_models import server_record
from nanoflux_models.errors import ServerError, ServerRefusedError
from nanoflux_models.interpreter import find_interpreter
from nanoflux_models.launch import Launch
from nanoflux_models.manifest import load_manifest
from nanoflux_models.processes import Process, boot_id, find_process
from nanoflux_models.sentinel import choose_sentinel
from nanoflux_models.server_client import ServerClient
from nanoflux_models.server_record import ServerRecord
from nanoflux_models.supervisor import Supervisor, find_free_port, list_server_processes

STAND_IN = Path(__file__).parent / "stand_in"
"""The folder of the stand-in for vLLM."""
Launcher = Callable[..., Launch]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home directory. Servers still recorded in it are stopped after the test."""
    folder = tmp_path / "home"
    folder.mkdir()
    yield folder
    for record in server_record.read_records(folder):
        Supervisor(folder).stop(record, grace_s=1.0)


@pytest.fixture
def launcher(tmp_path: Path, home: Path) -> Launcher:
    """A function that makes launches of the stand-in. Each launch has its own interpreter, a shell script that sets the
    stand-in's behaviour.
    """

    def make_launch(behaviour: str = "echo", sleep_mode: bool = False) -> Launch:
        existing_count = len(list(tmp_path.glob("bin/*")))
        python = tmp_path / "bin" / f"python-{existing_count}"
        python.parent.mkdir(exist_ok=True)
        setting = f"export PYTHONPATH='{STAND_IN}' STAND_IN='{behaviour}'"
        python.write_text(f"#!/bin/sh\n{setting}\ncd '{tmp_path}' && exec '{sys.executable}' \"$@\"\n")
        python.chmod(0o700)
        interpreter = find_interpreter(str(python))
        return Launch(load_manifest("smollm2-135m", home), "r1", tmp_path, interpreter, sleeps=sleep_mode)

    return make_launch


def start_server(home: Path, launch: Launch, name: str = "m", tethered: bool = True) -> ServerRecord:
    """Start a server, and wait until it is ready. If it is `tethered`, the kernel ends it with this process."""
    supervisor = Supervisor(home)
    started_server = supervisor.spawn(launch, name, tethered=tethered)
    supervisor.await_ready(started_server, ready_s=60)
    return started_server.record


def wait_until_gone(processes: list[Process], seconds: float = 30) -> bool:
    """Wait until the processes have ended; return whether they ended in time."""
    deadline = time.monotonic() + seconds
    while any(process.alive for process in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def is_free(port: int) -> bool:
    """Whether nothing listens on a loopback port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_supervisor_records_a_server_privately_and_stops_all_its_processes(
    home: Path, launcher: Launcher, hostile_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the server nor the program that starts it imports modules from the working directory."""
    monkeypatch.chdir(hostile_folder)
    record = start_server(home, launcher())
    assert record.alive and record.should_run and record.boot == boot_id()
    assert stat.S_IMODE((home / "servers/m.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(Path(record.log).stat().st_mode) == 0o600
    assert os.getpgid(record.pid) == os.getsid(record.pid) == record.pid, (
        "the server does not run in a separate session"
    )
    assert os.getpgid(record.pid) != os.getpgid(0)
    processes = list_server_processes(record)
    assert len(processes) == 2, "expected the server and its worker"
    with pytest.raises(ServerRefusedError):
        start_server(home, launcher())
    Supervisor(home).stop(record)
    assert wait_until_gone(processes, 0.5) and is_free(record.port) and server_record.read_records(home) == []


def test_early_exit_is_explained_and_leaves_no_record(home: Path, launcher: Launcher) -> None:
    with pytest.raises(ServerError) as error:
        start_server(home, launcher("fail: torch.OutOfMemoryError: CUDA out of memory"))
    message = str(error.value)
    assert "out of memory" in message and "an earlier line" in message and "exit code 1" in message
    assert "--gpu-memory" in message and str(home / "logs/server-m.log") in message
    assert server_record.read_records(home) == []


def test_server_that_never_answers_is_stopped(home: Path, launcher: Launcher) -> None:
    supervisor = Supervisor(home)
    started_server = supervisor.spawn(launcher("unhealthy"), "m")
    with pytest.raises(ServerError, match="did not answer within 2 s"):
        supervisor.await_ready(started_server, ready_s=2)
    assert wait_until_gone([started_server.record.process], 0.5) and list_server_processes(started_server.record) == []


def test_server_that_crashes_on_its_first_request_is_not_reported_as_ready(home: Path, launcher: Launcher) -> None:
    cause = "AttributeError: module 'triton.language' has no attribute 'bfloat16'"
    with pytest.raises(ServerError, match="answered its health check but no request") as error:
        start_server(home, launcher(f"crash: {cause}".replace("'", "'\\''")))
    assert "mixture of experts" in str(error.value) and "omit --adapter" in str(error.value)
    assert server_record.read_records(home) == []


def test_port_in_use_is_refused_before_the_server_starts(home: Path, launcher: Launcher) -> None:
    with socket.socket() as occupied_socket:
        occupied_socket.bind(("127.0.0.1", 0))
        occupied_socket.listen()
        port = occupied_socket.getsockname()[1]
        with pytest.raises(ServerError, match=f"port {port} is in use"):
            Supervisor(home).spawn(launcher(), "m", port)
    assert server_record.read_records(home) == [] and find_free_port(port) == port


# The program of a process that starts a server and then waits.
OWNER_PROGRAM = """
import sys, time
from pathlib import Path
sys.path.insert(0, {folder!r})
from test_supervisor import Launch, find_interpreter, load_manifest, start_server
home = Path({home!r})
start_server(home, Launch(load_manifest("smollm2-135m", home), "r1", home, find_interpreter({python!r})),
             tethered={tethered})
print("ready", flush=True)
time.sleep(600)
"""


def start_owner(home: Path, launch: Launch, tethered: bool) -> subprocess.Popen[str]:
    """Start a process that starts a server and then waits. A `tethered` server ends with that process; any other server
    runs until the next sweep, which stops it because its owner is gone.
    """
    code = OWNER_PROGRAM.format(
        folder=str(Path(__file__).parent), home=str(home), python=str(launch.interpreter.path), tethered=tethered
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    return child


@pytest.mark.parametrize("tethered", [True, False])
def test_sweep_stops_the_servers_of_killed_processes_and_no_other_process(
    home: Path, launcher: Launcher, tethered: bool
) -> None:
    unrelated_process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    try:
        owner = start_owner(home, launcher(), tethered)
        record = server_record.read_records(home)[0]
        processes = list_server_processes(record)
        worker = next(process for process in processes if process != record.process)
        owner.kill()
        owner.wait()
        if tethered:
            assert wait_until_gone([record.process]), "a tethered server did not end with its owner"
        else:
            assert record.alive, "an untethered server ended before the sweep"
        assert worker.alive, "the worker ended too, so the test shows nothing about workers that remain"

        list_command = subprocess.run(
            [sys.executable, "-m", "nanoflux_local.cli", "--home", str(home), "models", "ps", "--json"],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert json.loads(list_command.stdout) == []
        assert "ended leftover processes of the server m" in list_command.stderr
        assert wait_until_gone(processes, 0.5) and is_free(record.port) and server_record.read_records(home) == []
        assert unrelated_process.poll() is None
    finally:
        unrelated_process.kill()
        unrelated_process.wait()


def test_sweep_does_not_signal_a_process_with_a_reused_pid(home: Path) -> None:
    unrelated_process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    try:
        live_process = find_process(unrelated_process.pid)
        assert live_process is not None
        fields = {"model": "m", "revision": "", "variant": "", "url": "http://127.0.0.1:9/v1", "port": 9, "mark": "x",
                 "owner": None, "log": "", "context": 1}  # fmt: skip
        # Each record has the pid of a running process that is not the recorded server.
        for name, pid, started, boot in (
            ("other-start-time", live_process.pid, live_process.start_ticks - 1, boot_id()),
            ("other-boot", live_process.pid, live_process.start_ticks, "another boot"),
            ("init", 1, 0, boot_id()),
        ):
            record = {"name": name, "pid": pid, "started": started, "boot": boot, **fields}
            server_record.write_record(home, ServerRecord.model_validate(record))
        assert len(Supervisor(home).sweep()) == 3 and server_record.read_records(home) == []
        assert unrelated_process.poll() is None and not Process(1, 0).send_signal(signal.SIGKILL)
    finally:
        unrelated_process.kill()
        unrelated_process.wait()


def make_request(endpoint: VllmEndpoint, text: str) -> ChatRequest:
    """A request with `text` as the user's message. If the text contains "die", the stand-in crashes once."""
    return ChatRequest(endpoint.identity, (Message("system", "be brief"), Message("user", text)))


async def test_endpoints_of_one_model_share_a_server_that_is_restarted_after_a_crash(
    home: Path, launcher: Launcher
) -> None:
    fleet, launch = Fleet(home), launcher()
    first_endpoint, second_endpoint = VllmEndpoint(fleet.server(launch)), VllmEndpoint(fleet.server(launch))
    assert first_endpoint.identity.interface == "vllm" and "stand-in" in first_endpoint.identity.variant
    assert server_record.read_records(home) == [], "a server was started before the first request"
    try:
        first_text = (await first_endpoint.chat(make_request(first_endpoint, "hello"))).text
        record_before = server_record.read_records(home)[0]
        replies = await asyncio.gather(
            *(endpoint.chat(make_request(endpoint, "now die")) for endpoint in (first_endpoint, second_endpoint))
        )
        assert replies[0].text == replies[1].text and replies[0].text != first_text
        records_after = server_record.read_records(home)
        assert len(records_after) == 1 and records_after[0].pid != record_before.pid and not record_before.alive
        assert (await second_endpoint.chat(make_request(second_endpoint, "hello"))).text == first_text
        assert fleet.server(launch).restarts == 1

        for _ in range(MAX_RESTARTS - 1):
            os.kill(server_record.read_records(home)[0].pid, signal.SIGKILL)
            assert (await first_endpoint.chat(make_request(first_endpoint, "hello"))).text == first_text
        os.kill(server_record.read_records(home)[0].pid, signal.SIGKILL)
        with pytest.raises(EndpointError, match="exited while it was in use"):
            await first_endpoint.chat(make_request(first_endpoint, "hello"))
    finally:
        await first_endpoint.close()
        await second_endpoint.close()
    assert server_record.read_records(home) == []


async def test_servers_on_a_shared_gpu_take_turns_sleeping(home: Path, launcher: Launcher) -> None:
    fleet = Fleet(home)
    launches = {name: launcher(sleep_mode=True) for name in ("a", "b")}
    inner_endpoints = {name: VllmEndpoint(fleet.server(launch)) for name, launch in launches.items()}
    assert "--enable-sleep-mode" in launches["a"].build_command(1)
    # A fleet distinguishes servers by their models' names, so the second server needs a manifest with another name.
    manifest = launches["b"].manifest.model_copy(update={"name": "other"})
    other_launch = Launch(manifest, "r1", home, launches["b"].interpreter, sleeps=True)
    inner_endpoints["b"] = VllmEndpoint(fleet.server(other_launch))
    endpoints = take_turns(inner_endpoints, {"a": "gpu0", "b": "gpu0"}, linger_s=0.01)
    try:
        requests = [
            endpoints[name].chat(make_request(inner_endpoints[name], str(number)))
            for number in range(4)
            for name in ("a", "b")
        ]
        assert all(reply.text for reply in await asyncio.gather(*requests)), "a sleeping server was sent a request"
    finally:
        for endpoint in endpoints.values():
            await endpoint.close()
    assert server_record.read_records(home) == []


def write_fake_adapter(folder: Path) -> Path:
    """Write a folder with the files of an adapter; the stand-in does not read them."""
    folder.mkdir()
    (folder / CONFIG).write_text('{"r": 8}')
    (folder / WEIGHTS).write_bytes(b"weights")
    return folder


async def make_woken_endpoint(home: Path, launch: Launch, adapter: Path) -> VllmEndpoint:
    """An endpoint whose adapter is loaded and recorded as probed, and whose server has slept and woken up again."""
    server = Fleet(home).server(launch)
    await server.ensure_running()
    server.record_passed_probe(adapter_hash(adapter))
    endpoint = VllmEndpoint(server, adapter)
    await endpoint.chat(make_request(endpoint, "hello"))
    await endpoint.sleep()
    await endpoint.wake()
    return endpoint


@pytest.mark.parametrize("behaviour", ["echo", "drop-adapters"])
async def test_adapter_dropped_by_a_sleep_is_loaded_again(
    behaviour: str, home: Path, launcher: Launcher, tmp_path: Path
) -> None:
    adapter = write_fake_adapter(tmp_path / "adapter")
    endpoint = await make_woken_endpoint(home, replace(launcher(behaviour, sleep_mode=True), rank=16), adapter)
    try:
        record = server_record.read_records(home)[0]
        sentinel = choose_sentinel(ServerClient(record.url), record.model, adapter_hash(adapter))
        assert abs(sentinel.tuned - sentinel.base) == 0.5, "the adapter has no effect after the sleep"
    finally:
        await endpoint.close()


async def test_adapter_without_effect_after_a_wake_is_refused(home: Path, launcher: Launcher, tmp_path: Path) -> None:
    launch = replace(launcher("disable-adapters", sleep_mode=True), rank=16)
    adapter = write_fake_adapter(tmp_path / "adapter")
    with pytest.raises(RefusedError, match=r"no longer applies after its server has slept"):
        await make_woken_endpoint(home, launch, adapter)
    for record in server_record.read_records(home):
        Supervisor(home).stop(record)


def test_sleep_level_two_is_refused_for_servers_with_adapters(home: Path, launcher: Launcher) -> None:
    client = ServerClient(start_server(home, launcher(sleep_mode=True)).url)
    with pytest.raises(ServerError, match="would lose the adapters"):
        client.sleep(level=2)
    assert not client.is_asleep()
    client.sleep(level=2, accepts_adapters=False)
    assert client.is_asleep()


async def test_batch_invariance_is_checked_before_the_first_request(home: Path, launcher: Launcher) -> None:
    """The stand-in's replies do not depend on the batch, so it passes the check, and its endpoint is repeatable."""
    plain_launch, invariant_launch = launcher(), replace(launcher(), batch_invariant=True)
    assert plain_launch.build_environment("m")["VLLM_BATCH_INVARIANT"] != "1"
    assert invariant_launch.build_environment("m")["VLLM_BATCH_INVARIANT"] == "1"
    assert invariant_launch.variant == f"{plain_launch.variant} batch-invariant"
    endpoint = VllmEndpoint(Fleet(home).server(invariant_launch))
    assert endpoint.repeatable and not VllmEndpoint(Fleet(home).server(plain_launch)).repeatable
    try:
        await endpoint.chat(make_request(endpoint, "hello"))
        assert server_record.read_records(home)[0].batch_proved
    finally:
        await endpoint.close()


async def test_server_with_batch_dependent_replies_is_refused(home: Path, launcher: Launcher) -> None:
    endpoint = VllmEndpoint(Fleet(home).server(replace(launcher("batch-dependent"), batch_invariant=True)))
    try:
        with pytest.raises(RefusedError, match=r"not batch invariant: 12 requests"):
            await endpoint.chat(make_request(endpoint, "hello"))
    finally:
        await endpoint.close()
