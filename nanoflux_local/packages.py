"""The Python packages that this one stands on: which it needs, which versions are here, under which licences.

Reads what installers wrote beside each package; imports none of them and asks no index. The versions that were tested
together are in `constraints.txt`, which the wheel carries.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from email.message import Message
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

PROJECT = "nanoflux-local"
_SHORT = 60
"""Characters: what is longer in the field for a licence's name is its text."""


@dataclass(frozen=True, slots=True)
class Package:
    """One installed package; `version` is "" where it is needed and not here."""

    name: str
    version: str
    licence: str


def constraints_file() -> Path:
    """The versions that were tested together: in the wheel beside this module, in a checkout at its root."""
    carried = Path(__file__).with_name("constraints.txt")
    return carried if carried.is_file() else Path(__file__).parents[1] / "constraints.txt"


def tested_versions() -> dict[str, str]:
    """By name, the version that was tested."""
    pins = re.findall(r"^([\w.-]+)==(\S+)", constraints_file().read_text("utf-8"), re.MULTILINE)
    return {normal(name): version for name, version in pins}


def needed_packages(project: str = PROJECT) -> list[Package]:
    """Everything that `project` needs to run here, itself among it, by name: its requirements, and theirs."""
    packages: dict[str, Package] = {}
    waiting = [project]
    while waiting:
        name = normal(waiting.pop())
        if name in packages:
            continue
        try:
            here = distribution(name)
        except PackageNotFoundError:
            packages[name] = Package(name, "", "")
            continue
        packages[name] = Package(name, here.version, licence(_metadata(here)))
        waiting += [required for required, _ in requirements(here.requires or ())]
    return [packages[name] for name in sorted(packages)]


def unmet(project: str = PROJECT) -> list[str]:
    """Its own requirements that what is installed does not meet, each in words."""
    problems = []
    for name, specifier in requirements(distribution(project).requires or ()):
        try:
            version = distribution(name).version
        except PackageNotFoundError:
            problems.append(f"{name} is missing")
            continue
        if not _within(version, specifier):
            problems.append(f"{name} is {version}, and must be {specifier}")
    return problems


def requirements(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Name and bounds of those requirements that hold here, without those of extras."""
    from packaging.requirements import Requirement  # deferred: only doctor and bundles read requirements

    for line in lines:
        required = Requirement(line)
        if required.marker is None or required.marker.evaluate({"extra": ""}):
            yield required.name, str(required.specifier)


def licence(metadata: Message) -> str:
    """The licence that a package states, by its name where it has one."""
    stated = metadata.get("License-Expression") or metadata.get("License") or ""
    stated = "" if stated == "UNKNOWN" else stated  # what old tools wrote where nothing was said
    if stated and "\n" not in stated and len(stated) <= _SHORT:
        return str(stated)
    classified = [
        line.rsplit(" :: ", 1)[-1] for line in metadata.get_all("Classifier", []) if line.startswith("License :: ")
    ]
    first = next((line.strip() for line in stated.splitlines() if line.strip()), "")
    return " or ".join(classified) or first[:_SHORT] or "not stated"


def normal(name: str) -> str:
    """A package's name in the one form in which indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _metadata(here: Distribution) -> Message:
    return here.metadata  # type: ignore[return-value]  # typed by a protocol, and a Message at run time


def _within(version: str, specifier: str) -> bool:
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(specifier).contains(version, prereleases=True)
