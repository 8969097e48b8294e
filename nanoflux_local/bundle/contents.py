"""Gathers the contents of a bundle: wheels, weights, benchmarks, profiles, docs, and runs with adapters and reports.

`gather` maps each path in the bundle to a file on this machine; it writes only into its scratch directory.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanoflux_local import __version__, packages
from nanoflux_local.adapters.record import Adapter
from nanoflux_local.adapters.store import find_adapter, list_adapters
from nanoflux_local.bundle import sbom, wheels
from nanoflux_local.errors import NanofluxError, NothingMatchedError, UsageError
from nanoflux_local.evaluate.items import find_evaluation
from nanoflux_local.ledger.backup import back_up
from nanoflux_local.ledger.excerpt import ExcerptContents, write_excerpt
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.train.trainings import TRAIN_FILE, VALIDATION_FILE
from nanoflux_models.errors import DigestMismatchError
from nanoflux_models.probe_record import PROBE
from nanoflux_models.record import find_problems, read_record
from nanoflux_models.weights import weights_dir


@dataclass(frozen=True, slots=True)
class BundleRequest:
    """What a bundle should contain.

    Models, datasets, runs, adapters and evaluations are requested by name, profiles by path. `work` adds all runs,
    adapters and evaluations of the home; `corpus` adds the search corpus.

    `software` adds the project's `wheel` (if None, it is built from this checkout) with its `extras` and dependencies.
    `vllm` is a requirements file whose packages are added too. All wheels are for the Python version `python` ("3.12")
    and the wheel platform `platform`; "" stands for those of this machine.
    """

    models: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    profiles: tuple[Path, ...] = ()
    runs: tuple[str, ...] = ()
    software: bool = True
    wheel: Path | None = None
    extras: tuple[str, ...] = ()
    vllm: Path | None = None
    corpus: bool = False
    python: str = ""
    platform: str = ""
    adapters: tuple[str, ...] = ()
    evaluations: tuple[str, ...] = ()
    work: bool = False


@dataclass(frozen=True, slots=True)
class Contents:
    """The files of a bundle by their paths in the bundle, and the facts to state in its manifest (`description`)."""

    files: dict[str, Path]
    description: dict[str, Any]


def gather(request: BundleRequest, home: Home, scratch: Path) -> Contents:
    """Gather everything that was requested, and verify the weights. Generated files are written to `scratch`.

    Raises:
        NanofluxError, ModelsError: something is missing, damaged, or could not be downloaded.
    """
    python = request.python or wheels.current_python()
    platform = request.platform or wheels.current_platform()
    selection = _choose_contents(request, home)  # before mkdir, so that an unknown name leaves no directory behind
    runs = list(selection.runs)
    adapter_hashes = sorted(selection.adapters)
    scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = {**_map_weights(request, home), **_map_profiles(request), **_write_ledger(home, scratch, selection)}
    if request.corpus:
        files |= _copy_corpus(home, scratch)
    files |= _map_training_rows(home, files.get("home/ledger.db"))
    files |= _map_domains(home, runs)
    for adapter_hash in adapter_hashes:
        files |= _map_adapter(home, adapter_hash)
    if request.runs:  # with `work` alone, the receiver can write reports from the merged ledger
        for run in runs:
            files |= _write_report(home, scratch, run)
    description: dict[str, Any] = {
        "nanoflux": __version__,
        "models": list(request.models),
        "runs": runs,
        "adapters": adapter_hashes,
        "evaluations": list(selection.evaluations),
        "datasets": list(request.datasets),
        "profiles": [path.name for path in request.profiles],
    }
    if request.software:
        wheels.collect_project(scratch / "wheels", request.wheel, request.extras, python, platform)
        files |= _map_software(scratch, "") | _map_folder(docs_folder(), "docs")
        if request.vllm:
            wheels.collect_requirements(scratch / "vllm-wheels", request.vllm, python, platform)
            files |= _map_software(scratch, "vllm-")
        description |= {"python": python, "platform": platform}
    if not files:
        raise UsageError("the bundle would be empty", "add --model, --data, --profile, --export or --work")
    files["sbom.json"] = _write_text(scratch / "sbom.json", _render_sbom(request, home, scratch))
    return Contents(files, description)


def docs_folder() -> Path:
    """The folder of the documentation: inside the package if a wheel is installed, at the root in a checkout."""
    packaged_docs = Path(__file__).parents[1] / "docs"
    return packaged_docs if packaged_docs.is_dir() else packages.find_constraints_file().parent / "docs"


def _map_weights(request: BundleRequest, home: Home) -> dict[str, Path]:
    """The verified weights of the requested models, and those of their manifests that the user has added."""
    files: dict[str, Path] = {}
    for name in request.models:
        folder = weights_dir(name, home.root)
        problems = find_problems(folder)
        if problems:
            raise DigestMismatchError("; ".join(problems), f"run `nanoflux models pull {name}`, or import it again")
        files |= _map_folder(folder, f"home/weights/{name}")
        user_manifest = home.root / "models" / f"{name}.toml"
        if user_manifest.is_file():
            files[f"home/models/{name}.toml"] = user_manifest
    return files


def _map_profiles(request: BundleRequest) -> dict[str, Path]:
    """The requested profile files."""
    unusable_paths = [path for path in request.profiles if path.suffix != ".toml" or not path.is_file()]
    if unusable_paths:
        raise UsageError(
            f"{unusable_paths[0]} is not a profile file",
            "pass a .toml file; the wheel already includes the built-in profiles",
        )
    return {f"home/profiles/{path.name}": path for path in request.profiles}


def _choose_contents(request: BundleRequest, home: Home) -> ExcerptContents:
    """Choose the requested runs, datasets, adapters and evaluations. Add the earlier runs whose questions the requested
    runs had to avoid, and the adapters that were trained on any of these runs or used by one of them.
    """
    adapters = {find_adapter(home.adapters, name).name for name in request.adapters}
    if request.work:
        adapters |= {adapter.hash for adapter in list_adapters(home.adapters) if isinstance(adapter, Adapter)}
    names_recorded_work = bool(request.runs or request.datasets or request.evaluations)
    if not names_recorded_work and not (request.work and home.ledger.exists()):
        return ExcerptContents(adapters=adapters)
    with LedgerView(home.ledger) as view:
        _refuse_unknown_datasets(view, request.datasets)
        runs = [view.find_run(name)["id"] for name in request.runs]
        evaluations = [find_evaluation(view, name).id for name in request.evaluations]
        if request.work:
            runs += [row["id"] for row in view.rows("SELECT id FROM runs ORDER BY rowid")]
            evaluations += [row["id"] for row in view.rows("SELECT id FROM evaluations ORDER BY rowid")]
        runs = _add_earlier_runs(view, runs)
        linked_adapters = [name for run in runs for name in _list_linked_adapters(view, run, home)]
    existing_adapters = {name for name in linked_adapters if (home.adapters / name).is_dir()}
    return ExcerptContents(runs, request.datasets, adapters | existing_adapters, list(dict.fromkeys(evaluations)))


def _refuse_unknown_datasets(view: LedgerView, names: Sequence[str]) -> None:
    """Raise NothingMatchedError if a dataset is not imported."""
    imported_names = {dataset.name for dataset in view.datasets()}
    for name in names:
        if name not in imported_names:
            choices = f"choose one of: {', '.join(sorted(imported_names))}" if imported_names else "leave out --data"
            fix = f"import it with `nanoflux data import`, or {choices}; built-in benchmarks are part of the wheel"
            raise NothingMatchedError(f"no imported benchmark {name!r} in this home", fix)


def _add_earlier_runs(view: LedgerView, runs: Sequence[str]) -> list[str]:
    """The runs, and the earlier runs whose questions they had to avoid: verifying a run needs these earlier runs."""
    all_runs = list(dict.fromkeys(runs))
    for run in all_runs:  # the loop also visits the earlier runs that it appends, which may name still earlier runs
        config = json.loads(view.find_run(run)["config"])
        for earlier_run in config.get("novel_against", {}):
            is_recorded = view.row("SELECT 1 FROM runs WHERE id = ?", earlier_run) is not None
            if is_recorded and earlier_run not in all_runs:
                all_runs.append(earlier_run)
    return all_runs


def _list_linked_adapters(view: LedgerView, run: str, home: Home) -> list[str]:
    """The hashes of the adapters that were trained on a run, and of those that the run's endpoints name."""
    training_rows = view.rows("SELECT adapter FROM trainings WHERE run = ? AND status = 'done'", run)
    return [*(row["adapter"] for row in training_rows), *_list_used_adapters(view, run, home)]


def _list_used_adapters(view: LedgerView, run: str, home: Home) -> list[str]:
    """The hashes of the adapters that a run's endpoints name; those that no longer exist are skipped."""
    endpoints = json.loads(view.find_run(run)["config"]).get("endpoints", {}).values()
    adapter_names = [endpoint["adapter"] for endpoint in endpoints if endpoint.get("adapter")]
    hashes = []
    for name in adapter_names:
        with suppress(NanofluxError):
            hashes.append(find_adapter(home.adapters, name).name)
    return hashes


def _map_domains(home: Home, runs: list[str]) -> dict[str, Path]:
    """The files of the user's domains that these runs used; without the files, the runs cannot be replayed."""
    from nanoflux_local.domains.own import list_domain_files

    if not runs:
        return {}
    with LedgerView(home.ledger) as view:
        names = {view.find_run(run)["domain"] for run in runs}
    paths = [path for name in sorted(names) for path in list_domain_files(name, home.root)]
    return {f"home/domains/{path.name}": path for path in paths}


def _map_adapter(home: Home, adapter_hash: str) -> dict[str, Path]:
    """The files of an adapter, except the result of its last probe, which is valid only for this machine."""
    files = _map_folder(home.adapters / adapter_hash, f"home/adapters/{adapter_hash}")
    return {path: file for path, file in files.items() if file.name != PROBE}


def _write_ledger(home: Home, scratch: Path, selection: ExcerptContents) -> dict[str, Path]:
    """Write the bundle's ledger: an excerpt with only the selected runs, datasets, adapters and evaluations."""
    selected_names = (selection.runs, selection.datasets, selection.adapters, selection.evaluations)
    if not home.ledger.exists() or not any(selected_names):
        return {}
    target = scratch / "ledger.db"
    target.unlink(missing_ok=True)
    write_excerpt(home.ledger, target, selection)
    return {"home/ledger.db": target}


def _map_training_rows(home: Home, excerpt: Path | None) -> dict[str, Path]:
    """The training rows of the finished training runs in the excerpt; `examples show` reads them to find the training
    runs that used an example.
    """
    if excerpt is None:
        return {}
    with LedgerView(excerpt) as view:
        trainings = [row["id"] for row in view.rows("SELECT id FROM trainings WHERE status = 'done'")]
    relative_paths = [
        f"trainings/{training}/{name}" for training in trainings for name in (TRAIN_FILE, VALIDATION_FILE)
    ]
    return {f"home/{path}": home.root / path for path in relative_paths if (home.root / path).is_file()}


def _copy_corpus(home: Home, scratch: Path) -> dict[str, Path]:
    """Copy the corpus that fact checks search."""
    if not home.corpus.is_file():
        raise NothingMatchedError("no search corpus in this home", "add documents with `nanoflux corpus add PATH`")
    target = scratch / "corpus.db"
    target.unlink(missing_ok=True)
    back_up(home.corpus, target)
    return {"home/corpus.db": target}


def _write_report(home: Home, scratch: Path, run: str) -> dict[str, Path]:
    """Write the report of a run into the scratch directory."""
    from nanoflux_local.report.run_report import write_report

    report_path = write_report(home.ledger, run, scratch / "reports" / run)
    return {f"home/reports/{run}/index.html": report_path}


def _map_software(scratch: Path, prefix: str) -> dict[str, Path]:
    """The wheels of one environment, and the requirements file that pins them. `prefix` is "" or "vllm-"."""
    folder = scratch / f"{prefix}wheels"
    files = {f"{folder.name}/{path.name}": path for path in folder.glob("*.whl")}
    requirements_name = f"{prefix}requirements.txt"
    files[requirements_name] = _write_text(scratch / requirements_name, wheels.pin_wheels(folder))
    return files


def _render_sbom(request: BundleRequest, home: Home, scratch: Path) -> str:
    """The bill of materials of the wheels and models in the bundle."""
    records = [read_record(weights_dir(name, home.root)) for name in request.models]
    folders = [scratch / name for name in ("wheels", "vllm-wheels")] if request.software else []
    wheel_paths = [path for folder in folders for path in folder.glob("*.whl")]
    return sbom.render_sbom(wheel_paths, records)


def _map_folder(folder: Path, prefix: str) -> dict[str, Path]:
    """The files of a folder, below `prefix` in the bundle. A symbolic link to a file is replaced with the file."""
    return {f"{prefix}/{path.relative_to(folder).as_posix()}": path for path in folder.rglob("*") if path.is_file()}


def _write_text(path: Path, text: str) -> Path:
    """Write a file and return its path."""
    path.write_text(text, encoding="utf-8")
    return path
