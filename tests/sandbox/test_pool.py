"""The pool survives its programs and killed processes, leaks nothing, and ends with its caller."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from nanoflux_sandbox import Limits, Sandbox, SandboxError


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    """A started sandbox."""
    async with Sandbox() as sandbox:
        await sandbox.identity()
        yield sandbox


def _find_descendants(root: int) -> set[int]:
    """The process ids of all descendants of the process `root`, without zombies."""
    parent_by_pid: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent, *_ = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if state != "Z":
                parent_by_pid[int(entry.name)] = int(parent)
    descendants: set[int] = set()
    generation = {root}
    while generation:
        generation = {pid for pid, parent_pid in parent_by_pid.items() if parent_pid in generation}
        descendants |= generation
    return descendants


def _measure_resident_mb(pids: set[int]) -> float:
    """The total resident memory of the processes, in MiB."""
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _get_fork_server_pid(sandbox: Sandbox) -> int:
    """The process id of the running fork server."""
    assert sandbox.fork_server_pid is not None
    return sandbox.fork_server_pid


async def test_sixty_four_concurrent_programs_give_correct_results() -> None:
    async with Sandbox(workers=8) as sandbox:
        code_for_number = "import sympy\nx = sympy.symbols('x')\nprint(sympy.solve(x - {0}), sum(range({0})))"
        programs = [code_for_number.format(n) for n in range(64)]
        results = await asyncio.gather(*(sandbox.run(program, Limits(wall_s=30.0)) for program in programs))
    assert [result.stdout for result in results] == [f"[{n}] {n * (n - 1) // 2}\n" for n in range(64)]


async def test_pool_runs_at_most_one_program_per_worker() -> None:
    async with Sandbox(workers=2, spares=0) as sandbox:
        await sandbox.identity()
        all_runs = asyncio.gather(*(sandbox.run("import time\ntime.sleep(0.5)") for _ in range(6)))
        max_processes = 0
        while not all_runs.done():
            max_processes = max(max_processes, len(_find_descendants(_get_fork_server_pid(sandbox))))
            await asyncio.sleep(0.05)
        await all_runs
    assert 1 <= max_processes <= 3  # two programs, and the fork server below `fork_server_pid`


async def test_thousand_programs_leak_nothing() -> None:
    async with Sandbox(workers=2) as sandbox:
        for n in range(50):
            await sandbox.run(f"print({n})")
        await asyncio.sleep(0.3)
        resources_before = _measure_resources()
        for n in range(1000):
            result = await sandbox.run(f"x = bytearray(1 << 20)\nprint({n})")
            assert result.stdout == f"{n}\n"
        await asyncio.sleep(0.3)
        resources_after = _measure_resources()
    for name in ("descriptors", "most descriptors of a process", "mounts"):
        assert resources_after[name] == resources_before[name], name
    assert resources_after["processes"] <= resources_before["processes"]
    assert resources_after["memory"] < resources_before["memory"] + 8


def _count_open_files(pid: int) -> int:
    """The number of descriptors of a process."""
    try:
        return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:  # an ordinary user may not read the descriptors of the fork server
        return 0


def _measure_resources() -> dict[str, float]:
    """The resources in use by this process and the processes of the sandbox; memory is in MiB."""
    descendants = _find_descendants(os.getpid())
    descriptor_counts = [_count_open_files(pid) for pid in descendants]
    return {
        "descriptors": _count_open_files(os.getpid()),
        "most descriptors of a process": max(descriptor_counts, default=0),
        "mounts": len(Path("/proc/self/mountinfo").read_text().splitlines()),
        "processes": len(descendants),
        "memory": _measure_resident_mb({os.getpid(), *descendants}),
    }


async def test_dead_fork_server_is_replaced(sandbox: Sandbox) -> None:
    old_pid = _get_fork_server_pid(sandbox)
    os.kill(old_pid, signal.SIGKILL)
    result = await sandbox.run("print('again')")
    assert (result.status, result.stdout) == ("ok", "again\n")
    assert _get_fork_server_pid(sandbox) != old_pid


async def test_program_is_retried_after_its_fork_server_died(sandbox: Sandbox) -> None:
    run = asyncio.create_task(sandbox.run("import time\ntime.sleep(0.5)\nprint('done')", Limits(wall_s=20.0)))
    await asyncio.sleep(0.2)
    os.kill(_get_fork_server_pid(sandbox), signal.SIGKILL)
    result = await run
    assert (result.status, result.stdout) == ("ok", "done\n")


def _suspend_fork_server(sandbox: Sandbox) -> None:
    """Suspend the fork server with all its children, so that it handles no request and kills no child."""
    for pid in (_get_fork_server_pid(sandbox), *_find_descendants(_get_fork_server_pid(sandbox))):
        os.kill(pid, signal.SIGSTOP)


async def test_program_of_a_stalled_fork_server_times_out(sandbox: Sandbox) -> None:
    run = asyncio.create_task(sandbox.run("import time\ntime.sleep(60)", Limits(wall_s=1.0)))
    await asyncio.sleep(0.5)
    _suspend_fork_server(sandbox)
    result = await run
    assert result.status == "timeout"
    assert result.wall_s < 2.0
    assert (await sandbox.run("print('again')")).stdout == "again\n"


async def test_stalled_fork_server_is_replaced_for_the_next_program(sandbox: Sandbox) -> None:
    await sandbox.run("print('leaves a spare')")
    _suspend_fork_server(sandbox)
    result = await sandbox.run("print('ran')", Limits(wall_s=1.0))
    assert (result.status, result.stdout) == ("ok", "ran\n")


async def test_cancelled_run_ends_its_program(sandbox: Sandbox) -> None:
    await sandbox.run("print(1)")
    run = asyncio.create_task(sandbox.run("while True: pass", Limits(wall_s=60.0)))
    await asyncio.sleep(0.3)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert (await sandbox.run("print(2)")).stdout == "2\n"
    await asyncio.sleep(0.3)
    running_pids = [pid for pid in _find_descendants(os.getpid()) if _is_running(pid)]
    assert running_pids == []


def _is_running(pid: int) -> bool:
    return _read_process_state(pid) == "R"


def _read_process_state(pid: int) -> str:
    """The state of a process, as in proc(5): for example, R for running or Z for a zombie."""
    fields_after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return fields_after_name[0]


@pytest.mark.parametrize("delay_s", [0.0, 3.0])
async def test_close_ends_every_process_and_is_idempotent(delay_s: float) -> None:
    pids_before = _find_descendants(os.getpid())
    sandbox = Sandbox()
    run = asyncio.create_task(sandbox.run("while True: pass", Limits(wall_s=60.0)))
    while not _find_descendants(os.getpid()) - pids_before:
        await asyncio.sleep(0.05)
    await asyncio.sleep(delay_s)
    await sandbox.close()
    await sandbox.close()
    result = await run
    assert (result.status, result.detail) == ("unavailable", "the sandbox was closed")
    assert await _find_survivors(pids_before) == set()


async def _find_survivors(pids_before: set[int]) -> set[int]:
    """The descendants of this process, except `pids_before`, that do not end within five seconds."""
    for _ in range(50):
        survivors = _find_descendants(os.getpid()) - pids_before
        if not survivors:
            break
        await asyncio.sleep(0.1)
    return survivors


async def test_closed_sandbox_starts_again() -> None:
    sandbox = Sandbox()
    assert (await sandbox.run("print(1)")).stdout == "1\n"
    await sandbox.close()
    assert (await sandbox.run("print(2)")).stdout == "2\n"
    await sandbox.close()


def test_sandbox_rejects_a_second_event_loop() -> None:
    async def use_in_two_loops() -> None:
        async with Sandbox() as sandbox:
            await sandbox.identity()
            await asyncio.to_thread(asyncio.run, sandbox.run("print(1)"))

    with pytest.raises(RuntimeError, match="event loop"):
        asyncio.run(use_in_two_loops())


# A caller of the sandbox, which runs two programs that no signal except SIGKILL can end.
_CALLER = """
import asyncio, sys
from nanoflux_sandbox import Limits, Sandbox

async def main():
    sandbox = Sandbox(workers=2, backend=sys.argv[1])
    await sandbox.identity()
    program = "import signal\\nsignal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\\nwhile True: pass"
    runs = [asyncio.create_task(sandbox.run(program, Limits(wall_s=60.0))) for _ in range(2)]
    await asyncio.sleep(0.3)
    print("running", flush=True)
    await asyncio.gather(*runs)

asyncio.run(main())
"""


@pytest.mark.parametrize("tier", ["linux:namespaces+landlock+seccomp", "linux:landlock+seccomp"])
@pytest.mark.parametrize("stalled", [False, True])
def test_processes_end_when_their_caller_is_killed(tier: str, stalled: bool) -> None:
    caller = subprocess.Popen([sys.executable, "-c", _CALLER, tier], stdout=subprocess.PIPE, text=True)
    assert caller.stdout is not None
    assert caller.stdout.readline() == "running\n"
    descendants = _find_descendants(caller.pid)
    assert len(descendants) >= 3
    if stalled:
        for pid in descendants:
            os.kill(pid, signal.SIGSTOP)
    caller.kill()
    caller.wait()
    time.sleep(1.0)
    assert {pid for pid in descendants if _is_alive(pid)} == set()


def _is_alive(pid: int) -> bool:
    try:
        return _read_process_state(pid) != "Z"
    except OSError:
        return False


def test_import_loads_no_large_library() -> None:
    code = "import sys, nanoflux_sandbox\nprint([m for m in ('numpy', 'sympy', 'ctypes') if m in sys.modules])"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout == "[]\n"


@pytest.mark.parametrize("invalid_settings", [{"backend": "none"}, {"backend": "linux:landlock"}, {"workers": 0}])
def test_invalid_setting_is_rejected(invalid_settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"backend|worker"):
        Sandbox(**invalid_settings)  # type: ignore[arg-type]


def test_sandbox_error_carries_its_fix_and_exit_code() -> None:
    error = SandboxError("no layer works", "use a newer kernel")
    assert (error.message, error.fix, error.exit_code) == ("no layer works", "use a newer kernel", 3)
    assert "newer kernel" in str(error)
