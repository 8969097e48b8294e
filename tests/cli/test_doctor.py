"""`nanoflux doctor`: one line for each check, a fix for each problem, exit code 1 on a problem; it changes nothing."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from nanoflux_local import packages
from nanoflux_local.doctor import home_directory, machine, safety, software
from nanoflux_local.doctor.check import MachineCheck
from nanoflux_local.paths import Home
from nanoflux_models.offline import SETTINGS
from nanoflux_sandbox import fork_server_handle

CHECK_NAMES = [
    "processors", "memory", "gpus", "python", "torch", "vllm", "versions", "home", "disk", "ledger", "weights",
    "sandbox", "guard", "ports",
]  # fmt: skip
PROJECT = Path(__file__).parents[2]


def install_nvidia_smi(folder: Path, script: str) -> str:
    """Write a shell script as `nvidia-smi` into a folder; return a PATH on which it is found first."""
    folder.mkdir(exist_ok=True)
    path = folder / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def find_check(result: Any, name: str) -> dict[str, Any]:
    """The check with this name in the output of `doctor --json`."""
    (matching_check,) = [check for check in result.json["checks"] if check["name"] == name]
    return dict(matching_check)


def test_doctor_prints_every_check_and_creates_no_home(nanoflux: Callable[..., Any], tmp_path: Path) -> None:
    result = nanoflux(tmp_path / "home", "doctor", "--json")
    assert list(result.json) == ["ok", "checks"]
    assert [check["name"] for check in result.json["checks"]] == CHECK_NAMES
    assert all(list(check) == ["name", "ok", "found", "fix"] for check in result.json["checks"])
    assert result.json["ok"] is all(check["ok"] for check in result.json["checks"])
    assert result.code == (0 if result.json["ok"] else 1)
    assert find_check(result, "weights")["fix"].startswith("run `nanoflux models pull")
    assert not (tmp_path / "home").exists()
    lines = nanoflux(tmp_path / "home", "doctor").out.splitlines()
    assert [line.split()[1] for line in lines] == CHECK_NAMES
    assert {line.split()[0] for line in lines} <= {"ok", "hint", "fix"}


def test_doctor_names_each_problem_with_its_fix(home: Path, nanoflux: Callable[..., Any], tmp_path: Path) -> None:
    home.chmod(0o755)
    (home / "ledger.db").write_bytes(b"no ledger" * 999)
    (home / "weights" / "broken").mkdir(parents=True)
    (home / "weights" / "broken" / "weights.json").write_text("{}")
    result = nanoflux(home, "doctor", "--json", NANOFLUX_VLLM_PYTHON="/usr/bin/false")
    assert result.code == 1 and result.json["ok"] is False
    expected_by_check = {
        "home": ("accessible to other users (mode 0755)", f"chmod 700 {home}"),
        "ledger": ("not a readable ledger", "restore a backup"),
        "weights": ("broken: no valid record", "nanoflux models verify"),
        "vllm": ("NANOFLUX_VLLM_PYTHON", "make vllm"),
    }
    for name, (problem, fix) in expected_by_check.items():
        check = find_check(result, name)
        assert not check["ok"] and problem in check["found"] and fix in check["fix"], check
    table = nanoflux(home, "doctor")
    assert f"fix    home        {home} is accessible to other users (mode 0755)  → run `chmod 700 {home}`" in table.out


def test_doctor_hints_at_hosts_that_the_guard_allows(home: Path, nanoflux: Callable[..., Any], tmp_path: Path) -> None:
    opened_guard = find_check(nanoflux(home, "doctor", "--json", NANOFLUX_ALLOW_HOSTS="mirror.example"), "guard")
    assert opened_guard["ok"] and "mirror.example" in opened_guard["found"]
    assert "unset NANOFLUX_ALLOW_HOSTS" in opened_guard["fix"]
    default_guard = find_check(nanoflux(home, "doctor", "--json"), "guard")
    assert default_guard["ok"] and default_guard["found"] == "open: loopback only, until a profile names a host"


def test_doctor_fails_on_a_broken_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    assert safety.check_guard().ok
    monkeypatch.setenv("WANDB_MODE", "online")
    assert not safety.check_guard().ok and "WANDB_MODE" in safety.check_guard().state
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr(safety, "guard_environment", dict)  # the child process starts without the guard
    assert not safety.check_guard().ok and "can reach other machines" in safety.check_guard().state


def test_doctor_reports_a_guard_test_that_timed_out_as_untested(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(safety, "_CONNECT_PROGRAM", "import time; time.sleep(60)")
    monkeypatch.setattr(safety, "CHILD_TIMEOUT_S", 0.5)
    check = safety.check_guard()
    assert not check.ok and check.state == "could not be tested: a child process did not end within 0.5 s"


@pytest.mark.parametrize("damage", ["truncated", "changed", "missing"])
def test_doctor_detects_damaged_weights(damage: str, minilm_dir: Path, tmp_path: Path) -> None:
    weights = tmp_path / "home" / "weights" / minilm_dir.name
    shutil.copytree(minilm_dir, weights)
    assert home_directory.check_weights(Home(tmp_path / "home")).ok
    damaged_file = weights / "vocab.txt"
    content = damaged_file.read_bytes()
    if damage == "missing":
        damaged_file.unlink()
    else:
        damaged_file.write_bytes(content[:-1] if damage == "truncated" else content[:-1] + b"?")
    check = home_directory.check_weights(Home(tmp_path / "home"))
    assert not check.ok and str(damaged_file) in check.state


def test_doctor_compares_large_weights_by_size_only(
    minilm_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(home_directory, "MAX_HASHED_GIB", 0.0)
    weights = tmp_path / "weights" / minilm_dir.name
    shutil.copytree(minilm_dir, weights)
    assert "all sizes match" in home_directory.check_weights(Home(tmp_path)).state
    (weights / "vocab.txt").write_bytes(b"short")
    assert "has 5 bytes" in home_directory.check_weights(Home(tmp_path)).state


def test_doctor_fails_if_torch_sees_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search_path = install_nvidia_smi(tmp_path / "bin", "echo 'NVIDIA A100-SXM4-40GB, 40960, 570.86.10'")
    monkeypatch.setenv("PATH", search_path)
    assert machine.check_gpus() == MachineCheck("gpus", True, "NVIDIA A100-SXM4-40GB, 40960 MiB, driver 570.86.10")
    monkeypatch.setattr(software, "version", lambda _: "2.13.0+cpu")
    assert not software.check_torch().ok and "CUDA" in software.check_torch().fix
    monkeypatch.setattr(software, "version", lambda _: "2.13.0+cu130")
    assert software.check_torch().ok


def test_doctor_fails_on_a_gpu_without_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search_path = install_nvidia_smi(tmp_path / "bin", "echo 'NVIDIA-SMI has failed' >&2; exit 9")
    monkeypatch.setenv("PATH", search_path)
    monkeypatch.setattr(machine, "_count_cards", lambda: 2)
    check = machine.check_gpus()
    assert not check.ok and "2 NVIDIA cards" in check.state and "driver" in check.fix


NVIDIA_SMI_SCRIPTS = {
    "unified memory": "echo 'NVIDIA GB10, [N/A], 580.95.05'",
    "one of two": "echo 'NVIDIA A100, 40960, 570'; echo 'NVIDIA A100, [Insufficient Permissions], 570'",
    "one lost": "echo 'Unable to determine the device handle: Unknown Error'; echo 'NVIDIA A100, 40960, 570'; exit 15",
    "an unknown error": "echo 'NVIDIA H100, [Unknown Error], 570'",
    "no driver": "echo 'NVIDIA-SMI has failed because it could not communicate with the driver.'; exit 9",
    "hanging": "exec sleep 3600",
}
"""Shell scripts that imitate nvidia-smi in unusual cases. Its line for a GPU has the name, MiB of memory and driver."""


@pytest.mark.parametrize(
    ("behaviour", "doctor_pattern", "plan_pattern", "plan_code"),
    [("unified memory", "hint .*GB10, memory not stated .*--gpus", "GPU 0 .NVIDIA GB10. does not report its memory", 2),
     ("one of two", "hint .*A100, 40960 MiB.*; NVIDIA A100, memory not stated", "GPU 1 .*Insufficient Permissions", 0),
     ("one lost", "fix .*GPU that does not answer.*A100, 40960 MiB", "GPU 0 .*Unknown Error", 0),
     ("an unknown error", "hint .*Unknown Error", "GPU 0 .NVIDIA H100. does not report its memory: .Unknown Error.", 2),
     ("no driver", "ok none", "no GPU on this machine: nvidia-smi failed .9.: NVIDIA-SMI has failed", 2),
     ("hanging", "fix .*did not answer within 10 s", "no GPU on this machine: nvidia-smi did not answer", 2)],
)  # fmt: skip
def test_doctor_and_plan_report_unusual_nvidia_smi_behaviour(
    nanoflux: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    behaviour: str,
    doctor_pattern: str,
    plan_pattern: str,
    plan_code: int,
) -> None:
    search_path = install_nvidia_smi(tmp_path / "bin", NVIDIA_SMI_SCRIPTS[behaviour])
    result = nanoflux(tmp_path, "models", "plan", "a100-40g-x1", PATH=search_path)
    assert result.code == plan_code and "Traceback" not in result.err, result.err
    assert re.search(plan_pattern, result.err) and "--gpus 40,40" in result.err, result.err
    result_with_option = nanoflux(tmp_path, "models", "plan", "a100-40g-x1", "--gpus", "40", PATH=search_path)
    assert result_with_option.code == 0
    monkeypatch.setenv("PATH", search_path)
    check = machine.check_gpus()
    assert re.search(doctor_pattern, f"{check.status} {check.state} {check.fix}"), check


def test_doctor_reports_a_slow_sandbox_as_untested(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(fork_server_handle, "START_S", 0.001)
    check = safety.check_sandbox()
    assert not check.ok and check.fix == "the machine may be busy; try again"
    assert check.state.startswith("could not be tested: linux:namespaces+landlock+seccomp: the fork server took longer")


def test_doctor_compares_installed_and_tested_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    tested_versions = packages.load_tested_versions()
    other_versions = {**tested_versions, "click": "0.1", "numpy": "0.2"}
    monkeypatch.setattr(packages, "load_tested_versions", lambda: other_versions)
    check = software.check_versions()
    assert check.ok and "(tested: 0.1)" in check.state and "pip install -c" in check.fix
    monkeypatch.setattr(packages, "list_unmet_requirements", lambda: ["click is missing"])
    assert not software.check_versions().ok and "click is missing" in software.check_versions().state
    monkeypatch.undo()  # from here on, the real versions are compared
    assert software.check_versions().ok and len(tested_versions) > 50


def test_doctor_fails_on_a_home_on_a_network_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o700)
    assert home_directory.check_home(Home(tmp_path)).ok
    monkeypatch.setattr(home_directory, "_file_system_type", lambda _: "nfs4")
    check = home_directory.check_home(Home(tmp_path))
    assert not check.ok and "nfs4" in check.state


def test_doctor_does_not_import_torch() -> None:
    script = (
        "import sys\nfrom nanoflux_local.cli.main import main\n"
        "try:\n    main(['doctor'])\nexcept SystemExit:\n    print('torch' in sys.modules)"
    )
    output = subprocess.check_output([sys.executable, "-c", script], text=True, timeout=120)
    assert output.splitlines()[-1] == "False", "doctor imported torch"


def test_doctor_lists_licences_of_packages_and_models(home: Path, nanoflux: Callable[..., Any]) -> None:
    document = nanoflux(home, "doctor", "--licences", "--json").json
    package_by_name = {package["name"]: package for package in document["packages"]}
    assert {"nanoflux-local", "torch", "numpy", "click"} <= set(package_by_name) and "ruff" not in package_by_name
    assert package_by_name["click"]["licence"] == "BSD-3-Clause"
    assert all(package["licence"] for package in document["packages"])
    licence_by_model = {model["name"]: model["licence"] for model in document["models"]}
    assert licence_by_model["smollm2-135m"] == "Apache-2.0"
    table = nanoflux(home, "doctor", "--licences")
    assert "gemma-3-4b-it" in table.out and "must be accepted first" in table.out and table.code == 0


@pytest.mark.parametrize(
    ("metadata_fields", "licence"),
    [
        ([("License-Expression", "MIT"), ("License", "other")], "MIT"),
        ([("License", "BSD-3-Clause")], "BSD-3-Clause"),
        (
            [("License", "A text\nof many lines"), ("Classifier", "License :: OSI Approved :: MIT License")],
            "MIT License",
        ),
        ([("License", "A text\nof many lines")], "A text"),
        ([("License", "UNKNOWN"), ("Classifier", "Topic :: Software")], "not stated"),
        ([], "not stated"),
    ],
)
def test_find_licence_returns_the_name_instead_of_the_text(
    metadata_fields: list[tuple[str, str]], licence: str
) -> None:
    metadata = Message()
    for key, value in metadata_fields:
        metadata[key] = value
    assert packages.find_licence(metadata) == licence


def test_wheel_contains_the_tested_versions(tmp_path: Path) -> None:
    script = f"from hatchling.build import build_wheel; build_wheel({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", script], cwd=PROJECT, check=True, capture_output=True, timeout=120)
    (wheel_file,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel_file) as wheel:
        packaged_constraints = wheel.read("nanoflux_local/constraints.txt")
    assert packaged_constraints == (PROJECT / "constraints.txt").read_bytes()
    assert packaged_constraints == packages.find_constraints_file().read_bytes()
