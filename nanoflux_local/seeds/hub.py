"""The model hub's copies of the benchmarks: fetched when a user asks for them and allows the host, never otherwise.

The hub's own client does it, in a guarded process of its own, so that a mirror (HF_ENDPOINT) and a token count and the
switches of this process stay as they are. Owns where each benchmark lies there; reads none of it.
"""

import os
import re
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from nanoflux_local.errors import NanofluxError, RefusedError, UsageError
from nanoflux_local.seeds.formats import MMLU_SUBJECTS
from nanoflux_models.child import module_command
from nanoflux_models.errors import ModelsError
from nanoflux_models.fetch import commit_of
from nanoflux_models.guard import VARIABLE, OutsideError
from nanoflux_models.offline import guarded

HUB = "https://huggingface.co"


@dataclass(frozen=True, slots=True)
class Place:
    """A repository of the hub and the files of it that carry labelled items."""

    repo: str
    files: tuple[str, ...] = ("*.parquet", "*.jsonl", "*.csv")
    revision: str = "main"


PLACES = {
    "gsmhard": Place("reasoning-machines/gsm-hard"),
    "gsm8k": Place("openai/gsm8k", ("main/*.parquet",)),
    "genomebench": Place("Mingyin0312/Genome-Bench", revision="bfa17fbb35fe6b75d80d77d2308081d309ba618e"),
    "medqa": Place("GBaker/MedQA-USMLE-4-options"),
    "medmcqa": Place("openlifescienceai/medmcqa", ("data/train-*", "data/validation-*")),  # its test has no labels
    "pubmedqa": Place("qiaojin/PubMedQA", ("pqa_labeled/*.parquet",)),
    "mmlu": Place("cais/mmlu", tuple(f"{subject}/*.parquet" for subject in MMLU_SUBJECTS)),
    "healthsearchqa": Place("katielink/healthsearchqa"),
}
ELSEWHERE = {
    "liveqa": "github.com/abachaa/LiveQA_MedicalTask_TREC2017",
    "medicationqa": "github.com/abachaa/Medication_QA_MedInfo2019",
}
"""Not on the hub: where their makers publish them."""


def fetch(dataset: str, revision: str, target: Path) -> tuple[list[Path], str]:
    """Fetch a benchmark's files into the folder `target`: the files, and "REPO@COMMIT" for where they are from.

    Raises:
        UsageError: the hub has no such benchmark.
        RefusedError: nobody allowed its host.
        NanofluxError: the download failed.
    """
    place = PLACES.get(dataset)
    if place is None:
        where = f"it is published at {ELSEWHERE[dataset]}" if dataset in ELSEWHERE else f"there: {', '.join(PLACES)}"
        raise UsageError(f"{dataset!r} is not on the model hub", f"{where}; name its files")
    _refuse_outside(dataset, place)
    # Xet is native code, which the guard cannot see; colours have no place in an error.
    environment = {**guarded(os.environ), "HF_HUB_DISABLE_XET": "1", "NO_COLOR": "1"}
    for switch in [name for name in environment if name.endswith("_OFFLINE")]:
        del environment[switch]
    command = module_command("huggingface_hub.cli.hf", "download", place.repo, "--repo-type", "dataset",
                             "--revision", revision or place.revision, "--local-dir", str(target))  # fmt: skip
    for pattern in place.files:
        command += ["--include", pattern]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", check=False)
    files = sorted(path for path in target.rglob("*") if path.is_file() and ".cache" not in path.parts)
    sent_on = re.search(r"OutsideError: refused to reach (\S+):", done.stderr)
    if sent_on:
        raise _refused(f"{place.repo} sends on to {sent_on[1]}", sent_on[1])
    if done.returncode or not files:
        told = "\n".join(done.stderr.strip().splitlines()[-3:]) or "none of its files is one that is read here"
        raise NanofluxError(
            f"{place.repo} could not be fetched: {told}", "see above; or fetch it yourself, and name its files"
        )
    return files, f"{place.repo}@{_commit(target)}"


def _refuse_outside(dataset: str, place: Place) -> None:
    """Ask the guard before a process is started, so that the answer is its own."""
    host = urlsplit(os.environ.get("HF_ENDPOINT") or HUB).hostname or ""
    refused = False
    try:
        socket.getaddrinfo(host, 443)
    except OutsideError:
        refused = True
    except OSError as error:
        raise NanofluxError(f"{host} cannot be reached: {error.strerror or error}", "check the network") from error
    if refused:  # told apart from the guard's own refusal, whose advice is for endpoints
        raise _refused(f"{dataset} lies on {host} ({place.repo})", host)


def _refused(what: str, host: str) -> RefusedError:
    allowed = [name for name in os.environ.get(VARIABLE, "").split(",") if name]
    return RefusedError(
        f"{what}, and nothing leaves this machine but to the hosts that you name",
        f"allow it: {VARIABLE}={','.join([*allowed, host])}; name a mirror of yours in HF_ENDPOINT; "
        "or fetch it elsewhere and name its files",
    )


def _commit(target: Path) -> str:
    try:
        return commit_of(target)
    except ModelsError as error:
        raise NanofluxError(error.message, error.fix) from error
