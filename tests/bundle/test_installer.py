"""The installer in a bundle installs everything, or names the damaged file and writes nothing."""

import hashlib
import random
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from nanoflux_local.bundle import installer
from nanoflux_local.bundle.installer import BundleError, part_path

FILE_NUMBERS = range(4)
"""The numbers of the files of the fixture `bundle`: 0 is the head, the others are the parts."""


def list_paths(folder: Path) -> set[Path]:
    """All files and folders below a folder."""
    return set(folder.rglob("*"))


def read_files(folder: Path) -> dict[str, bytes]:
    """The contents of all files below a folder, by relative path."""
    files = [path for path in list_paths(folder) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def expect_install_error(head: Path, folder: Path) -> str:
    """Check that a bundle can be neither installed nor verified, and that the failed installation writes nothing.
    Returns the error message.
    """
    paths_before = list_paths(folder.parent)
    with pytest.raises(BundleError) as refusal:
        installer.install(head, folder, lambda _: None)
    assert list_paths(folder.parent) == paths_before, "something was written"
    with pytest.raises(BundleError):
        installer.verify_bundle(head)
    return str(refusal.value)


def find_bundle_file(head: Path, number: int) -> Path:
    """The file of a bundle with this number: 0 is the head, the others are the parts."""
    return part_path(head, number) if number else head


def test_installed_files_are_intact_and_accessible_only_to_the_owner(bundle: Path, tmp_path: Path) -> None:
    lab = tmp_path / "lab"
    installer.install(bundle, lab, lambda _: None)
    assert read_files(lab) == read_files(tmp_path / "source") and len(read_files(lab)) == 4
    assert all(path.stat().st_mode & 0o077 == 0 for path in [lab, *list_paths(lab)])
    assert not list(tmp_path.glob(".*")), "a scratch directory was left behind"
    assert len(installer.read_head(bundle).parts) == len(FILE_NUMBERS) - 1


@pytest.mark.parametrize("number", FILE_NUMBERS)
def test_install_error_names_a_truncated_bundle_file(number: int, bundle: Path, tmp_path: Path) -> None:
    damaged_file = find_bundle_file(bundle, number)
    content = damaged_file.read_bytes()
    rng = random.Random(number)
    for size in [0, 1, len(content) - 1, *rng.sample(range(len(content)), 20)]:
        damaged_file.write_bytes(content[:size])
        assert str(damaged_file) in expect_install_error(bundle, tmp_path / "lab")


@pytest.mark.parametrize("number", FILE_NUMBERS)
def test_install_error_names_a_bundle_file_with_a_flipped_bit(number: int, bundle: Path, tmp_path: Path) -> None:
    damaged_file = find_bundle_file(bundle, number)
    content = damaged_file.read_bytes()
    rng = random.Random(number)
    for position in [0, len(content) - 1, *rng.sample(range(len(content)), 40)]:
        changed_content = bytearray(content)
        changed_content[position] ^= 1 << rng.randrange(8)
        damaged_file.write_bytes(changed_content)
        assert str(damaged_file) in expect_install_error(bundle, tmp_path / "lab")


@pytest.mark.parametrize("number", FILE_NUMBERS)
def test_install_error_names_a_missing_bundle_file(number: int, bundle: Path, tmp_path: Path) -> None:
    missing_file = find_bundle_file(bundle, number)
    missing_file.unlink()
    assert str(missing_file) in expect_install_error(bundle, tmp_path / "lab")


def test_install_error_names_only_damaged_parts(bundle: Path, tmp_path: Path) -> None:
    part_path(bundle, 1).unlink()
    part_path(bundle, 3).write_bytes(b"")
    message = expect_install_error(bundle, tmp_path / "lab")
    assert ".001: missing" in message and ".003: has 0 bytes" in message and ".002" not in message


def test_symlinked_or_swapped_part_is_refused(bundle: Path, tmp_path: Path) -> None:
    first_part, second_part = part_path(bundle, 1), part_path(bundle, 2)
    moved_part = first_part.rename(tmp_path / "aside")
    first_part.symlink_to(moved_part)
    assert f"{first_part}: not a regular file" in expect_install_error(bundle, tmp_path / "lab")
    first_part.unlink()
    second_part.rename(first_part)
    moved_part.rename(second_part)
    assert str(first_part) in expect_install_error(bundle, tmp_path / "lab")


def make_entry(name: str, entry_type: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    """An archive entry. If it is a link, it points to `target`."""
    entry = tarfile.TarInfo(name)
    entry.type = entry_type
    entry.linkname = target
    return entry


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([(make_entry("home/x", tarfile.SYMTYPE, "/etc"), b"")], "not a regular file"),
        (
            [(make_entry("home/x", tarfile.SYMTYPE, "../../outside"), b""), (make_entry("home/x/y"), b"1")],
            "not a regular file",
        ),
        ([(make_entry("home/x", tarfile.LNKTYPE, "/etc/passwd"), b"")], "not a regular file"),
        ([(make_entry("home/x", tarfile.CHRTYPE), b"")], "not a regular file"),
        ([(make_entry("home/x", tarfile.FIFOTYPE), b"")], "not a regular file"),
        ([(make_entry("home/x", tarfile.DIRTYPE), b"")], "not a regular file"),
        ([(make_entry("../x"), b"1")], "not in the manifest"),
        ([(make_entry("/tmp/x"), b"1")], "not in the manifest"),
        ([(make_entry("home/other"), b"1")], "not in the manifest"),
        ([(make_entry("home/x"), b"1"), (make_entry("home/x"), b"1")], "appears twice"),
        ([(make_entry("home/x"), b"2")], "does not match its SHA-256"),
        ([], "missing from the parts"),
    ],
)
def test_archive_that_differs_from_the_manifest_is_refused(
    entries: list[tuple[tarfile.TarInfo, bytes]], reason: str, forge_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    head = forge_bundle(entries, {"home/x": b"1"})
    message = expect_install_error(head, tmp_path / "lab")
    assert reason in message and str(part_path(head, 1)) in message


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "/x",
        "home/../../x",
        "home/./x",
        "home//x",
        "home/x/",
        "home\\x",
        "x",
        "venv/bin/python",
        "home/\x1b[31m",
        "",
    ],
)
def test_head_with_an_unsafe_path_is_refused(name: str, forge_bundle: Callable[..., Path], tmp_path: Path) -> None:
    entry_name = name if name else "x"  # an archive entry needs a name
    head = forge_bundle([(make_entry(entry_name), b"1")], {name: b"1"})
    assert "is outside the directories" in expect_install_error(head, tmp_path / "lab")


def test_part_that_is_not_an_archive_is_refused(
    forge_bundle: Callable[..., Path], tmp_path: Path, bundle: Path
) -> None:
    head = forge_bundle([(make_entry("home/x"), b"1")], {"home/x": b"1"})
    files = installer.read_head(head).files
    for content in (b"", b"junk" * 1000, part_path(head, 1).read_bytes()[:600]):
        part_path(head, 1).write_bytes(content)
        checksum = installer.Checksum(len(content), hashlib.sha256(content).hexdigest())
        head.write_bytes(installer.build_head({}, [checksum], files))
        assert str(part_path(head, 1)) in expect_install_error(head, tmp_path / "lab")


def test_install_overwrites_nothing_and_removes_files_of_a_killed_install(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "lab").mkdir()
    with pytest.raises(BundleError, match="exists") as refusal:
        installer.install(bundle, tmp_path / "lab", lambda _: None)
    assert refusal.value.exit_code == 3 and not list((tmp_path / "lab").iterdir())
    (tmp_path / "lab").rmdir()
    abandoned = tmp_path / ".lab.making-killed"
    (abandoned / "home").mkdir(parents=True)
    of_another_target = tmp_path / ".lab2.making-other"
    of_another_target.mkdir()
    installer.install(bundle, tmp_path / "lab", lambda _: None)
    assert not abandoned.exists() and of_another_target.exists()


def test_full_disk_is_reported_before_writing(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installer.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    paths_before = list_paths(tmp_path)
    with pytest.raises(BundleError, match="MiB needed"):
        installer.install(bundle, tmp_path / "lab", lambda _: None)
    assert list_paths(tmp_path) == paths_before


def test_failed_install_leaves_no_files(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths_before = list_paths(tmp_path)

    def fail_to_unpack(head: installer.Head, scratch: Path, prefix: str = "") -> None:
        (scratch / "home").mkdir()
        raise OSError(28, "No space left on device", str(scratch))

    monkeypatch.setattr(installer, "unpack", fail_to_unpack)
    with pytest.raises(BundleError, match="No space left"):
        installer.install(bundle, tmp_path / "lab", lambda _: None)
    assert list_paths(tmp_path) == paths_before


def run_head(head: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a bundle's head with the base Python of this virtual environment, which does not have NanoFlux installed."""
    command = [sys._base_executable, "-I", str(head), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


def test_head_verifies_and_installs_with_the_exit_codes_of_nanoflux(bundle: Path, tmp_path: Path) -> None:
    result = run_head(bundle, "verify", cwd=tmp_path)
    assert result.returncode == 0 and "intact: 4 files in 3 parts" in result.stderr
    assert run_head(bundle, "install", "--to", "lab", cwd=tmp_path).returncode == 0
    assert (tmp_path / "lab" / "docs" / "index.md").is_file()
    assert run_head(bundle, "install", "--to", "lab", cwd=tmp_path).returncode == 3
    assert run_head(bundle, cwd=tmp_path).returncode == 2
    part_path(bundle, 2).unlink()
    result = run_head(bundle, "verify", cwd=tmp_path)
    assert result.returncode == 1 and "lab.pyz.002: missing" in result.stderr and "Traceback" not in result.stderr


def test_head_and_parts_can_be_renamed_together(bundle: Path, tmp_path: Path) -> None:
    for number in reversed(FILE_NUMBERS):
        path = find_bundle_file(bundle, number)
        path.rename(path.with_name(path.name.replace("lab", "other")))
    assert "intact" in installer.verify_bundle(bundle.with_name("other.pyz"))


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed (Debian: openssh-client)")
def test_signature_covers_the_manifest_in_the_head(bundle: Path, tmp_path: Path) -> None:
    for signer in ("maker", "other"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / signer)], check=True)
        public_key = (tmp_path / f"{signer}.pub").read_text()
        (tmp_path / f"{signer}.signers").write_text(f"{signer}@lab {public_key}")
    with pytest.raises(BundleError, match="not signed by a signer"):
        installer.verify_bundle(bundle, tmp_path / "maker.signers")
    with pytest.raises(BundleError, match="could not be signed") as refusal:
        installer.sign(bundle, tmp_path / "no-key")
    assert refusal.value.fix == "check the SSH key"
    installer.sign(bundle, tmp_path / "maker")
    assert installer.verify_bundle(bundle, tmp_path / "maker.signers").endswith("signed by maker@lab")
    for signers in ("other.signers", "no.signers"):
        with pytest.raises(BundleError, match="not signed by a signer"):
            installer.install(bundle, tmp_path / "lab", lambda _: None, tmp_path / signers)
    head = installer.read_head(bundle)
    changed_description = {**head.description, "more": 1}
    bundle.write_bytes(installer.build_head(changed_description, list(head.parts), head.files))
    assert "intact" in installer.verify_bundle(bundle)
    with pytest.raises(BundleError, match="not signed by a signer") as refusal:
        installer.install(bundle, tmp_path / "lab", lambda _: None, tmp_path / "maker.signers")
    assert refusal.value.exit_code == 3 and "allowed signers file" in refusal.value.fix
    assert not (tmp_path / "lab").exists()


def test_signature_is_reported_as_unchecked_if_ssh_keygen_cannot_be_run(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "no-programs"))
    (tmp_path / "maker.signers").write_text("maker@lab ssh-ed25519 AAAA")
    message = "signature could not be checked, because ssh-keygen cannot be run"
    with pytest.raises(BundleError, match=message) as refusal:
        installer.install(bundle, tmp_path / "lab", lambda _: None, tmp_path / "maker.signers")
    assert "not signed" not in refusal.value.message and "OpenSSH" in refusal.value.fix
    assert not (tmp_path / "lab").exists()
