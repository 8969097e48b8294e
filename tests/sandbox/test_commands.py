"""The commands of the sandbox as scripts use them: JSON with the promised keys, and exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nanoflux_sandbox import SandboxError, commands


def _run_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m nanoflux_sandbox` with `arguments`."""
    return subprocess.run(
        [sys.executable, "-m", "nanoflux_sandbox", *arguments], capture_output=True, text=True, timeout=120
    )


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """The path of a program, which each test writes."""
    return tmp_path / "program.py"


def test_run_prints_one_json_document(program: Path) -> None:
    program.write_text("import numpy\nprint(numpy.arange(3))")
    process = _run_command("run", str(program), "--json")
    document = json.loads(process.stdout)
    assert process.returncode == 0
    promised_keys = {"status", "exit_code", "stdout", "stderr", "truncated", "wall_s", "backend"}
    assert promised_keys <= set(document)
    assert (document["status"], document["exit_code"], document["stdout"]) == ("ok", 0, "[0 1 2]\n")


def test_run_of_a_failing_program_prints_its_output_and_exits_with_1(program: Path) -> None:
    program.write_text("print('before')\n1 / 0")
    process = _run_command("run", str(program))
    assert (process.returncode, process.stdout) == (1, "before\n")
    assert "ZeroDivisionError" in process.stderr


def test_run_applies_the_wall_option(program: Path) -> None:
    program.write_text("while True: pass")
    process = _run_command("run", str(program), "--wall", "0.3", "--json")
    assert (process.returncode, json.loads(process.stdout)["status"]) == (1, "timeout")


def test_run_of_a_missing_file_exits_with_2(program: Path) -> None:
    process = _run_command("run", str(program), "--json")
    assert (process.returncode, process.stdout) == (2, "")
    assert "cannot read" in process.stderr


@pytest.mark.parametrize("settings", [{"wall_s": -1.0}, {"backend": "docker"}])
def test_invalid_setting_raises_an_error_with_exit_code_2(program: Path, settings: dict[str, object]) -> None:
    program.write_text("print(1)")
    with pytest.raises(SandboxError) as error:
        commands.run_file(program, **settings)  # type: ignore[arg-type]
    assert error.value.exit_code == 2


def test_program_that_is_not_utf_8_has_the_status_error(program: Path) -> None:
    program.write_bytes(b"print('\xff')")
    outcome = commands.run_file(program)
    assert (outcome["status"], commands.exit_code(outcome)) == ("error", 1)


def test_bench_reports_times_and_whether_they_meet_the_bounds() -> None:
    process = _run_command("bench", "--calls", "20", "--json")
    document = json.loads(process.stdout)
    assert process.returncode == 0
    assert document["unit"] == "ms"
    assert document["cold_start"] > 0
    for series in ("overhead", "spare_waiting", "two_at_once", "solve"):
        assert document[series]["calls"] == 20
        assert 0 < document[series]["p50"] <= document[series]["p99"] <= document[series]["max"]
        assert isinstance(document["met"][series], bool)


async def test_run_file_works_inside_a_running_event_loop(program: Path) -> None:
    program.write_text("print('from within')")
    assert commands.run_file(program)["stdout"] == "from within\n"
