"""The wheels of a bundle: this project and its dependencies, for one platform and Python version, each pinned by its
SHA-256.

pip downloads the wheels from the index or mirror in its configuration, with its own proxy and cache settings. Wheels
that are already in the directory are not downloaded again.
"""

import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from nanoflux_local.errors import NanofluxError, RefusedError, UsageError
from nanoflux_local.packages import PROJECT, find_constraints_file, normalize_name
from nanoflux_models.child import build_module_command
from nanoflux_models.record import sha256_file

OLDEST_GLIBC_MINOR = {"x86_64": 5}
"""The smallest N of the wheel tags `manylinux_2_N`, by processor architecture; 17 for the architectures not listed."""
LEGACY_TAGS = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
"""The older names of the wheel tags `manylinux_2_N`, by N."""


def current_python() -> str:
    """The version of this Python in the form that pip expects, such as "3.12"."""
    return ".".join(map(str, sys.version_info[:2]))


def current_platform() -> str:
    """The platform tag of wheels for this machine, such as "linux_x86_64"."""
    return re.sub(r"[.-]", "_", sysconfig.get_platform())


def collect_project(folder: Path, wheel: Path | None, extras: Sequence[str], python: str, platform: str) -> None:
    """Put the project's wheel and the wheels of its dependencies into `folder`. If `wheel` is None, the project's wheel
    is built from this checkout.

    Raises:
        NanofluxError: pip could not build or find a wheel.
    """
    project_wheel = _build_wheel(folder.parent / "own") if wheel is None else wheel
    requirement = f"{project_wheel}[{','.join(extras)}]" if extras else str(project_wheel)
    _download(folder, ["-c", str(find_constraints_file()), requirement, "pip"], python, platform)


def collect_requirements(folder: Path, requirements: Path, python: str, platform: str) -> None:
    """Download exactly the packages of a requirements file, which lists a whole environment (`pip freeze --all`).

    Raises:
        NanofluxError: pip could not find a wheel.
    """
    _download(folder, ["--no-deps", "-r", str(requirements)], python, platform)


def _download(folder: Path, requirements: Sequence[str], python: str, platform: str) -> None:
    """Download the wheels that pip needs for `requirements` (arguments of `pip download`) into `folder`."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    arguments = ["download", "--dest", str(folder), "--find-links", str(folder), "--only-binary=:all:", *requirements]
    if (python, platform) != (current_python(), current_platform()):
        arguments += [
            "--implementation=cp",
            f"--python-version={python}",
            *(f"--platform={tag}" for tag in compatible_tags(platform)),
        ]
    _run_pip(arguments, "the wheels could not be downloaded; those already downloaded are kept")


def pin_wheels(folder: Path) -> str:
    """Requirements that pin each wheel of a directory by its version and SHA-256.

    Raises:
        RefusedError: the directory has two versions of a package, for example one that an earlier bundle left.
    """
    line_by_package: dict[str, str] = {}
    for path in sorted(folder.glob("*.whl")):
        name, version = path.name.split("-")[:2]
        package = normalize_name(name)
        if package in line_by_package:
            raise RefusedError(
                f"{folder} has two versions of {name}", "remove that directory, then run the command again"
            )
        line_by_package[package] = f"{package}=={version} --hash=sha256:{sha256_file(path)}\n"
    return "".join(line_by_package[name] for name in sorted(line_by_package))


def compatible_tags(platform: str) -> list[str]:
    """The platform tags whose wheels run on `platform`, including tags for older C libraries.

    Raises:
        UsageError: `platform` is not a wheel platform.
    """
    match = re.fullmatch(r"(?:manylinux_2_(\d+)|linux)_(x86_64|aarch64)", platform)
    if match is None:
        raise UsageError(
            f"{platform!r} is not a supported wheel platform", "pass one such as --platform manylinux_2_28_x86_64"
        )
    newest_glibc_minor, machine = match.groups()
    if newest_glibc_minor is None:
        return [platform]
    glibc_minors = range(int(newest_glibc_minor), OLDEST_GLIBC_MINOR.get(machine, 17) - 1, -1)
    tags = [f"manylinux_2_{minor}_{machine}" for minor in glibc_minors]
    legacy_tags = [f"{LEGACY_TAGS[minor]}_{machine}" for minor in glibc_minors if minor in LEGACY_TAGS]
    return [*tags, *legacy_tags]


def _build_wheel(folder: Path) -> Path:
    """Build the project's wheel from this checkout into `folder`."""
    root = find_constraints_file().parent
    if not (root / "pyproject.toml").is_file():
        fix = "pass the wheel that NanoFlux was installed from with --wheel"
        raise UsageError(f"the wheel of {PROJECT} cannot be built outside a checkout", fix)
    options = [] if importlib.util.find_spec("hatchling") is None else ["--no-build-isolation"]
    _run_pip(["wheel", "--no-deps", *options, "--wheel-dir", str(folder), str(root)], f"{PROJECT} could not be built")
    return max(folder.glob("*.whl"), key=lambda path: path.stat().st_mtime)


def _run_pip(arguments: Sequence[str], failure: str) -> None:
    """Run pip. If it fails, raise NanofluxError with the message `failure` and the last lines of pip's output."""
    command = build_module_command("pip", *arguments, "--no-input", "--disable-pip-version-check", "--quiet")
    process = subprocess.run(
        command,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if process.returncode:
        output = process.stderr if process.stderr else process.stdout
        last_lines = "\n".join(output.strip().splitlines()[-3:])
        raise NanofluxError(
            f"{failure}:\n{last_lines}", "check the network and the package index, then run the command again"
        )
