"""The bill of materials of a bundle: every package and model in it with version, hash and licence, as CycloneDX 1.6.

A document has no serial number and no timestamp, so that equal contents give identical documents.
"""

import json
import zipfile
from collections.abc import Iterable
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

from nanoflux_local import __version__
from nanoflux_local.packages import PROJECT, find_licence, normalize_name
from nanoflux_models.record import WeightsRecord, sha256_file


def render_sbom(wheels: Iterable[Path], models: Iterable[WeightsRecord]) -> str:
    """The bill of materials of wheels and models, as JSON."""
    packages = [_describe_package(path) for path in sorted(wheels)]
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "application", "name": PROJECT, "version": __version__}},
        "components": [*packages, *(_describe_model(record) for record in models)],
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _describe_package(path: Path) -> dict[str, Any]:
    """The CycloneDX component that describes a wheel."""
    metadata = _read_metadata(path)
    name = normalize_name(str(metadata["Name"]))
    version = str(metadata["Version"])
    return {
        "type": "library",
        "name": name,
        "version": version,
        "purl": f"pkg:pypi/{name}@{version}",
        "hashes": [{"alg": "SHA-256", "content": sha256_file(path)}],
        "licenses": [{"license": {"name": find_licence(metadata)}}],
    }


def _describe_model(record: WeightsRecord) -> dict[str, Any]:
    """The CycloneDX component that describes a model."""
    return {
        "type": "machine-learning-model",
        "name": record.name,
        "version": record.revision,
        "licenses": [{"license": {"name": record.licence}}],
        "properties": [{"name": f"source:{key}", "value": str(value)} for key, value in sorted(record.source.items())],
    }


def _read_metadata(path: Path) -> Message:
    """The metadata of a wheel."""
    with zipfile.ZipFile(path) as wheel:
        metadata_name = next(
            name for name in wheel.namelist() if name.count("/") == 1 and name.endswith(".dist-info/METADATA")
        )
        metadata = wheel.read(metadata_name).decode("utf-8", "replace")
    return HeaderParser().parsestr(metadata)
