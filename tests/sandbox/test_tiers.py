"""Without user namespaces, the second tier is used; without Landlock, no program runs unless a weaker tier is named."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nanoflux_sandbox import Limits, Sandbox, SandboxError, fork_server_handle, probe, selftest
from nanoflux_sandbox.kernel import seccomp, syscalls

_SUITE = Path(__file__).parent / "sandbox_suite"
_BECOME = str(_SUITE / "become.py")


def _run_as(role: str, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Run `python -m nanoflux_sandbox` in one of the roles of `become.py`. Returns its exit code and JSON document."""
    command = [sys.executable, _BECOME, role, sys.executable, "-m", "nanoflux_sandbox", *arguments, "--json"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert process.stdout, process.stderr
    return process.returncode, json.loads(process.stdout)


@pytest.mark.parametrize("role", ["root", "ordinary"])
def test_strongest_tier_works_as_root_and_as_an_ordinary_user(role: str) -> None:
    exit_code, report = _run_as(role, "check")
    assert (exit_code, report["backend"], report["safe"]) == (0, "linux:namespaces+landlock+seccomp", True), report
    assert report["layers"] == {"namespaces": True, "landlock": True, "seccomp": True}
    assert report["cases"]["failed"] == 0
    assert report["cases"]["run"] >= 30


def test_second_tier_is_used_and_reported_without_user_namespaces() -> None:
    exit_code, report = _run_as("no-userns", "check")
    assert (exit_code, report["backend"], report["safe"]) == (0, "linux:landlock+seccomp", True), report
    assert report["layers"]["namespaces"] is False
    assert any("namespaces" in reason for reason in report["reasons"])


def test_program_does_not_run_without_landlock(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("print('ran')")
    exit_code, result = _run_as("no-landlock", "run", str(tmp_path / "program.py"))
    assert (exit_code, result["status"], result["stdout"]) == (3, "unavailable", "")
    assert "landlock" in result["stderr"]


def test_check_without_landlock_fails_and_names_the_layer() -> None:
    exit_code, report = _run_as("no-landlock", "check")
    assert (exit_code, report["safe"], report["backend"]) == (3, False, "none")
    assert report["layers"] == {"namespaces": True, "landlock": False, "seccomp": True}
    assert report["reasons"]


def test_weaker_tier_runs_programs_if_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("print('ran')")
    exit_code, result = _run_as(
        "no-landlock", "run", str(tmp_path / "program.py"), "--backend", "linux:namespaces+seccomp"
    )
    assert (exit_code, result["status"], result["stdout"]) == (0, "ok", "ran\n")
    assert result["backend"] == "linux:namespaces+seccomp"


def test_named_tier_is_never_replaced_by_a_weaker_one(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("print('ran')")
    strongest_tier = "linux:namespaces+landlock+seccomp"
    exit_code, result = _run_as("no-userns", "run", str(tmp_path / "program.py"), "--backend", strongest_tier)
    assert (exit_code, result["status"]) == (3, "unavailable")


@pytest.mark.parametrize("backend", ["linux:seccomp", "linux:namespaces+seccomp"])
async def test_result_names_its_tier(backend: str) -> None:
    async with Sandbox(backend=backend) as sandbox:
        result = await sandbox.run("open('/etc/passwd')")
    assert (result.status, result.backend) == ("error", backend)


async def test_unavailable_sandbox_reports_why_and_has_no_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    sandbox = Sandbox()
    result = await sandbox.run("print(1)")
    assert (result.status, result.stdout, result.backend) == ("unavailable", "", "none")
    with pytest.raises(SandboxError, match="darwin"):
        await sandbox.identity()
    await sandbox.close()


async def test_slow_start_is_reported_as_untested(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fork server that starts too slowly is refused, but the error does not say that a layer is missing."""
    monkeypatch.setattr(fork_server_handle, "START_S", 0.001)
    async with Sandbox() as sandbox:
        assert (await sandbox.run("print(1)")).status == "unavailable"
        with pytest.raises(SandboxError, match=r"could not be tested: .* took longer than 0 s") as error:
            await sandbox.identity()
    assert (error.value.fix, error.value.exit_code) == ("the machine may be busy; try again", 3)
    report = probe()
    assert (report.timed_out, report.safe, report.backend) == (True, False, "none")


async def test_slow_self_test_is_reported_as_untested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "_FORBIDDEN_CALLS_PROGRAM", "while True: pass")
    monkeypatch.setattr(selftest, "_LIMITS", Limits(wall_s=0.2))
    async with Sandbox() as sandbox:
        with pytest.raises(SandboxError, match=r"could not be tested: .*a program of the self-test took longer"):
            await sandbox.identity()


def test_probe_reports_the_tier_that_the_sandbox_uses() -> None:
    report = probe()
    assert report.safe
    assert report.backend == "linux:namespaces+landlock+seccomp"
    assert report.reasons == []


@pytest.mark.parametrize("machine", ["riscv64", "i686", "ppc64le"])
def test_compile_filter_refuses_other_architectures(machine: str) -> None:
    with pytest.raises(OSError, match=machine):
        seccomp.compile_filter(machine)


class _FilterInterpreter:
    """Interprets a seccomp filter as the kernel does, so that the tests can check each of its decisions."""

    def __init__(self, program: bytes) -> None:
        import struct

        self.instructions = [struct.unpack_from("=HBBI", program, offset) for offset in range(0, len(program), 8)]

    def filter(self, architecture: int, number: int, *arguments: int) -> int:
        """The filter's return value for the system call `number` with `arguments`."""
        word_by_offset = {0: number, 4: architecture}  # the content of `struct seccomp_data`
        for index, argument in enumerate(arguments):
            word_by_offset[16 + 8 * index] = argument & 0xFFFFFFFF
        position, accumulator = 0, 0
        while True:
            code, if_true, if_false, value = self.instructions[position]
            position += 1
            if code == 0x20:
                accumulator = word_by_offset.get(value, 0)
            elif code == 0x54:
                accumulator &= value
            elif code == 0x06:
                return value
            else:
                is_true = accumulator == value if code == 0x15 else accumulator >= value
                position += if_true if is_true else if_false


_ALLOW, _KILL, _EPERM = 0x7FFF0000, 0x80000000, 0x00050001


@pytest.mark.parametrize(("machine", "column"), [("x86_64", 0), ("aarch64", 1)])
def test_filter_allows_only_the_calls_of_its_table(machine: str, column: int) -> None:
    kernel = _FilterInterpreter(seccomp.compile_filter(machine))
    architecture = syscalls.ARCHITECTURES[machine]
    allowed = {numbers[column] for numbers in syscalls.ALLOWED.values()}
    deadly = {numbers[column] for numbers in syscalls.DEADLY.values()}
    tested_elsewhere = {
        numbers[column] for numbers in (*syscalls.CONDITIONAL.values(), *syscalls.EXPECTED_ERROR.values())
    }
    for number in range(600):
        if number in allowed:
            expected = _ALLOW
        elif number in deadly:
            expected = _KILL
        else:
            expected = _EPERM
        if number not in tested_elsewhere:
            assert kernel.filter(architecture, number) == expected, number
    i386, arm = 0x40000003, 0x40000028
    other_architectures = (set(syscalls.ARCHITECTURES.values()) - {architecture}) | {i386, arm}
    for other_architecture in other_architectures:
        assert {kernel.filter(other_architecture, number) for number in range(600)} == {_KILL}
    assert len(allowed) < 50


def test_filter_checks_arguments() -> None:
    kernel = _FilterInterpreter(seccomp.compile_filter("x86_64"))
    read, write, mmap, mprotect, futex, x32 = 0, 1, 9, 10, 202, 0x40000000
    x64 = syscalls.ARCHITECTURES["x86_64"]

    def is_allowed(*call: int) -> bool:
        return kernel.filter(x64, *call) == _ALLOW

    assert [descriptor for descriptor in range(5) if is_allowed(read, descriptor)] == [0]
    assert [descriptor for descriptor in range(5) if is_allowed(write, descriptor)] == [1, 2]
    assert [protection for protection in range(8) if is_allowed(mmap, 0, 4096, protection, 0x22)] == [0, 1, 2, 3]
    assert [protection for protection in range(8) if is_allowed(mprotect, 0, 4096, protection)] == [0, 1, 2, 3]
    flags_with_huge_pages = 0x40022
    assert kernel.filter(x64, mmap, 0, 4096, 3, flags_with_huge_pages) == _EPERM
    futex_operations = (0, 1, 128, 129, 6, 12, 128 + 11)
    assert [operation for operation in futex_operations if is_allowed(futex, 0, operation)] == [0, 1, 128, 129]
    assert kernel.filter(x64, x32 + read, 0) == _KILL
