"""`bundle create`: software, weights and benchmarks on the way in, runs on the way out; what it carries is bare of the
rest. Wheels come from a folder that plays the index."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from nanoflux_local.adapters.store import seal
from nanoflux_local.bundle import contents, installer, sbom, wheels
from nanoflux_local.bundle.writer import write_bundle
from nanoflux_local.errors import NanofluxError, RefusedError, UsageError
from nanoflux_local.ledger import excerpt
from nanoflux_local.paths import Home

COMMAND = [sys.executable, "-m", "nanoflux_local.cli"]
SCRIPTED = ("run", "start", "--domain", "starter-genetics", "--profile", "scripted", "--set", "seeds.min=2")


@pytest.fixture
def command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`nanoflux` in a separate process; `index` is the only directory from which its pip installs."""

    def run(home: Path, *words: str, index: Path | None = None) -> subprocess.CompletedProcess[str]:
        more = {"NANOFLUX_HOME": str(home), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index or "")}
        return subprocess.run(
            [*COMMAND, *words], env={**os.environ, **more}, capture_output=True, text=True, timeout=300
        )

    return run


def alone(*words: str, cwd: Path) -> list[str]:
    """A command prefix for an empty network namespace; skips if none can be made."""
    unshare = shutil.which("unshare")
    prefix = [str(unshare), "-rn"]
    if unshare is None or subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.skip("no network namespace can be made here (unshare -rn)")
    clear = {"PATH": os.environ["PATH"], "HOME": str(cwd), "LC_ALL": "C.UTF-8"}
    done = subprocess.run([*prefix, *words], cwd=cwd, env=clear, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_bundled_software_works_without_network(command: Callable[..., Any], wheelhouse: Path, tmp_path: Path) -> None:
    out, own = tmp_path / "medium" / "lab.pyz", wheelhouse / "nanoflux_local-0.1.0-py3-none-any.whl"
    out.parent.mkdir()
    done = command(
        tmp_path / "home", "bundle", "create", "-o", str(out), "--wheel", str(own), "--part-size", "1M", "--json",
        index=wheelhouse,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    created = json.loads(done.stdout)
    assert created["python"] == wheels.this_python() and len(created["parts"]) > 1
    assert sorted(path.name for path in out.parent.iterdir()) == ["lab.pyz", *created["parts"]], "no scratch is left"
    alone(sys._base_executable, "-I", str(out), "install", "--to", "lab", cwd=tmp_path)
    lab = tmp_path / "lab"
    assert alone(str(lab / "nanoflux"), cwd=tmp_path) == [f"{lab / 'home'} found"]
    assert alone(str(lab / "venv/bin/pip"), "list", "--format=freeze", cwd=tmp_path)[:2] == [
        "nanoflux-local==0.1.0", "needed==0.1.0",
    ]  # fmt: skip
    assert (lab / "docs" / "explanation" / "sandbox.md").is_file() and not (lab / "wheels").exists()
    components = json.loads((lab / "sbom.json").read_text())["components"]
    assert [(each["name"], each["licenses"][0]["license"]["name"]) for each in components][:2] == [
        ("nanoflux-local", "Apache-2.0"), ("needed", "MIT © Zoë"),
    ]  # fmt: skip
    made = [path for path in (lab / "venv").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert not [path for path in made if b".lab.making-" in path.read_bytes()], "the scratch folder is not named"


def test_bundled_vllm_gets_a_separate_environment(
    command: Callable[..., Any], wheelhouse: Path, tmp_path: Path
) -> None:
    listed, own = tmp_path / "vllm.txt", wheelhouse / "nanoflux_local-0.1.0-py3-none-any.whl"
    listed.write_text("needed==0.1.0\n")
    words = (
        "bundle",
        "create",
        "-o",
        str(tmp_path / "lab.pyz"),
        "--wheel",
        str(own),
        "--vllm",
        str(listed),
        "--extra",
        "more",
    )
    done = command(tmp_path / "home", *words, index=wheelhouse)
    assert done.returncode == 0, done.stderr
    lab = tmp_path / "lab"
    alone(sys._base_executable, "-I", str(tmp_path / "lab.pyz"), "install", "--to", "lab", cwd=tmp_path)
    assert alone(str(lab / "vllm/bin/python"), "-c", "import needed; print(needed.WORD)", cwd=tmp_path) == ["found"]
    assert not (lab / "vllm-wheels").exists()
    assert sorted(path.name for path in (lab / "vllm/lib").glob("*/site-packages/*.dist-info")) == [
        "needed-0.1.0.dist-info"
    ], "nothing but what the list names"
    assert alone(str(lab / "nanoflux"), cwd=tmp_path) == [f"{lab / 'home'} found by {lab / 'vllm/bin/python'}"]
    packed = json.loads((lab / "sbom.json").read_text())["components"]
    assert "more" in {each["name"] for each in packed}, "what the extra needs"


def test_bundled_search_corpus_can_be_searched(command: Callable[..., Any], tmp_path: Path) -> None:
    home, words = tmp_path / "home", ("bundle", "create", "-o", str(tmp_path / "lab.pyz"), "--no-software", "--corpus")
    refused = command(home, *words)
    assert refused.returncode == 4 and "corpus add" in refused.stderr and not list(tmp_path.glob("lab.pyz"))
    (tmp_path / "facts.txt").write_text("Aspirin inhibits cyclooxygenase irreversibly.\n")
    assert command(home, "corpus", "add", str(tmp_path / "facts.txt")).returncode == 0
    done = command(home, *words)
    assert done.returncode == 0, done.stderr
    installer.install(tmp_path / "lab.pyz", tmp_path / "lab", lambda _: None)
    search = command(tmp_path / "lab" / "home", "corpus", "search", "aspirin cyclooxygenase")
    assert search.returncode == 0 and "irreversibly" in search.stdout, search.stderr


def test_unpinned_wheel_leaves_no_installation(wheelhouse: Path, tmp_path: Path) -> None:
    pinned = wheels.pin_wheels(wheelhouse).replace("needed==0.1.0 --hash=sha256:", "needed==0.1.0 --hash=sha256:0")
    (tmp_path / "requirements.txt").write_text(pinned[:-2] + "\n")
    files = {f"wheels/{path.name}": path for path in wheelhouse.iterdir()}
    about = {"python": wheels.this_python(), "platform": wheels.this_platform()}
    files["requirements.txt"] = tmp_path / "requirements.txt"
    write_bundle(tmp_path / "lab.pyz", files, about, 2**30)
    before = set(tmp_path.rglob("*"))
    with pytest.raises(installer.BundleError, match="pip could not install"):
        installer.install(tmp_path / "lab.pyz", tmp_path / "lab", lambda _: None)
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(("key", "value"), [("python", "3.99"), ("platform", "manylinux_2_28_riscv64")])
def test_install_refuses_a_bundle_for_another_machine(key: str, value: str, wheelhouse: Path, tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text(wheels.pin_wheels(wheelhouse))
    about = {"python": wheels.this_python(), "platform": wheels.this_platform(), key: value}
    write_bundle(tmp_path / "lab.pyz", {"requirements.txt": tmp_path / "requirements.txt"}, about, 2**30)
    with pytest.raises(installer.BundleError, match=f"is for .*{value}") as refusal:
        installer.install(tmp_path / "lab.pyz", tmp_path / "lab", lambda _: None)
    assert refusal.value.exit_code == 3 and not (tmp_path / "lab").exists()


def test_downloaded_wheels_are_not_fetched_again(
    wheelhouse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = wheelhouse / "nanoflux_local-0.1.0-py3-none-any.whl"
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheelhouse))
    arguments = (tmp_path / "wheels", own, (), wheels.this_python(), wheels.this_platform())
    wheels.collect(*arguments)
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    wheels.collect(*arguments)
    assert len(list((tmp_path / "wheels").iterdir())) == 3
    next((tmp_path / "wheels").glob("needed*")).unlink()
    with pytest.raises(NanofluxError, match="could not be downloaded"):
        wheels.collect(*arguments)
    assert len(list((tmp_path / "wheels").iterdir())) == 2


def test_two_versions_of_a_package_are_refused(wheelhouse: Path) -> None:
    assert wheels.pin_wheels(wheelhouse).count("--hash=sha256:") == 4
    (wheelhouse / "needed-0.2.0-py3-none-any.whl").write_bytes(b"")
    with pytest.raises(RefusedError, match="two versions of needed"):
        wheels.pin_wheels(wheelhouse)


def test_compatible_tags_include_older_platforms() -> None:
    tags = wheels.compatible_tags("manylinux_2_28_x86_64")
    assert tags[0] == "manylinux_2_28_x86_64" and {"manylinux_2_17_x86_64", "manylinux1_x86_64"} < set(tags)
    assert wheels.compatible_tags("manylinux_2_18_aarch64") == [
        "manylinux_2_18_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64",
    ]  # fmt: skip
    with pytest.raises(UsageError, match="not a wheel platform"):
        wheels.compatible_tags("win_amd64")


def test_equal_files_give_equal_bundles(tmp_path: Path) -> None:
    source = tmp_path / "x"
    source.write_bytes(b"1" * 5000)
    made = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_bundle(tmp_path / name / "lab.pyz", {"home/x": source, "docs/y": source}, {}, 4000)
        os.utime(source, (1, 1))
        made.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert made[0] == made[1] and len(made[0]) > 3
    with pytest.raises(RefusedError, match="exists"):
        write_bundle(tmp_path / "a" / "lab.pyz", {"home/x": source}, {}, 4000)


def test_parts_of_a_failed_creation_are_removed(tmp_path: Path) -> None:
    source, out = tmp_path / "x", tmp_path / "lab.pyz"
    source.write_bytes(b"1" * 50_000)
    for number in range(1, 30):
        installer.part_path(out, number).write_bytes(b"left by a killed creation")
    with pytest.raises(NanofluxError, match="No such file"):
        write_bundle(out, {"docs/x": source, "home/y": tmp_path / "gone"}, {}, 4000)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    write_bundle(out, {"docs/x": source}, {}, 30_000)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "lab.pyz",
        "lab.pyz.001",
        "lab.pyz.002",
        "lab.pyz.003",
        "x",
    ]


# Runs travel out


def test_bundled_run_verifies_and_replays_elsewhere(command: Callable[..., Any], tmp_path: Path) -> None:
    home, out = tmp_path / "home", tmp_path / "out.pyz"
    for name, seed in (("tour", "7"), ("other", "8")):
        done = command(home, *SCRIPTED, "--max-turns", "6", "--seed", seed, "--name", name)
        assert done.returncode == 0, done.stderr
    shown = json.loads(command(home, "run", "show", "tour", "--json").stdout)
    hidden = json.loads(command(home, "run", "show", "other", "--json").stdout)["run"]
    done = command(home, "bundle", "create", "-o", str(out), "--no-software", "--export", "tour")
    assert done.returncode == 0, done.stderr
    assert command(home, "bundle", "install", str(out), "--to", str(tmp_path / "in")).returncode == 0
    there = tmp_path / "in" / "home"
    assert json.loads(command(there, "run", "show", "tour", "--json").stdout)["digest"] == shown["digest"]
    for check in ("verify", "replay"):
        done = command(there, "run", check, "tour")
        assert done.returncode == 0, done.stderr
    assert [run["name"] for run in json.loads(command(there, "run", "list", "--json").stdout)] == ["tour"]
    assert hidden.encode() not in (there / "ledger.db").read_bytes(), "nothing of the other run is in the file"
    assert (there / "reports" / shown["run"] / "index.html").is_file()


def test_bundled_run_includes_only_its_own_domain(command: Callable[..., Any], tmp_path: Path) -> None:
    lab, folder = tmp_path / "lab", tmp_path / "lab" / "domains"
    folder.mkdir(parents=True)
    (folder / "ours.toml").write_text('extends = "starter-genetics"\nprompt_files = { defender = "ours.md" }\n')
    (folder / "ours.md").write_text("{{ question }}")
    (folder / "secret.toml").write_text('extends = "starter-genetics"\n')
    words = ["ours" if word == "starter-genetics" else word for word in SCRIPTED]
    done = command(lab, *words, "--max-turns", "2", "--json")
    assert done.returncode == 0, done.stderr
    run = json.loads(done.stdout)["run"]
    files_by_name = contents.gather(
        contents.BundleRequest(runs=(run,), software=False), Home(lab), tmp_path / "scratch"
    ).files
    assert sorted(name for name in files_by_name if "domains" in name) == [
        "home/domains/ours.md",
        "home/domains/ours.toml",
    ]


def test_bundle_takes_an_adapter_by_hash_or_name(tmp_path: Path) -> None:
    home, made = Home(tmp_path / "home").prepare(), tmp_path / "made"
    made.mkdir()
    home.adapters.mkdir()
    (made / "adapter_config.json").write_text("{}")
    (made / "adapter_model.safetensors").write_bytes(b"weights")
    folder = seal(made, home.adapters, {"imported": {"name": "mine"}}, lambda _: "card")
    for name in ("mine", folder.name[:10]):
        wanted = contents.BundleRequest(adapters=(name,), software=False)
        gathered = contents.gather(wanted, home, tmp_path / name)
        assert gathered.about["adapters"] == [folder.name]
        assert f"home/adapters/{folder.name}/adapter_model.safetensors" in gathered.files


def test_bundled_benchmark_is_installed(command: Callable[..., Any], tmp_path: Path) -> None:
    home, rows = tmp_path / "home", tmp_path / "gsmhardv2.jsonl"
    item = {"input": "How many are 2 and 3?", "code": "def solution():\n    return 5\n", "target": 5.0}
    rows.write_text(json.dumps(item) + "\n")
    done = command(home, "data", "import", "gsmhard", str(rows))
    assert done.returncode == 0, done.stderr
    out = tmp_path / "in.pyz"
    done = command(home, "bundle", "create", "-o", str(out), "--no-software", "--data", "gsmhard")
    assert done.returncode == 0, done.stderr
    installer.install(out, tmp_path / "lab", lambda _: None)
    done = command(tmp_path / "lab" / "home", "data", "list", "--json")
    assert "gsmhard" in [each["name"] for each in json.loads(done.stdout)]


def test_bundled_profile_is_found_by_its_name(command: Callable[..., Any], tmp_path: Path) -> None:
    own, out = tmp_path / "ours.toml", tmp_path / "in.pyz"
    own.write_text((files("nanoflux_local.profiles") / "scripted.toml").read_text())
    done = command(tmp_path / "home", "bundle", "create", "-o", str(out), "--no-software", "--profile", str(own))
    assert done.returncode == 0, done.stderr
    lab = tmp_path / "lab" / "home"
    installer.install(out, tmp_path / "lab", lambda _: None)
    words = ("run", "start", "--domain", "starter-genetics", "--set", "seeds.min=2", "--max-turns", "1")
    done = command(lab, *words, "--profile", "ours")
    assert done.returncode == 0, done.stderr
    unknown = command(lab, *words, "--profile", "theirs")
    assert unknown.returncode == 2 and "ours" in unknown.stderr and "scripted" in unknown.stderr


def test_create_refuses_missing_contents(command: Callable[..., Any], tmp_path: Path) -> None:
    home, out = tmp_path / "home", tmp_path / "out.pyz"
    assert command(home, *SCRIPTED, "--max-turns", "1").returncode == 0
    asked = [
        ("--export", "nobody", 4),
        ("--data", "nothing", 4),
        ("--model", "smollm2-135m", 4),
        ("--profile", "no", 2),
    ]
    for option, name, code in (*asked, ("--part-size", "many", 2), ("--no-software", "--no-software", 2)):
        done = command(home, "bundle", "create", "-o", str(out), "--no-software", option, name)
        assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
        assert not out.exists() and not list(tmp_path.glob("out.pyz.0*"))


def test_excerpt_handles_every_table_of_the_ledger(tmp_path: Path) -> None:
    from nanoflux_local.ledger.store import Ledger

    with Ledger(tmp_path / "ledger.db"):
        pass
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as ledger:
        tables = {name for (name,) in ledger.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    unknown = {name for name in tables if f"DELETE FROM {name} " not in excerpt.DELETIONS.replace(";", " ")}
    assert {name for name in unknown if not name.startswith(("sqlite_", "_sqlite"))} == set()


def test_bill_of_materials_is_reproducible_cyclonedx(wheelhouse: Path) -> None:
    text = sbom.render_sbom(wheelhouse.glob("*.whl"), [])
    assert text == sbom.render_sbom(wheelhouse.glob("*.whl"), [])
    bill = json.loads(text)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    (needed,) = [each for each in bill["components"] if each["name"] == "needed"]
    assert needed["purl"] == "pkg:pypi/needed@0.1.0" and len(needed["hashes"][0]["content"]) == 64
