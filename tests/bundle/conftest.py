"""Shared by the tests of bundles: small bundles, whole or harmful, and wheels made on the spot."""

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

CONTENT = {
    "home/weights/small/model.safetensors": bytes(range(256)) * 20,
    "home/weights/small/config.json": b"{}",
    "docs/index.md": b"# Read me\n",
    "sbom.json": b"{}",
}
ABOUT = {"nanoflux": "0.1.0", "models": ["small"]}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle of four files in several parts, alone in its folder."""
    source, place = tmp_path / "source", tmp_path / "medium"
    place.mkdir()
    files = {}
    for name, content in CONTENT.items():
        files[name] = source / name
        files[name].parent.mkdir(parents=True, exist_ok=True)
        files[name].write_bytes(content)
    write_bundle(place / "lab.pyz", files, ABOUT, 4000)
    return place / "lab.pyz"


@pytest.fixture
def forged(tmp_path: Path) -> Callable[..., Path]:
    """`forged(entries, named)`: a bundle whose every hash is right, of whatever its maker put into it."""

    def make(entries: list[tuple[tarfile.TarInfo, bytes]], named: dict[str, bytes]) -> Path:
        place = tmp_path / "medium"
        place.mkdir(exist_ok=True)
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for entry, content in entries:
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
        head = place / "forged.pyz"
        installer.part_path(head, 1).write_bytes(packed.getvalue())
        sums = {name: _sum(content) for name, content in named.items()}
        head.write_bytes(installer.head_bytes(ABOUT, [_sum(packed.getvalue())], sums))
        return head

    return make


def _sum(content: bytes) -> installer.Checksum:
    return installer.Checksum(len(content), hashlib.sha256(content).hexdigest())


@pytest.fixture
def wheelhouse(tmp_path: Path) -> Path:
    """A folder with wheels: a stand-in for this project that needs another package, that package, and pip."""
    folder = tmp_path / "wheelhouse"
    folder.mkdir()
    pip = next((Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl"), None)
    if pip is None:
        pytest.skip("this Python carries no wheel of pip (Debian strips ensurepip)")
    (folder / pip.name).write_bytes(pip.read_bytes())
    code = "import os, needed\nby = os.environ.get('NANOFLUX_VLLM_PYTHON')\n"
    code += "print(os.environ['NANOFLUX_HOME'], needed.WORD, *(['by', by] if by else []))\n"
    modules = {
        "nanoflux_local/__init__.py": "",
        "nanoflux_local/cli/__init__.py": "",
        "nanoflux_local/cli/__main__.py": code,
    }
    needs = "Requires-Dist: needed\nProvides-Extra: more\nRequires-Dist: more; extra == 'more'\n"
    _wheel(folder, "nanoflux-local", modules, needs + "License-Expression: Apache-2.0\n")
    _wheel(folder, "more", {"more.py": ""}, "License: MIT\n")
    _wheel(folder, "needed", {"needed.py": "WORD = 'found'\n"}, "License: MIT © Zoë\n")
    return folder


def _wheel(folder: Path, name: str, modules: dict[str, str], more: str) -> None:
    stem = f"{name.replace('-', '_')}-0.1.0"
    info = f"{stem}.dist-info"
    files = {
        **modules,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n{more}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
        for path, content in {**files, f"{info}/RECORD": record}.items():
            wheel.writestr(path, content)
