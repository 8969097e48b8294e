"""Fixtures for the tests of bundles: a small bundle, forged bundles, and a folder of small wheels."""

import ensurepip
import hashlib
import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from nanoflux_local.bundle import installer
from nanoflux_local.bundle.writer import write_bundle

CONTENT_BY_NAME = {
    "home/weights/small/model.safetensors": bytes(range(256)) * 20,
    "home/weights/small/config.json": b"{}",
    "docs/index.md": b"# Read me\n",
    "sbom.json": b"{}",
}
"""The files of the small bundle."""
DESCRIPTION = {"nanoflux": "0.1.0", "models": ["small"]}
"""What the manifest of each bundle contains in addition to its parts and files."""


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle of four files in several parts; its folder contains nothing else."""
    source = tmp_path / "source"
    folder = tmp_path / "medium"
    folder.mkdir()
    files = {}
    for name, content in CONTENT_BY_NAME.items():
        files[name] = source / name
        files[name].parent.mkdir(parents=True, exist_ok=True)
        files[name].write_bytes(content)
    write_bundle(folder / "lab.pyz", files, DESCRIPTION, part_bytes=4000)
    return folder / "lab.pyz"


@pytest.fixture
def forge_bundle(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a bundle with one part, an archive of `entries`, and the right hash of the part. Its
    manifest lists the files `contents`, even if these differ from the entries.
    """

    def forge(entries: list[tuple[tarfile.TarInfo, bytes]], contents: dict[str, bytes]) -> Path:
        folder = tmp_path / "medium"
        folder.mkdir(exist_ok=True)
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for entry, content in entries:
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
        part = buffer.getvalue()
        head = folder / "forged.pyz"
        installer.part_path(head, 1).write_bytes(part)
        checksums = {name: _compute_checksum(content) for name, content in contents.items()}
        head.write_bytes(installer.build_head(DESCRIPTION, [_compute_checksum(part)], checksums))
        return head

    return forge


def _compute_checksum(content: bytes) -> installer.Checksum:
    return installer.Checksum(len(content), hashlib.sha256(content).hexdigest())


@pytest.fixture
def wheelhouse(tmp_path: Path) -> Path:
    """A folder of wheels: pip, a stand-in for this project, the package that it requires (`needed`), and the package of
    its extra (`more`).
    """
    folder = tmp_path / "wheelhouse"
    folder.mkdir()
    pip = next((Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl"), None)
    if pip is None:
        pytest.skip("this Python has no wheel of pip (Debian strips ensurepip)")
    (folder / pip.name).write_bytes(pip.read_bytes())
    main_module = (
        "import os, needed\n"
        "vllm_python = os.environ.get('NANOFLUX_VLLM_PYTHON')\n"
        "print(os.environ['NANOFLUX_HOME'], needed.WORD, *(['by', vllm_python] if vllm_python else []))\n"
    )
    modules = {
        "nanoflux_local/__init__.py": "",
        "nanoflux_local/cli/__init__.py": "",
        "nanoflux_local/cli/__main__.py": main_module,
    }
    requirement_lines = "Requires-Dist: needed\nProvides-Extra: more\nRequires-Dist: more; extra == 'more'\n"
    _write_wheel(folder, "nanoflux-local", modules, requirement_lines + "License-Expression: Apache-2.0\n")
    _write_wheel(folder, "more", {"more.py": ""}, "License: MIT\n")
    _write_wheel(folder, "needed", {"needed.py": "WORD = 'found'\n"}, "License: MIT © Zoë\n")
    return folder


def _write_wheel(folder: Path, name: str, modules: dict[str, str], metadata: str) -> None:
    """Write a wheel of version 0.1.0. `modules` are sources by path; `metadata` is appended to its METADATA file."""
    stem = f"{name.replace('-', '_')}-0.1.0"
    metadata_folder = f"{stem}.dist-info"
    files = {
        **modules,
        f"{metadata_folder}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n{metadata}",
        f"{metadata_folder}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record_path = f"{metadata_folder}/RECORD"
    files[record_path] = "".join(f"{path},,\n" for path in [*files, record_path])
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
        for path, content in files.items():
            wheel.writestr(path, content)
