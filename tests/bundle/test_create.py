"""`bundle create` packs the requested software, weights, benchmarks and runs, and nothing unrelated.

pip takes the wheels from a folder instead of a package index.
"""

import json
import os
import re
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

from nanoflux_local.adapters.store import store_new_adapter
from nanoflux_local.bundle import contents, installer, sbom, wheels
from nanoflux_local.bundle.writer import write_bundle
from nanoflux_local.errors import NanofluxError, RefusedError, UsageError
from nanoflux_local.ledger import excerpt
from nanoflux_local.paths import Home

COMMAND = [sys.executable, "-m", "nanoflux_local.cli"]
START_SCRIPTED_RUN = ("run", "start", "--domain", "starter-genetics", "--profile", "scripted", "--set", "seeds.min=2")


@pytest.fixture
def command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """A function that runs `nanoflux` in a separate process, whose pip installs only from the folder `index`."""

    def run(home: Path, *arguments: str, index: Path | None = None) -> subprocess.CompletedProcess[str]:
        find_links = "" if index is None else str(index)
        environment = {
            **os.environ, "NANOFLUX_HOME": str(home), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": find_links
        }  # fmt: skip
        return subprocess.run([*COMMAND, *arguments], env=environment, capture_output=True, text=True, timeout=300)

    return run


def run_without_network(*command: str, cwd: Path) -> list[str]:
    """Run a command in an empty network namespace, and return the lines of its output. Skip the test if no namespace
    can be created.
    """
    unshare = shutil.which("unshare")
    prefix = [str(unshare), "-rn"]
    if unshare is None or subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.skip("no network namespace can be created here (unshare -rn)")
    environment = {"PATH": os.environ["PATH"], "HOME": str(cwd), "LC_ALL": "C.UTF-8"}
    result = subprocess.run([*prefix, *command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout.splitlines()


def test_bundled_software_works_without_network(command: Callable[..., Any], wheelhouse: Path, tmp_path: Path) -> None:
    project_wheel = wheelhouse / "nanoflux_local-0.1.0-py3-none-any.whl"
    out = tmp_path / "medium" / "lab.pyz"
    out.parent.mkdir()
    result = command(
        tmp_path / "home", "bundle", "create", "-o", str(out), "--wheel", str(project_wheel),
        "--part-size", "1M", "--json", index=wheelhouse,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout)
    assert summary["python"] == wheels.current_python() and len(summary["parts"]) > 1
    written_names = sorted(path.name for path in out.parent.iterdir())
    assert written_names == ["lab.pyz", *summary["parts"]], "temporary files were left behind"
    run_without_network(sys._base_executable, "-I", str(out), "install", "--to", "lab", cwd=tmp_path)
    lab = tmp_path / "lab"
    assert run_without_network(str(lab / "nanoflux"), cwd=tmp_path) == [f"{lab / 'home'} found"]
    installed_packages = run_without_network(str(lab / "venv/bin/pip"), "list", "--format=freeze", cwd=tmp_path)
    assert installed_packages[:2] == ["nanoflux-local==0.1.0", "needed==0.1.0"]
    assert (lab / "docs" / "explanation" / "sandbox.md").is_file() and not (lab / "wheels").exists()
    components = json.loads((lab / "sbom.json").read_text())["components"]
    licences = [(entry["name"], entry["licenses"][0]["license"]["name"]) for entry in components]
    assert licences[:2] == [("nanoflux-local", "Apache-2.0"), ("needed", "MIT © Zoë")]
    installed_files = [path for path in (lab / "venv").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    files_with_scratch_path = [path for path in installed_files if b".lab.making-" in path.read_bytes()]
    assert files_with_scratch_path == []


def test_bundled_vllm_gets_a_separate_environment(
    command: Callable[..., Any], wheelhouse: Path, tmp_path: Path
) -> None:
    project_wheel = wheelhouse / "nanoflux_local-0.1.0-py3-none-any.whl"
    vllm_requirements = tmp_path / "vllm.txt"
    vllm_requirements.write_text("needed==0.1.0\n")
    result = command(
        tmp_path / "home", "bundle", "create", "-o", str(tmp_path / "lab.pyz"), "--wheel", str(project_wheel),
        "--vllm", str(vllm_requirements), "--extra", "more", index=wheelhouse,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    lab = tmp_path / "lab"
    run_without_network(sys._base_executable, "-I", str(tmp_path / "lab.pyz"), "install", "--to", "lab", cwd=tmp_path)
    vllm_python = str(lab / "vllm/bin/python")
    assert run_without_network(vllm_python, "-c", "import needed; print(needed.WORD)", cwd=tmp_path) == ["found"]
    assert not (lab / "vllm-wheels").exists()
    installed_packages = [path.name for path in (lab / "vllm/lib").glob("*/site-packages/*.dist-info")]
    assert installed_packages == ["needed-0.1.0.dist-info"], "packages outside the requirements were installed"
    assert run_without_network(str(lab / "nanoflux"), cwd=tmp_path) == [f"{lab / 'home'} found by {vllm_python}"]
    components = json.loads((lab / "sbom.json").read_text())["components"]
    assert "more" in {entry["name"] for entry in components}, "the package of the extra is missing"


def test_bundled_search_corpus_can_be_searched(command: Callable[..., Any], tmp_path: Path) -> None:
    home = tmp_path / "home"
    arguments = ("bundle", "create", "-o", str(tmp_path / "lab.pyz"), "--no-software", "--corpus")
    refusal = command(home, *arguments)
    assert refusal.returncode == 4 and "corpus add" in refusal.stderr and not list(tmp_path.glob("lab.pyz"))
    (tmp_path / "facts.txt").write_text("Aspirin inhibits cyclooxygenase irreversibly.\n")
    assert command(home, "corpus", "add", str(tmp_path / "facts.txt")).returncode == 0
    result = command(home, *arguments)
    assert result.returncode == 0, result.stderr
    installer.install(tmp_path / "lab.pyz", tmp_path / "lab", lambda _: None)
    search = command(tmp_path / "lab" / "home", "corpus", "search", "aspirin cyclooxygenase")
    assert search.returncode == 0 and "irreversibly" in search.stdout, search.stderr


def test_wheel_with_a_wrong_hash_leaves_no_installation(wheelhouse: Path, tmp_path: Path) -> None:
    requirements = wheels.pin_wheels(wheelhouse)
    hash_match = re.search("needed==0.1.0 --hash=sha256:(.*)", requirements)
    assert hash_match is not None
    (tmp_path / "requirements.txt").write_text(requirements.replace(hash_match[1], "0" * 64))
    files = {f"wheels/{path.name}": path for path in wheelhouse.iterdir()}
    files["requirements.txt"] = tmp_path / "requirements.txt"
    description = {"python": wheels.current_python(), "platform": wheels.current_platform()}
    write_bundle(tmp_path / "lab.pyz", files, description, 2**30)
    paths_before = set(tmp_path.rglob("*"))
    with pytest.raises(installer.BundleError, match="pip could not install"):
        installer.install(tmp_path / "lab.pyz", tmp_path / "lab", lambda _: None)
    assert set(tmp_path.rglob("*")) == paths_before


@pytest.mark.parametrize(("key", "value"), [("python", "3.99"), ("platform", "manylinux_2_28_riscv64")])
def test_bundle_for_another_machine_is_not_installed(key: str, value: str, wheelhouse: Path, tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text(wheels.pin_wheels(wheelhouse))
    description = {"python": wheels.current_python(), "platform": wheels.current_platform(), key: value}
    write_bundle(tmp_path / "lab.pyz", {"requirements.txt": tmp_path / "requirements.txt"}, description, 2**30)
    with pytest.raises(installer.BundleError, match=f"is for .*{value}") as refusal:
        installer.install(tmp_path / "lab.pyz", tmp_path / "lab", lambda _: None)
    assert refusal.value.exit_code == 3 and not (tmp_path / "lab").exists()


def test_collect_project_does_not_download_existing_wheels_again(
    wheelhouse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project_wheel = wheelhouse / "nanoflux_local-0.1.0-py3-none-any.whl"
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheelhouse))
    arguments = (tmp_path / "wheels", project_wheel, (), wheels.current_python(), wheels.current_platform())
    wheels.collect_project(*arguments)
    monkeypatch.setenv("PIP_FIND_LINKS", "")  # from here on, pip finds no wheel to download
    wheels.collect_project(*arguments)
    assert len(list((tmp_path / "wheels").iterdir())) == 3
    next((tmp_path / "wheels").glob("needed*")).unlink()
    with pytest.raises(NanofluxError, match="could not be downloaded"):
        wheels.collect_project(*arguments)
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
    with pytest.raises(UsageError, match="not a supported wheel platform"):
        wheels.compatible_tags("win_amd64")


def test_bundles_of_equal_files_are_identical(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"1" * 5000)
    bundles = []
    for folder in (tmp_path / "first", tmp_path / "second"):
        folder.mkdir()
        write_bundle(folder / "lab.pyz", {"home/x": source, "docs/y": source}, {}, part_bytes=4000)
        os.utime(source, (1, 1))  # a bundle must not depend on a file's modification time
        bundles.append({path.name: path.read_bytes() for path in folder.iterdir()})
    first_bundle, second_bundle = bundles
    assert first_bundle == second_bundle and len(first_bundle) > 3


def test_existing_bundle_is_not_overwritten(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"1")
    write_bundle(tmp_path / "lab.pyz", {"home/x": source}, {}, part_bytes=4000)
    with pytest.raises(RefusedError, match="exists"):
        write_bundle(tmp_path / "lab.pyz", {"home/x": source}, {}, part_bytes=4000)


def test_parts_of_a_failed_creation_are_removed(tmp_path: Path) -> None:
    bundle = tmp_path / "lab.pyz"
    source = tmp_path / "source"
    source.write_bytes(b"1" * 50_000)
    for number in range(1, 30):
        installer.part_path(bundle, number).write_bytes(b"left by a killed creation")
    with pytest.raises(NanofluxError, match="No such file"):
        write_bundle(bundle, {"docs/x": source, "home/y": tmp_path / "missing"}, {}, part_bytes=4000)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
    write_bundle(bundle, {"docs/x": source}, {}, part_bytes=30_000)
    expected_names = ["lab.pyz", "lab.pyz.001", "lab.pyz.002", "lab.pyz.003", "source"]
    assert sorted(path.name for path in tmp_path.iterdir()) == expected_names


# Bundles with runs


def test_bundled_run_can_be_verified_and_replayed_in_another_home(command: Callable[..., Any], tmp_path: Path) -> None:
    home = tmp_path / "home"
    out = tmp_path / "out.pyz"
    for name, seed in (("tour", "7"), ("other", "8")):
        result = command(home, *START_SCRIPTED_RUN, "--max-turns", "6", "--seed", seed, "--name", name)
        assert result.returncode == 0, result.stderr
    summary = json.loads(command(home, "run", "show", "tour", "--json").stdout)
    other_run = json.loads(command(home, "run", "show", "other", "--json").stdout)["run"]
    result = command(home, "bundle", "create", "-o", str(out), "--no-software", "--export", "tour")
    assert result.returncode == 0, result.stderr
    assert command(home, "bundle", "install", str(out), "--to", str(tmp_path / "in")).returncode == 0
    installed_home = tmp_path / "in" / "home"
    assert json.loads(command(installed_home, "run", "show", "tour", "--json").stdout)["digest"] == summary["digest"]
    for check in ("verify", "replay"):
        result = command(installed_home, "run", check, "tour")
        assert result.returncode == 0, result.stderr
    installed_runs = json.loads(command(installed_home, "run", "list", "--json").stdout)
    assert [run["name"] for run in installed_runs] == ["tour"]
    ledger_bytes = (installed_home / "ledger.db").read_bytes()
    assert other_run.encode() not in ledger_bytes, "the bundled ledger mentions the other run"
    assert (installed_home / "reports" / summary["run"] / "index.html").is_file()


def test_bundled_run_includes_only_its_own_domain(command: Callable[..., Any], tmp_path: Path) -> None:
    home = tmp_path / "lab"
    domains = home / "domains"
    domains.mkdir(parents=True)
    (domains / "ours.toml").write_text('extends = "starter-genetics"\nprompt_files = { defender = "ours.md" }\n')
    (domains / "ours.md").write_text("{{ question }}")
    (domains / "secret.toml").write_text('extends = "starter-genetics"\n')
    arguments = ["ours" if word == "starter-genetics" else word for word in START_SCRIPTED_RUN]
    result = command(home, *arguments, "--max-turns", "2", "--json")
    assert result.returncode == 0, result.stderr
    run = json.loads(result.stdout)["run"]
    request = contents.BundleRequest(runs=(run,), software=False)
    bundle_contents = contents.gather(request, Home(home), tmp_path / "scratch")
    domain_files = sorted(name for name in bundle_contents.files if "domains" in name)
    assert domain_files == ["home/domains/ours.md", "home/domains/ours.toml"]


def test_create_finds_an_adapter_by_hash_or_name(tmp_path: Path) -> None:
    home = Home(tmp_path / "home").prepare()
    source = tmp_path / "source"
    source.mkdir()
    home.adapters.mkdir()
    (source / "adapter_config.json").write_text("{}")
    (source / "adapter_model.safetensors").write_bytes(b"weights")
    adapter_folder = store_new_adapter(source, home.adapters, {"imported": {"name": "mine"}}, lambda _: "card")
    for name in ("mine", adapter_folder.name[:10]):
        request = contents.BundleRequest(adapters=(name,), software=False)
        bundle_contents = contents.gather(request, home, tmp_path / name)
        assert bundle_contents.description["adapters"] == [adapter_folder.name]
        assert f"home/adapters/{adapter_folder.name}/adapter_model.safetensors" in bundle_contents.files


def test_bundled_benchmark_is_listed_after_installation(command: Callable[..., Any], tmp_path: Path) -> None:
    home = tmp_path / "home"
    data_file = tmp_path / "gsmhardv2.jsonl"
    item = {"input": "How many are 2 and 3?", "code": "def solution():\n    return 5\n", "target": 5.0}
    data_file.write_text(json.dumps(item) + "\n")
    result = command(home, "data", "import", "gsmhard", str(data_file))
    assert result.returncode == 0, result.stderr
    out = tmp_path / "in.pyz"
    result = command(home, "bundle", "create", "-o", str(out), "--no-software", "--data", "gsmhard")
    assert result.returncode == 0, result.stderr
    installer.install(out, tmp_path / "lab", lambda _: None)
    result = command(tmp_path / "lab" / "home", "data", "list", "--json")
    assert "gsmhard" in [entry["name"] for entry in json.loads(result.stdout)]


def test_bundled_profile_is_found_by_its_name(command: Callable[..., Any], tmp_path: Path) -> None:
    profile = tmp_path / "ours.toml"
    out = tmp_path / "in.pyz"
    profile.write_text((files("nanoflux_local.profiles") / "scripted.toml").read_text())
    result = command(tmp_path / "home", "bundle", "create", "-o", str(out), "--no-software", "--profile", str(profile))
    assert result.returncode == 0, result.stderr
    lab_home = tmp_path / "lab" / "home"
    installer.install(out, tmp_path / "lab", lambda _: None)
    arguments = ("run", "start", "--domain", "starter-genetics", "--set", "seeds.min=2", "--max-turns", "1")
    result = command(lab_home, *arguments, "--profile", "ours")
    assert result.returncode == 0, result.stderr
    refusal = command(lab_home, *arguments, "--profile", "theirs")
    assert refusal.returncode == 2 and "ours" in refusal.stderr and "scripted" in refusal.stderr


def test_create_refuses_missing_contents_and_invalid_options(command: Callable[..., Any], tmp_path: Path) -> None:
    home = tmp_path / "home"
    out = tmp_path / "out.pyz"
    assert command(home, *START_SCRIPTED_RUN, "--max-turns", "1").returncode == 0
    missing_contents = [
        (("--export", "nobody"), 4),
        (("--data", "nothing"), 4),
        (("--model", "smollm2-135m"), 4),
        (("--profile", "no"), 2),
    ]
    invalid_options = [(("--part-size", "many"), 2), ((), 2)]  # without options, the bundle would be empty
    for options, exit_code in (*missing_contents, *invalid_options):
        result = command(home, "bundle", "create", "-o", str(out), "--no-software", *options)
        assert result.returncode == exit_code and "Traceback" not in result.stderr, result.stderr
        assert not out.exists() and not list(tmp_path.glob("out.pyz.0*"))


def test_excerpt_deletes_from_every_table_of_the_ledger(tmp_path: Path) -> None:
    from nanoflux_local.ledger.store import Ledger

    with Ledger(tmp_path / "ledger.db"):
        pass
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as ledger:
        tables = {name for (name,) in ledger.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    ledger_tables = {name for name in tables if not name.startswith(("sqlite_", "_sqlite"))}
    deletions = excerpt.DELETIONS.replace(";", " ")
    tables_without_deletion = {name for name in ledger_tables if f"DELETE FROM {name} " not in deletions}
    assert tables_without_deletion == set()


def test_bill_of_materials_is_reproducible_and_in_cyclonedx_format(wheelhouse: Path) -> None:
    text = sbom.render_sbom(wheelhouse.glob("*.whl"), [])
    assert text == sbom.render_sbom(wheelhouse.glob("*.whl"), [])
    bill = json.loads(text)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    (needed,) = [entry for entry in bill["components"] if entry["name"] == "needed"]
    assert needed["purl"] == "pkg:pypi/needed@0.1.0" and len(needed["hashes"][0]["content"]) == 64
