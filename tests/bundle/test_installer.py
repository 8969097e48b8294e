"""A bundle is taken whole or refused by the name of what is damaged, with nothing written; it is its own installer."""

import hashlib
import random
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from nanoflux_local.bundle import installer
from nanoflux_local.bundle.installer import BundleError, part_path

PARTS = range(4)
"""Of the small bundle: its head, and three parts."""


def everything(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in everything(folder) if path.is_file()}


def fail_to_install(head: Path, to: Path) -> str:
    """What an installation that must fail says; it may leave nothing behind."""
    before = everything(to.parent)
    with pytest.raises(BundleError) as refusal:
        installer.install(head, to, lambda _: None)
    assert everything(to.parent) == before, "something was written"
    with pytest.raises(BundleError):
        installer.verify_bundle(head)
    return str(refusal.value)


def file_of(head: Path, number: int) -> Path:
    return part_path(head, number) if number else head


def test_install_restores_the_files_for_the_owner_only(bundle: Path, tmp_path: Path) -> None:
    lab, source = tmp_path / "lab", tmp_path / "source"
    installer.install(bundle, lab, lambda _: None)
    assert contents(lab) == contents(source) and len(contents(lab)) == 4
    assert all(path.stat().st_mode & 0o077 == 0 for path in [tmp_path / "lab", *everything(tmp_path / "lab")])
    assert not list(tmp_path.glob(".*")), "no scratch folder is left"
    assert len(installer.read_head(bundle).parts) == len(PARTS) - 1


@pytest.mark.parametrize("number", PARTS)
def test_truncated_bundle_names_the_part(number: int, bundle: Path, tmp_path: Path) -> None:
    victim = file_of(bundle, number)
    content = victim.read_bytes()
    for place in [0, 1, len(content) - 1, *random.Random(number).sample(range(len(content)), 20)]:
        victim.write_bytes(content[:place])
        assert str(victim) in fail_to_install(bundle, tmp_path / "lab")


@pytest.mark.parametrize("number", PARTS)
def test_flipped_bit_names_the_part(number: int, bundle: Path, tmp_path: Path) -> None:
    victim = file_of(bundle, number)
    content = victim.read_bytes()
    chance = random.Random(number)
    for place in [0, len(content) - 1, *chance.sample(range(len(content)), 40)]:
        flipped = bytearray(content)
        flipped[place] ^= 1 << chance.randrange(8)
        victim.write_bytes(flipped)
        assert str(victim) in fail_to_install(bundle, tmp_path / "lab")


@pytest.mark.parametrize("number", PARTS)
def test_missing_part_is_named(number: int, bundle: Path, tmp_path: Path) -> None:
    victim = file_of(bundle, number)
    victim.unlink()
    assert str(victim) in fail_to_install(bundle, tmp_path / "lab")


def test_only_damaged_parts_are_named(bundle: Path, tmp_path: Path) -> None:
    part_path(bundle, 1).unlink()
    part_path(bundle, 3).write_bytes(b"")
    message = fail_to_install(bundle, tmp_path / "lab")
    assert ".001: missing" in message and ".003: has 0 bytes" in message and ".002" not in message


def test_linked_and_swapped_parts_are_refused(bundle: Path, tmp_path: Path) -> None:
    first, second = part_path(bundle, 1), part_path(bundle, 2)
    aside = first.rename(tmp_path / "aside")
    first.symlink_to(aside)
    assert f"{first}: not a regular file" in fail_to_install(bundle, tmp_path / "lab")
    first.unlink()
    second.rename(first)
    aside.rename(second)
    assert str(first) in fail_to_install(bundle, tmp_path / "lab")


def entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, target
    return made


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([(entry("home/x", tarfile.SYMTYPE, "/etc"), b"")], "not a regular file"),
        ([(entry("home/x", tarfile.SYMTYPE, "../../outside"), b""), (entry("home/x/y"), b"1")], "not a regular file"),
        ([(entry("home/x", tarfile.LNKTYPE, "/etc/passwd"), b"")], "not a regular file"),
        ([(entry("home/x", tarfile.CHRTYPE), b"")], "not a regular file"),
        ([(entry("home/x", tarfile.FIFOTYPE), b"")], "not a regular file"),
        ([(entry("home/x", tarfile.DIRTYPE), b"")], "not a regular file"),
        ([(entry("../x"), b"1")], "not in the manifest"),
        ([(entry("/tmp/x"), b"1")], "not in the manifest"),
        ([(entry("home/other"), b"1")], "not in the manifest"),
        ([(entry("home/x"), b"1"), (entry("home/x"), b"1")], "appears twice"),
        ([(entry("home/x"), b"2")], "does not match its SHA-256"),
        ([], "missing from the parts"),
    ],
)
def test_harmful_archives_are_refused(
    entries: list[tuple[tarfile.TarInfo, bytes]], reason: str, forged: Callable[..., Path], tmp_path: Path
) -> None:
    head = forged(entries, {"home/x": b"1"})
    message = fail_to_install(head, tmp_path / "lab")
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
def test_head_with_a_path_outside_is_refused(name: str, forged: Callable[..., Path], tmp_path: Path) -> None:
    head = forged([(entry(name or "x"), b"1")], {name: b"1"})
    assert "is outside the directories" in fail_to_install(head, tmp_path / "lab")


def test_part_that_is_not_an_archive_is_refused(forged: Callable[..., Path], tmp_path: Path, bundle: Path) -> None:
    head = forged([(entry("home/x"), b"1")], {"home/x": b"1"})
    for junk in (b"", b"junk" * 1000, part_path(head, 1).read_bytes()[:600]):
        part_path(head, 1).write_bytes(junk)
        total = installer.Checksum(len(junk), hashlib.sha256(junk).hexdigest())
        head.write_bytes(installer.head_bytes({}, [total], {"home/x": installer.read_head(head).files["home/x"]}))
        assert str(part_path(head, 1)) in fail_to_install(head, tmp_path / "lab")


def test_install_never_overwrites_and_removes_leftovers(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "lab").mkdir()
    with pytest.raises(BundleError, match="exists") as refusal:
        installer.install(bundle, tmp_path / "lab", lambda _: None)
    assert refusal.value.exit_code == 3 and not list((tmp_path / "lab").iterdir())
    (tmp_path / "lab").rmdir()
    (tmp_path / ".lab.making-killed" / "home").mkdir(parents=True)
    (tmp_path / ".lab2.making-other").mkdir()
    installer.install(bundle, tmp_path / "lab", lambda _: None)
    assert not (tmp_path / ".lab.making-killed").exists() and (tmp_path / ".lab2.making-other").exists()


def test_full_disk_is_reported_before_writing(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(installer.shutil, "disk_usage", lambda _: usage)
    before = everything(tmp_path)
    with pytest.raises(BundleError, match="MiB needed"):
        installer.install(bundle, tmp_path / "lab", lambda _: None)
    assert everything(tmp_path) == before


def test_failed_install_leaves_no_files(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = everything(tmp_path)

    def failing(head: installer.Head, scratch: Path) -> None:
        (scratch / "home").mkdir()
        raise OSError(28, "No space left on device", str(scratch))

    monkeypatch.setattr(installer, "_unpack", failing)
    with pytest.raises(BundleError, match="No space left"):
        installer.install(bundle, tmp_path / "lab", lambda _: None)
    assert everything(tmp_path) == before


def run(head: Path, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The bundle by itself, with a Python that has nothing of ours."""
    command = [sys._base_executable, "-I", str(head), *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


def test_head_is_an_installer_with_the_same_exit_codes(bundle: Path, tmp_path: Path) -> None:
    done = run(bundle, "verify", cwd=tmp_path)
    assert done.returncode == 0 and "whole: 4 files in 3 parts" in done.stderr
    assert run(bundle, "install", "--to", "lab", cwd=tmp_path).returncode == 0
    assert (tmp_path / "lab" / "docs" / "index.md").is_file()
    assert run(bundle, "install", "--to", "lab", cwd=tmp_path).returncode == 3
    assert run(bundle, cwd=tmp_path).returncode == 2
    part_path(bundle, 2).unlink()
    done = run(bundle, "verify", cwd=tmp_path)
    assert done.returncode == 1 and "lab.pyz.002: missing" in done.stderr and "Traceback" not in done.stderr


def test_head_and_parts_can_be_renamed_together(bundle: Path, tmp_path: Path) -> None:
    for number in reversed(PARTS):
        path = file_of(bundle, number)
        path.rename(path.with_name(path.name.replace("lab", "other")))
    assert "whole" in installer.verify_bundle(bundle.with_name("other.pyz"))


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed (Debian: openssh-client)")
def test_signature_covers_everything_the_head_names(bundle: Path, tmp_path: Path) -> None:
    for who in ("maker", "other"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / who)], check=True)
        public = (tmp_path / f"{who}.pub").read_text()
        (tmp_path / f"{who}.signers").write_text(f"{who}@lab {public}")
    with pytest.raises(BundleError, match="not signed by a signer"):
        installer.verify_bundle(bundle, tmp_path / "maker.signers")
    installer.sign(bundle, tmp_path / "maker")
    assert installer.verify_bundle(bundle, tmp_path / "maker.signers").endswith("signed by maker@lab")
    for signers in ("other.signers", "no.signers"):
        with pytest.raises(BundleError, match="not signed by a signer"):
            installer.install(bundle, tmp_path / "lab", lambda _: None, tmp_path / signers)
    head = installer.read_head(bundle)
    bundle.write_bytes(installer.head_bytes({**head.about, "more": 1}, list(head.parts), head.files))
    assert "whole" in installer.verify_bundle(bundle)
    with pytest.raises(BundleError, match="not signed by a signer") as refusal:
        installer.install(bundle, tmp_path / "lab", lambda _: None, tmp_path / "maker.signers")
    assert refusal.value.exit_code == 3 and not (tmp_path / "lab").exists()
