"""Gather the contents of a bundle: wheels, weights, benchmarks, profiles, docs, and runs with adapters and reports.

Maps paths in the bundle to files; writes only into its scratch directory.
"""

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanoflux_local import __version__, packages
from nanoflux_local.adapters.store import find_adapter
from nanoflux_local.bundle import sbom, wheels
from nanoflux_local.errors import NanofluxError, NothingMatchedError, UsageError
from nanoflux_local.ledger.backup import back_up
from nanoflux_local.paths import Home
from nanoflux_models.errors import DigestMismatchError
from nanoflux_models.record import problems, read_record
from nanoflux_models.weights import weights_dir

if TYPE_CHECKING:
    from nanoflux_local.ledger.views import LedgerView


@dataclass(frozen=True, slots=True)
class Wanted:
    """The requested contents by name."""

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


@dataclass(frozen=True, slots=True)
class Contents:
    """Files by their paths in the bundle, and facts for the manifest."""

    files: dict[str, Path]
    about: dict[str, Any]


def gather(wanted: Wanted, home: Home, scratch: Path) -> Contents:
    """Gather and verify everything that was requested.

    Raises:
        NanofluxError, ModelsError: something is missing, damaged, or could not be downloaded.
    """
    python, platform = wanted.python or wheels.this_python(), wanted.platform or wheels.this_platform()
    runs, adapters = _runs(wanted, home)  # first, so that an unknown name leaves no directory behind
    scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = {**_weights(wanted, home), **_profiles(wanted), **_ledger(wanted, home, scratch, runs)}
    files |= _corpus(home, scratch) if wanted.corpus else {}
    files |= _domains(home, runs)
    for name in adapters:
        files |= _tree(home.adapters / name, f"home/adapters/{name}")
    for run in runs:
        files |= _report(home, scratch, run)
    about: dict[str, Any] = {"nanoflux": __version__, "models": list(wanted.models), "runs": runs, "adapters": adapters}
    about |= {"datasets": list(wanted.datasets), "profiles": [path.name for path in wanted.profiles]}
    if wanted.software:
        wheels.collect(scratch / "wheels", wanted.wheel, wanted.extras, python, platform)
        files |= _software(scratch, "") | _tree(docs_folder(), "docs")
        if wanted.vllm:
            wheels.collect_listed(scratch / "vllm-wheels", wanted.vllm, python, platform)
            files |= _software(scratch, "vllm-")
        about |= {"python": python, "platform": platform}
    if not files:
        raise UsageError("the bundle would be empty", "add --model, --data, --profile or --export")
    files["sbom.json"] = _write_text(scratch / "sbom.json", _bill(wanted, home, scratch))
    return Contents(files, about)


def docs_folder() -> Path:
    """The documents: in the wheel beside this package, in a checkout at its root."""
    carried = Path(__file__).parents[1] / "docs"
    return carried if carried.is_dir() else packages.constraints_file().parent / "docs"


def _weights(wanted: Wanted, home: Home) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for name in wanted.models:
        folder = weights_dir(name, home.root)
        damaged = problems(folder)
        if damaged:
            raise DigestMismatchError("; ".join(damaged), f"run `nanoflux models pull {name}`, or import it again")
        files |= _tree(folder, f"home/weights/{name}")
        own = home.root / "models" / f"{name}.toml"
        if own.is_file():
            files[f"home/models/{name}.toml"] = own
    return files


def _profiles(wanted: Wanted) -> dict[str, Path]:
    missing = [path for path in wanted.profiles if path.suffix != ".toml" or not path.is_file()]
    if missing:
        raise UsageError(
            f"{missing[0]} is not a profile file", "pass a .toml file; the built-in profiles are in the wheel already"
        )
    return {f"home/profiles/{path.name}": path for path in wanted.profiles}


def _runs(wanted: Wanted, home: Home) -> tuple[list[str], list[str]]:
    """The ids of the wanted runs, and the adapters: those wanted, and those trained on these runs or used in them."""
    from nanoflux_local.ledger.views import LedgerView

    named = {find_adapter(home.adapters, name).name for name in wanted.adapters}
    if not wanted.runs and not wanted.datasets:
        return [], sorted(named)
    with LedgerView(home.ledger) as view:
        imported = {entry["name"] for entry in view.datasets()}
        for name in wanted.datasets:
            if name not in imported:
                fix = (
                    f"choose one of: {', '.join(sorted(imported)) or '(none imported)'}; built-in ones are in the wheel"
                )
                raise NothingMatchedError(f"no imported benchmark {name!r} in this home", fix)
        runs = [view.find_run(name)["id"] for name in wanted.runs]
        trained = [
            row["adapter"]
            for run in runs
            for row in view.rows("SELECT adapter FROM trainings WHERE run = ? AND status = 'done'", run)
        ]
        played = [name for run in runs for name in _playing_adapters(view, run, home)]
    kept = {name for name in (*trained, *played) if (home.adapters / name).is_dir()}
    return list(dict.fromkeys(runs)), sorted(named | kept)


def _playing_adapters(view: "LedgerView", run: str, home: Home) -> list[str]:
    """The hashes of the adapters that a run's endpoints name; one that is no longer here is passed over."""
    endpoints = json.loads(view.find_run(run)["config"]).get("endpoints", {}).values()
    hashes = []
    for name in filter(None, (endpoint.get("adapter") for endpoint in endpoints)):
        with suppress(NanofluxError):
            hashes.append(find_adapter(home.adapters, name).name)
    return hashes


def _domains(home: Home, runs: list[str]) -> dict[str, Path]:
    """The user's own domains that these runs were made with: without them they could not be replayed."""
    from nanoflux_local.domains.own import files_of
    from nanoflux_local.ledger.views import LedgerView

    if not runs:
        return {}
    with LedgerView(home.ledger) as view:
        names = {view.find_run(run)["domain"] for run in runs}
    return {f"home/domains/{path.name}": path for name in sorted(names) for path in files_of(name, home.root)}


def _ledger(wanted: Wanted, home: Home, scratch: Path, runs: list[str]) -> dict[str, Path]:
    from nanoflux_local.ledger.excerpt import write_excerpt

    if not runs and not wanted.datasets:
        return {}
    target = scratch / "ledger.db"
    target.unlink(missing_ok=True)
    write_excerpt(home.ledger, target, runs, wanted.datasets)
    return {"home/ledger.db": target}


def _corpus(home: Home, scratch: Path) -> dict[str, Path]:
    """The documents that fact checks search."""
    if not home.corpus.is_file():
        raise NothingMatchedError("no search corpus in this home", "add documents with `nanoflux corpus add PATH`")
    target = scratch / "corpus.db"
    target.unlink(missing_ok=True)
    back_up(home.corpus, target)
    return {"home/corpus.db": target}


def _report(home: Home, scratch: Path, run: str) -> dict[str, Path]:
    from nanoflux_local.report.run_report import write_report

    return {f"home/reports/{run}/index.html": write_report(home.ledger, run, scratch / "reports" / run)}


def _software(scratch: Path, which: str) -> dict[str, Path]:
    """The wheels of one environment, and the list that pins them."""
    folder, listed = scratch / f"{which}wheels", f"{which}requirements.txt"
    return {
        listed: _write_text(scratch / listed, wheels.lock(folder)),
        **{f"{folder.name}/{path.name}": path for path in folder.glob("*.whl")},
    }


def _bill(wanted: Wanted, home: Home, scratch: Path) -> str:
    records = [read_record(weights_dir(name, home.root)) for name in wanted.models]
    folders = [scratch / name for name in ("wheels", "vllm-wheels")] if wanted.software else []
    return sbom.bill([path for folder in folders for path in folder.glob("*.whl")], records)


def _tree(folder: Path, name: str) -> dict[str, Path]:
    """The files of a folder; links in it are followed, and lie in the bundle as what they lead to."""
    return {f"{name}/{path.relative_to(folder).as_posix()}": path for path in folder.rglob("*") if path.is_file()}


def _write_text(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path
