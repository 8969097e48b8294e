"""The Python packages that this project requires: installed versions, licences, and unmet requirements.

Reads the metadata of installed packages, without importing them or contacting an index. The versions that were tested
together are in `constraints.txt`, which is part of the wheel.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from email.message import Message
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

PROJECT = "nanoflux-local"
_MAX_LICENCE_NAME_CHARS = 60
"""A licence field with more characters is assumed to contain the licence's text rather than its name."""


@dataclass(frozen=True, slots=True)
class Package:
    """A required package; `version` is "" if the package is not installed."""

    name: str
    version: str
    licence: str


def find_constraints_file() -> Path:
    """The file of tested versions: next to this module in an installed wheel, or at the root of a checkout."""
    packaged_file = Path(__file__).with_name("constraints.txt")
    return packaged_file if packaged_file.is_file() else Path(__file__).parents[1] / "constraints.txt"


def load_tested_versions() -> dict[str, str]:
    """The tested version of each package, by name."""
    pins = re.findall(r"^([\w.-]+)==(\S+)", find_constraints_file().read_text("utf-8"), re.MULTILINE)
    return {normalize_name(name): version for name, version in pins}


def list_required_packages(project: str = PROJECT) -> list[Package]:
    """`project` and everything that it requires on this platform, directly or indirectly, sorted by name."""
    packages: dict[str, Package] = {}
    pending_names = [project]
    while pending_names:
        name = normalize_name(pending_names.pop())
        if name in packages:
            continue
        try:
            installed_distribution = distribution(name)
        except PackageNotFoundError:
            packages[name] = Package(name, "", "")
            continue
        licence = find_licence(_get_metadata(installed_distribution))
        packages[name] = Package(name, installed_distribution.version, licence)
        requirements = parse_requirements(installed_distribution.requires or ())
        pending_names += [required_name for required_name, _ in requirements]
    return [packages[name] for name in sorted(packages)]


def list_unmet_requirements(project: str = PROJECT) -> list[str]:
    """The direct requirements of `project` that the installed packages do not meet, described in one sentence each."""
    problems = []
    for name, specifier in parse_requirements(distribution(project).requires or ()):
        try:
            version = distribution(name).version
        except PackageNotFoundError:
            problems.append(f"{name} is not installed")
            continue
        if not _meets_specifier(version, specifier):
            problems.append(f"{name} is {version}, but must be {specifier}")
    return problems


def parse_requirements(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The package name and version specifier of each requirement in `lines` that applies on this platform.
    Requirements of extras are left out.
    """
    from packaging.requirements import Requirement  # deferred: only doctor and bundles read requirements

    for line in lines:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield requirement.name, str(requirement.specifier)


def find_licence(metadata: Message) -> str:
    """The licence that a package's metadata states, as a short name if possible."""
    licence_field = metadata.get("License-Expression") or metadata.get("License") or ""
    licence_field = "" if licence_field == "UNKNOWN" else licence_field  # written by old tools for an empty field
    if licence_field and "\n" not in licence_field and len(licence_field) <= _MAX_LICENCE_NAME_CHARS:
        return str(licence_field)
    classifier_licences = [
        line.rsplit(" :: ", 1)[-1] for line in metadata.get_all("Classifier", []) if line.startswith("License :: ")
    ]
    first_line = next((line.strip() for line in licence_field.splitlines() if line.strip()), "")
    return " or ".join(classifier_licences) or first_line[:_MAX_LICENCE_NAME_CHARS] or "not stated"


def normalize_name(name: str) -> str:
    """A package's name in the normalized form (PEP 503) that indexes use to compare names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _get_metadata(installed: Distribution) -> Message:
    return installed.metadata  # type: ignore[return-value]  # declared as a protocol, but a Message at run time


def _meets_specifier(version: str, specifier: str) -> bool:
    """Whether a version meets a specifier such as ">=2,<3"; pre-releases are accepted."""
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(specifier).contains(version, prereleases=True)
