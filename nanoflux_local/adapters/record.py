"""The record of an adapter: its manifest, parsed into typed fields. This module opens no files: `adapters.store` reads
the manifests and checks them against the adapters' files.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from nanoflux_local.errors import DataError


@dataclass(frozen=True, slots=True)
class BaseModel:
    """The model that an adapter was trained on; `revision` is "" if it is unknown."""

    name: str
    revision: str

    def to_json(self) -> dict[str, str]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class LoraShape:
    """The settings that determine the size and the strength of a LoRA: its rank `r`, its scale `alpha`, and its
    `dropout`.
    """

    r: int
    alpha: float
    dropout: float


@dataclass(frozen=True, slots=True)
class ImportRecord:
    """The name of an imported adapter, and the base that its config named ("" if it named none)."""

    name: str
    base_hint: str


@dataclass(frozen=True, slots=True)
class TrainingRecord:
    """How an adapter was trained here.

    `run` is "" if the examples came from a file. `examples`, `truncated` and `dropped` are numbers of examples;
    `tokens` counts the tokens of all epochs. Losses are in nats per label token; the first of `dev_losses` was measured
    before the first epoch.
    """

    run: str
    examples: int
    truncated: int
    dropped: int
    tokens: int
    data_digest: str
    steps: int
    epochs: int
    learning_rate: float
    seed: int
    dev_losses: tuple[float, ...]
    flops: Mapping[str, Any]
    seconds: float
    device: str
    dtype: str

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> Self:
        """Parse the manifest of an adapter that was trained here.

        Raises:
            KeyError: a field is missing.
            TypeError: a field has the wrong type.
        """
        data = manifest["data"]
        settings = manifest["settings"]
        losses = manifest["losses"]
        dev_losses = (losses["initial_val_loss"], *losses["val_losses"])
        return cls(
            run=manifest.get("run") or "",
            examples=data["examples"],
            truncated=data["truncated"],
            dropped=data["dropped"],
            tokens=data["tokens"],
            data_digest=data["digest"],
            steps=manifest["steps"],
            epochs=settings["epochs"],
            learning_rate=settings["learning_rate"],
            seed=manifest["seed"],
            dev_losses=tuple(loss for loss in dev_losses if loss is not None),
            flops=manifest["flops"],
            seconds=manifest["seconds"],
            device=manifest["hardware"]["device"],
            dtype=manifest["hardware"]["dtype"],
        )


@dataclass(frozen=True, slots=True)
class ProbeRecord:
    """The outcome of an adapter's last probe on a server: whether it passed, the verdict as a sentence, and the time of
    the probe. `document` is the complete record.
    """

    passed: bool
    verdict: str
    time: str
    document: Mapping[str, Any]

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Parse the contents of a probe's file (`nanoflux_models.probe_record`)."""
        return cls(document["passed"], document["verdict"], document["at"], document)


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter in the home's directory of adapters. Exactly one of `training` and `imported` is set; `probe` is None
    before the first probe; `manifest` is the JSON document in the adapter's folder.
    """

    folder: Path
    hash: str
    base: BaseModel
    lora: LoraShape
    training: TrainingRecord | None
    imported: ImportRecord | None
    versions: Mapping[str, str]
    probe: ProbeRecord | None
    manifest: Mapping[str, Any]

    @classmethod
    def from_manifest(cls, folder: Path, manifest: Mapping[str, Any], probe: Mapping[str, Any] | None) -> Self:
        """Parse the manifest of the adapter in `folder`; `probe` is the record of its last probe.

        Raises:
            DataError: a field is missing or has the wrong type.
        """
        try:
            base = manifest["base"]
            settings = manifest["settings"]
            imported = manifest.get("imported")
            return cls(
                folder=folder,
                hash=manifest["adapter"],
                base=BaseModel(base["name"], base["revision"]),
                lora=LoraShape(settings["r"], settings["alpha"], settings["dropout"]),
                training=None if imported else TrainingRecord.from_manifest(manifest),
                imported=ImportRecord(imported["name"], imported["base_hint"]) if imported else None,
                versions=manifest["versions"],
                probe=ProbeRecord.from_json(probe) if probe else None,
                manifest=manifest,
            )
        except (KeyError, TypeError, AttributeError) as error:
            fault = f"a field has the wrong type: {error}"
            if isinstance(error, KeyError):
                fault = f"the field {error} is missing"
            problem = f"the manifest of the adapter in {folder} cannot be used: {fault}"
            raise DataError(problem, "copy the adapter again, or train it again") from error

    @property
    def id(self) -> str:
        """The first characters of the hash, as shown in messages and file names."""
        return self.hash[:12]

    def to_json(self) -> dict[str, Any]:
        """The manifest with the outcome of the last probe under "probe" (None before the first probe)."""
        return {**self.manifest, "probe": self.probe.document if self.probe else None}


@dataclass(frozen=True, slots=True)
class DamagedAdapter:
    """A folder among the adapters whose content does not match its manifest. `hash` is the folder's name."""

    hash: str
    problem: str

    def to_json(self) -> dict[str, Any]:
        return {"adapter": self.hash, "problem": self.problem}
