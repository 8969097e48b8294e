"""Downloads a benchmark from the Hugging Face Hub if the user requests it and allows connections to the hub's host.

The hub's own client downloads the files in a separate process with the network guard. A mirror (HF_ENDPOINT) and a
token therefore work as usual, and this process stays in offline mode (`HF_HUB_OFFLINE=1`).
"""

import os
import re
import socket
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

from nanoflux_local.errors import NanofluxError, RefusedError, UsageError
from nanoflux_local.seeds.benchmarks.base import HubDataset, list_importable_benchmarks
from nanoflux_models.child import build_module_command
from nanoflux_models.errors import ModelsError
from nanoflux_models.fetch import read_commit
from nanoflux_models.guard import ALLOW_HOSTS_VARIABLE, OutsideError
from nanoflux_models.offline import guard_environment

HUB = "https://huggingface.co"


def fetch_benchmark(benchmark_name: str, revision: str, target: Path) -> tuple[list[Path], str]:
    """Fetch a benchmark's files into the folder `target`. Returns their paths, and "REPO@COMMIT" as their source.

    Raises:
        UsageError: the hub has no such benchmark.
        RefusedError: the user has not allowed the hub's host.
        NanofluxError: the download failed.
    """
    hub_dataset = _find_hub_dataset(benchmark_name)
    _refuse_outside_host(benchmark_name, hub_dataset)
    # Xet is switched off because its native code bypasses the guard. NO_COLOR keeps colour codes out of error messages.
    guarded_environment = {**guard_environment(os.environ), "HF_HUB_DISABLE_XET": "1", "NO_COLOR": "1"}
    environment = {name: value for name, value in guarded_environment.items() if not name.endswith("_OFFLINE")}
    options = ["--repo-type", "dataset", "--revision", revision or hub_dataset.revision, "--local-dir", str(target)]
    for pattern in hub_dataset.files:
        options += ["--include", pattern]
    command = build_module_command("huggingface_hub.cli.hf", "download", hub_dataset.repo, *options)
    process = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", check=False)
    files = sorted(path for path in target.rglob("*") if path.is_file() and ".cache" not in path.parts)
    redirect_match = re.search(r"OutsideError: refused to reach (\S+):", process.stderr)
    if redirect_match:
        refused_host = redirect_match[1]
        raise _build_refusal(f"{hub_dataset.repo} redirects to {refused_host}", refused_host)
    if process.returncode or not files:
        last_error_lines = "\n".join(process.stderr.strip().splitlines()[-3:])
        reason = last_error_lines or "the repository has none of the benchmark's files"
        raise NanofluxError(
            f"{hub_dataset.repo} could not be fetched: {reason}",
            f"repeat the import if the connection broke, and correct --revision if {hub_dataset.repo} lacks it; or "
            "download the files elsewhere and pass their paths",
        )
    return files, f"{hub_dataset.repo}@{_read_commit(target)}"


def _find_hub_dataset(benchmark_name: str) -> HubDataset:
    """The benchmark's dataset on the hub. Raises UsageError if the hub has no such dataset."""
    benchmarks = list_importable_benchmarks()
    benchmark = benchmarks.get(benchmark_name)
    if benchmark is not None and benchmark.hub is not None:
        return benchmark.hub
    message = f"{benchmark_name!r} is not on the Hugging Face Hub"
    if benchmark is not None:
        raise UsageError(message, f"download it from {benchmark.homepage} and pass the paths of its files")
    names_on_hub = [name for name, entry in benchmarks.items() if entry.hub]
    raise UsageError(message, f"choose one of {', '.join(names_on_hub)}; or pass the paths of files")


def _refuse_outside_host(benchmark_name: str, hub_dataset: HubDataset) -> None:
    """Raise RefusedError if the guard refuses the hub's host. The guard in the process that downloads the files would
    print a traceback instead.
    """
    host = urlsplit(os.environ.get("HF_ENDPOINT") or HUB).hostname or ""
    refused = False
    try:
        socket.getaddrinfo(host, 443)
    except OutsideError:
        refused = True
    except OSError as error:
        fix = f"check that this machine resolves {host}; or download the files elsewhere and pass their paths"
        raise NanofluxError(f"{host} cannot be reached: {error.strerror or error}", fix) from error
    # The refusal is raised outside the except clause, so that the guard's error, whose fix is for endpoints, is not
    # shown as its cause.
    if refused:
        raise _build_refusal(f"{benchmark_name} is published on {host} ({hub_dataset.repo})", host)


def _build_refusal(reason: str, host: str) -> RefusedError:
    """The error that says why the user must allow `host`, and how."""
    allowed_hosts = [name for name in os.environ.get(ALLOW_HOSTS_VARIABLE, "").split(",") if name]
    return RefusedError(
        f"{reason}, and this machine connects only to the hosts that you allow",
        f"set {ALLOW_HOSTS_VARIABLE}={','.join([*allowed_hosts, host])} to allow it; or set HF_ENDPOINT to your "
        "mirror; or download the files elsewhere and pass their paths",
    )


def _read_commit(target: Path) -> str:
    """The commit of the files that the hub's client downloaded."""
    try:
        return read_commit(target)
    except ModelsError as error:
        raise NanofluxError(error.message, error.fix) from error
