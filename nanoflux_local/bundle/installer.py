"""Reads, verifies and installs a bundle. The bundle's first file contains this module: `python3 FILE install` runs it.

The module is therefore self-contained and needs only Python's standard library. It writes nothing until every part
matches the manifest, and creates the installation with a single rename. It accepts only regular files, and only in the
directories of a bundle.
"""

from __future__ import annotations  # so that an older Python gets as far as the version check

import argparse
import contextlib
import fcntl
import hashlib
import io
import json
import os
import platform
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

FORMAT = 1
"""The version of the bundle format."""
SIGNATURE_NAMESPACE = "nanoflux-bundle"
"""The namespace of signatures (`ssh-keygen -Y`)."""
DIGEST_PREFIX = b"sha256:"
DIGEST_CHARS = 64
"""A head ends with `DIGEST_PREFIX` and the SHA-256 of everything before it, in `DIGEST_CHARS` hexadecimal digits."""
MAX_HEAD_BYTES = 64 << 20
BLOCK = 1 << 20
"""The number of bytes that are read or written at once."""
FOLDERS = ("wheels", "vllm-wheels", "home", "docs")
TOP_LEVEL_FILES = ("requirements.txt", "vllm-requirements.txt", "sbom.json")
"""The files that a bundle may contain outside the directories `FOLDERS`."""
SPACE_FACTOR = 3
"""The free space needed to install software, as a multiple of the size of the bundle's files, since each wheel and its
unpacked files exist at the same time.
"""
WRAPPER = """#!/bin/sh
# Runs NanoFlux Local with the home directory from its bundle, or with the one that NANOFLUX_HOME sets.
here=$(dirname "$(readlink -f "$0")")
if [ -x "$here/vllm/bin/python" ]; then export NANOFLUX_VLLM_PYTHON="${NANOFLUX_VLLM_PYTHON:-$here/vllm/bin/python}"; fi
NANOFLUX_HOME="${NANOFLUX_HOME:-$here/home}" exec "$here/venv/bin/python" -m nanoflux_local.cli "$@"
"""
ReportLine = Callable[[str], None]
"""Shows a line about the progress of an installation."""


class BundleError(Exception):
    """The bundle is damaged or cannot be installed. The error has the attributes of `NanofluxError`."""

    def __init__(self, message: str, fix: str = "", exit_code: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix
        self.exit_code = exit_code

    def __str__(self) -> str:
        return f"{self.message}\n  → {self.fix}" if self.fix else self.message


@dataclass(frozen=True)
class Checksum:
    """The expected size and hash of a file."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Head:
    """The head of a bundle: its path, and the facts, parts and files that its manifest states."""

    path: Path
    description: dict[str, Any]
    parts: tuple[Checksum, ...]
    files: dict[str, Checksum]

    @property
    def has_software(self) -> bool:
        """Whether the bundle contains software to install, and not only a home."""
        return "requirements.txt" in self.files

    def part_path(self, number: int) -> Path:
        return part_path(self.path, number)


def part_path(head: Path, number: int) -> Path:
    """The path of a part: the head's path with the part's number appended (FILE.001). Parts are numbered from 1."""
    return head.with_name(f"{head.name}.{number:03}")


# The head


def build_head(description: dict[str, Any], parts: list[Checksum], files: dict[str, Checksum]) -> bytes:
    """Build a head: a Python program that contains the manifest and ends with its own SHA-256."""
    manifest = {
        **description,
        "format": FORMAT,
        "parts": [vars(part) for part in parts],
        "files": {name: vars(checksum) for name, checksum in sorted(files.items())},
    }
    manifest_text = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False)
    members = {"__main__.py": Path(__file__).read_text("utf-8"), "manifest.json": manifest_text}
    buffer = io.BytesIO()
    buffer.write(b"#!/usr/bin/env python3\n")
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))  # a fixed time, so that equal bundles are identical
            archive.writestr(entry, text, zipfile.ZIP_DEFLATED)
        archive.comment = DIGEST_PREFIX + b"0" * DIGEST_CHARS  # the zeros are replaced by the digest below
    content = buffer.getvalue()[:-DIGEST_CHARS]
    return content + hashlib.sha256(content).hexdigest().encode()


def read_head(path: Path) -> Head:
    """Read the head of a bundle, and verify its hash and the paths in its manifest.

    Raises:
        BundleError: the file is not a head, or it is damaged.
    """
    copy_fix = "copy the bundle again from its source"
    try:
        with path.open("rb") as file:
            content = file.read(MAX_HEAD_BYTES)
    except OSError as error:
        raise BundleError(
            f"{path}: cannot be read: {error.strerror}", "pass the first file of the bundle", 2
        ) from error
    if content[-DIGEST_CHARS - len(DIGEST_PREFIX) : -DIGEST_CHARS] != DIGEST_PREFIX:
        raise BundleError(f"{path}: not the first file of a bundle, or truncated", copy_fix)
    if hashlib.sha256(content[:-DIGEST_CHARS]).hexdigest().encode() != content[-DIGEST_CHARS:]:
        raise BundleError(f"{path}: damaged: its SHA-256 differs from the one recorded at its end", copy_fix)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            manifest = json.loads(archive.read("manifest.json"))
        head = Head(
            path,
            {key: value for key, value in manifest.items() if key not in ("parts", "files")},
            tuple(Checksum(int(part["bytes"]), str(part["sha256"])) for part in manifest["parts"]),
            {str(name): Checksum(int(file["bytes"]), str(file["sha256"])) for name, file in manifest["files"].items()},
        )
    except (zipfile.BadZipFile, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"{path}: its manifest cannot be read: {error}", copy_fix) from error
    if head.description.get("format") != FORMAT:
        fix = "install the bundle with the version of NanoFlux that created it"
        raise BundleError(
            f"{path}: bundle format {head.description.get('format')} is not supported, only {FORMAT}", fix
        )
    for name in head.files:
        if not is_safe_path(name):
            raise BundleError(
                f"{path}: the path {name!r} is outside the directories of a bundle", "do not use this bundle", 3
            )
    return head


def is_safe_path(name: str) -> bool:
    """Whether a path stays inside one of the directories of a bundle, or is a file allowed next to them."""
    segments = name.split("/")
    is_plain = name.isprintable() and "\\" not in name and not {"", ".", ".."} & set(segments)
    is_allowed = name in TOP_LEVEL_FILES if len(segments) == 1 else segments[0] in FOLDERS
    return is_plain and is_allowed


# The parts


def find_problems(head: Head) -> list[str]:
    """The problems of a bundle, one line each: its damaged parts or, if all parts are intact, the first problem of
    their contents. Empty if the bundle is intact.
    """
    part_problems: list[str] = []
    for number, checksum in enumerate(head.parts, 1):
        problem = _find_damage(head.part_path(number), checksum)
        if problem:
            part_problems.append(problem)
    if part_problems:
        return part_problems
    try:
        for _ in _read_members(head):  # reading a member verifies it
            pass
    except BundleError as error:
        return [error.message]
    return []


def _find_damage(path: Path, expected: Checksum) -> str:
    """Describe the damage to one part; "" if the part is intact."""
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            return f"{path}: not a regular file"
        if status.st_size != expected.bytes:
            return f"{path}: has {_format_quantity(status.st_size, 'byte')}, should have {expected.bytes}"
        with path.open("rb") as file:
            hash_matches = hashlib.file_digest(file, "sha256").hexdigest() == expected.sha256
    except FileNotFoundError:
        return f"{path}: missing"
    except OSError as error:
        return f"{path}: cannot be read: {error.strerror}"
    return "" if hash_matches else f"{path}: damaged: its SHA-256 differs from the manifest"


class _PartsReader(io.RawIOBase):
    """The parts, read one after another as if they were one file."""

    def __init__(self, head: Head) -> None:
        self._head = head
        self.part_number = 0
        self._file: io.BufferedReader | None = None

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        content = b""
        while len(content) < size:
            block = self._file.read(size - len(content)) if self._file else b""
            if not block and not self._open_next():
                break
            content += block
        return content

    def _open_next(self) -> bool:
        """Open the next part. Returns False if there is none."""
        if self._file:
            self._file.close()
        if self.part_number == len(self._head.parts):
            return False
        self.part_number += 1
        self._file = self._head.part_path(self.part_number).open("rb")
        return True

    def close(self) -> None:
        if self._file:
            self._file.close()
        super().close()


def _read_members(head: Head) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Yield the name of every file in the parts, with the blocks of its content. A file's hash is verified after its
    last block. The blocks that the caller does not read are read here, so that every file is verified.

    Raises:
        BundleError: a member is not a regular file, is not in the manifest, does not match it, or is missing.
    """
    missing = set(head.files)
    with contextlib.closing(_PartsReader(head)) as parts:

        def refuse(reason: str) -> NoReturn:
            """Raise an error that names the part being read."""
            fix = "do not use this bundle: it was created like this, not damaged in transit"
            raise BundleError(f"{head.part_path(max(1, parts.part_number))}: {reason}", fix, 3)

        def read_blocks(member: tarfile.TarInfo, file: Any) -> Iterator[bytes]:
            """Yield the blocks of a member, then verify its size and hash."""
            sha256 = hashlib.sha256()
            while block := file.read(BLOCK):
                sha256.update(block)
                yield block
            if Checksum(member.size, sha256.hexdigest()) != head.files[member.name]:
                refuse(f"{member.name!r} does not match its SHA-256 in the manifest")

        try:
            with tarfile.open(fileobj=parts, mode="r|", bufsize=BLOCK) as archive:
                for member in archive:
                    if not member.isreg() or member.issparse():
                        refuse(f"{member.name!r} is not a regular file (a link, a directory or a device)")
                    if member.name not in missing:
                        refuse(f"{member.name!r} is not in the manifest, or appears twice")
                    missing.remove(member.name)
                    blocks = read_blocks(member, archive.extractfile(member))
                    yield member.name, blocks
                    for _ in blocks:  # the blocks that the caller has not read
                        pass
        except (tarfile.TarError, EOFError, ValueError) as error:
            refuse(f"not a readable archive: {error}")
        except OSError as error:
            refuse(f"cannot be read: {error}")
        if missing:
            refuse(f"{min(missing)!r} is missing from the parts")


# Signatures


def sign(head: Path, key: Path) -> Path:
    """Sign a head, and thereby all files of the bundle, with an SSH key; the signature is written next to the head."""
    signature = head.with_name(f"{head.name}.sig")
    signature.unlink(missing_ok=True)
    problem = "the bundle could not be signed"
    arguments = ["sign", "-f", str(key), "-n", SIGNATURE_NAMESPACE, str(head)]
    _run_ssh_keygen(arguments, problem, problem, "check the SSH key")
    return signature


def check_signature(head: Path, signers: Path) -> str:
    """Verify the signature of a head and return the signer. Only the signers in the file `signers` are accepted.

    Raises:
        BundleError: the head has no valid signature by one of these signers, or ssh-keygen cannot be run.
    """
    signature = head.with_name(f"{head.name}.sig")
    problem = f"{head}: not signed by a signer in {signers}"
    not_run_problem = f"{head}: the signature could not be checked"
    fix = "check the allowed signers file; do not use this bundle unless its signature is valid"
    find_arguments = ["find-principals", "-s", str(signature), "-f", str(signers)]
    signer = _run_ssh_keygen(find_arguments, problem, not_run_problem, fix).split()[0]
    verify_arguments = ["verify", "-f", str(signers), "-I", signer, "-n", SIGNATURE_NAMESPACE, "-s", str(signature)]
    _run_ssh_keygen(verify_arguments, problem, not_run_problem, fix, stdin_path=head)
    return signer


def _run_ssh_keygen(
    arguments: list[str], problem: str, not_run_problem: str, fix: str, stdin_path: Path = Path(os.devnull)
) -> str:
    """Run `ssh-keygen -Y` with the content of `stdin_path` as its input, and return its output.

    Raises:
        BundleError: ssh-keygen failed (the message begins with `problem` and ends with `fix`), or it cannot be run (the
            message begins with `not_run_problem`).
    """
    try:
        with stdin_path.open("rb") as file:
            process = subprocess.run(
                ["ssh-keygen", "-Y", *arguments], stdin=file, capture_output=True, text=True, check=False
            )
    except OSError as error:
        raise BundleError(
            f"{not_run_problem}, because ssh-keygen cannot be run: {error.strerror}", "install the OpenSSH client"
        ) from error
    if process.returncode:
        raise BundleError(f"{problem}: {process.stderr.strip()}", fix, 3)
    return process.stdout


# Installing


def install(path: Path, target: Path, report: ReportLine, signers: Path | None = None) -> Path:
    """Install a bundle as the new directory `target`, completely or not at all. Returns the directory's absolute path.

    Raises:
        BundleError: the bundle is damaged or for another machine, `target` exists, or the disk is too full.
    """
    target = target.expanduser().absolute()
    if signers:
        report(f"signed by {check_signature(path, signers)}")
    head = read_head(path)
    _refuse_unsuitable(head, target)
    report(f"checking {_format_quantity(len(head.parts), 'part')}")
    refuse_damaged(head)
    with _scratch_directory(target) as scratch:
        report("unpacking")
        unpack(head, scratch)
        if head.has_software:
            report("installing the wheels")
            _make_environments(scratch, target, "vllm-requirements.txt" in head.files)
        scratch.rename(target)
    return target


def refuse_damaged(head: Head) -> None:
    """Refuse a damaged bundle.

    Raises:
        BundleError: the bundle is damaged.
    """
    problems = find_problems(head)
    if problems:
        raise BundleError("\n".join(problems), "copy the named files again; nothing was installed")


def _refuse_unsuitable(head: Head, target: Path) -> None:
    """Refuse a bundle for another machine, an existing target, and a disk that is too full."""
    if os.path.lexists(target):
        raise BundleError(f"{target} already exists", "choose a new directory with --to", 3)
    bundle_python = head.description.get("python")
    current_python = ".".join(platform.python_version_tuple()[:2])
    if head.has_software and bundle_python != current_python:
        fix = f"run the installer with python{bundle_python}, or create a bundle with --python {current_python}"
        raise BundleError(f"{head.path} is for Python {bundle_python}, but this is Python {current_python}", fix, 3)
    wheel_platform = str(head.description.get("platform", ""))
    if head.has_software and not wheel_platform.endswith(platform.machine()):
        fix = "create a bundle with --platform for this machine"
        raise BundleError(f"{head.path} is for {wheel_platform}, but this machine is {platform.machine()}", fix, 3)
    content_bytes = sum(checksum.bytes for checksum in head.files.values())
    needed_bytes = content_bytes * (SPACE_FACTOR if head.has_software else 1)
    existing_parent = next(parent for parent in target.parents if parent.exists())
    refuse_full_disk(existing_parent, needed_bytes)


def refuse_full_disk(folder: Path, needed_bytes: int) -> None:
    """Refuse to write to a disk that is too full.

    Raises:
        BundleError: the disk of `folder` has too few free bytes.
    """
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise BundleError(
            f"{folder}: {free_bytes >> 20} MiB free, but {needed_bytes >> 20} MiB needed", "free some disk space"
        )


@contextlib.contextmanager
def _scratch_directory(target: Path) -> Iterator[Path]:
    """Yield a private scratch directory next to `target`, and remove it afterwards; until then, other installations
    wait. At the start, remove the scratch directories that killed installations have left behind.
    """
    parent = target.parent
    former_umask = os.umask(0o077)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(parent, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel releases the lock when this process ends
            for abandoned in parent.glob(f".{target.name}.making-*"):
                shutil.rmtree(abandoned, ignore_errors=True)
            scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.making-", dir=parent))
            try:
                yield scratch
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
        finally:
            os.close(lock)
    except OSError as error:
        fix = "free disk space or fix the permissions, then install again; nothing was installed"
        raise BundleError(f"{error.filename or parent}: {error.strerror or error}", fix) from error
    finally:
        os.umask(former_umask)


def unpack(head: Head, scratch: Path, prefix: str = "") -> None:
    """Write the files whose names start with `prefix` into `scratch`. The hashes of all files are verified."""
    (scratch / "home").mkdir()
    for name, blocks in _read_members(head):
        if not name.startswith(prefix):
            continue
        target = scratch / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            for block in blocks:
                file.write(block)


def _make_environments(scratch: Path, target: Path, with_vllm: bool) -> None:
    """Create the environment of NanoFlux Local, and a separate environment for vLLM, which pins different versions.
    Both are installed with the pip wheel from the bundle, since this Python may not have pip.
    """
    pip = next((scratch / "wheels").glob("pip-*.whl"), None)
    if pip is None:
        raise BundleError("the bundle contains no pip wheel", "create the bundle again")
    _make_environment(scratch / "venv", target, pip, scratch / "wheels", scratch / "requirements.txt")
    if with_vllm:
        requirements = scratch / "vllm-requirements.txt"
        _make_environment(scratch / "vllm", target, pip, scratch / "vllm-wheels", requirements, "--no-deps")
        # The script prints why, if torchvision does not load; text-only models can be served nevertheless.
        for script in (scratch / "venv").glob("lib/python3*/site-packages/nanoflux_models/vision_operators.py"):
            subprocess.run([str(scratch / "vllm/bin/python"), "-P", str(script)], check=False)
        shutil.rmtree(scratch / "vllm-wheels")
    shutil.rmtree(scratch / "wheels")
    wrapper = scratch / "nanoflux"
    wrapper.write_text(WRAPPER)
    wrapper.chmod(0o700)


def _make_environment(folder: Path, target: Path, pip: Path, wheels: Path, requirements: Path, *options: str) -> None:
    """Create a virtual environment with the packages of a requirements file. `folder` is in the scratch directory,
    which is later renamed to `target`, so the environment's scripts are rewritten to name `target`.
    """
    scratch = folder.parent
    venv.EnvBuilder(symlinks=True).create(folder)
    command = [
        str(folder / "bin/python"), "-I", str(pip / "pip"), "--isolated", "install", "--quiet", "--no-index",
        "--find-links", str(wheels), "--require-hashes", "--no-compile", "--no-cache-dir", "--no-input",
        "--disable-pip-version-check", *options, "-r", str(requirements),
    ]  # fmt: skip
    environment = {"PATH": os.environ.get("PATH", os.defpath), "PIP_CONFIG_FILE": os.devnull, "TMPDIR": str(scratch)}
    process = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", check=False)
    if process.returncode:
        last_lines = "\n".join(process.stderr.strip().splitlines()[-5:])
        raise BundleError(
            f"pip could not install the wheels:\n{last_lines}",
            "create a bundle for this machine with --python and --platform",
        )
    _relocate(folder, str(scratch).encode(), str(target).encode())


def _relocate(folder: Path, scratch_path: bytes, final_path: bytes) -> None:
    """Replace the scratch path with the final path in an environment's scripts and configuration."""
    for path in [folder / "pyvenv.cfg", *(folder / "bin").iterdir()]:
        if path.is_file() and not path.is_symlink():
            path.write_bytes(path.read_bytes().replace(scratch_path, final_path))


# The program in the head


def main(arguments: list[str] | None = None, head: Path | None = None) -> int:
    """Run `python3 FILE verify` or `python3 FILE install`. Returns an exit code, as `nanoflux` defines them."""
    path = head or Path(sys.argv[0])
    parser = argparse.ArgumentParser(prog=path.name, description="A bundle of NanoFlux Local.")
    commands = parser.add_subparsers(dest="command", required=True)
    verify_parser = commands.add_parser("verify", help="check every part and every file; name the damaged ones")
    install_parser = commands.add_parser("install", help="check, then install; a failed installation leaves no files")
    install_parser.add_argument("--to", type=Path, default=Path("nanoflux"), help="the directory to create [nanoflux]")
    for subparser in (verify_parser, install_parser):
        subparser.add_argument("--signers", type=Path, help="file of allowed signers, in the format of ssh-keygen")
    options = parser.parse_args(arguments)
    try:
        if options.command == "verify":
            _print_message(verify_bundle(path, options.signers))
        else:
            _print_message(f"installed: {install(path, options.to, _print_message, options.signers)}")
    except BundleError as error:
        _print_message(f"{path.name}: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        _print_message("interrupted; nothing was installed")
        return 130
    return 0


def verify_bundle(path: Path, signers: Path | None = None) -> str:
    """Verify a bundle and return one line that describes it: its files, parts, size and signer.

    Raises:
        BundleError: the bundle is damaged.
    """
    signer = f", signed by {check_signature(path, signers)}" if signers else ""
    head = read_head(path)
    refuse_damaged(head)
    size = sum(part.bytes for part in head.parts) / 2**20
    contents = f"{_format_quantity(len(head.files), 'file')} in {_format_quantity(len(head.parts), 'part')}"
    return f"{path}: intact: {contents}, {size:.1f} MiB{signer}"


def _format_quantity(count: int, noun: str) -> str:
    """A count with its noun, as in `nanoflux_local.quantities`, which this module cannot import."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _print_message(text: str) -> None:
    """Print to stderr, with control characters replaced by U+FFFD."""
    sys.stderr.write(re.sub(r"[^\n\t -~\xa0-\U0010ffff]", "�", text) + "\n")


if __name__ == "__main__":
    if sys.version_info < (3, 11):  # noqa: UP036 - the lab may have an older Python
        sys.exit("Python 3.11 or later is needed: python3.11 FILE install")
    sys.exit(main())
