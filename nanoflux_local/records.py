"""The records that modules exchange: requests and replies, with the functions that encode and hash them.

A request contains everything that determines its reply, so the ledger can store the reply under the request's hash.
Records are frozen, flat and plain JSON; this module does no I/O.
"""

import base64
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cache, lru_cache
from typing import Any, ClassVar, Generic, Literal, TypeVar

import numpy as np
import numpy.typing as npt

Role = Literal["system", "user", "assistant"]
Finish = Literal["stop", "length", "refused"]
"""Why a reply ended (`ChatReply.finish`)."""
FaultKind = Literal[
    "rate_limited", "server_error", "timeout", "reset", "unreachable", "garbled", "empty", "refused_parameter"
]
"""What went wrong with a request to a server."""
_SURROGATE = re.compile("[\ud800-\udfff]")
SearchOutcome = Literal["found", "nothing", "timeout", "refused", "failed"]
Vector = npt.NDArray[np.float32]
SIMILARITY_DIGITS = 6
"""The number of decimals to which similarities are rounded."""
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
"""The encoder of canonical JSON, created once: `json.dumps` would create a new encoder for every call."""


def canonical_json(value: Any) -> str:
    """The canonical JSON text of a value: sorted keys, no spaces, characters unescaped. Refuses NaN and infinities.

    A lone surrogate, which a model can emit and UTF-8 cannot encode, is written as its escape.
    """
    text = _CANONICAL.encode(value)
    return text if text.isascii() else _SURROGATE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def storable(text: str) -> str:
    """The text with "?" for each lone surrogate: JSON can escape a surrogate, but no UTF-8 file can contain one."""
    return text.encode("utf-8", "replace").decode()


def digest(value: Any) -> str:
    """The SHA-256 of a value's canonical JSON, in hex."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed derived from its parts, for instance (run seed, turn, attempt, step, retry)."""
    return int.from_bytes(hashlib.sha256(canonical_json(parts).encode()).digest()[:8], "big") >> 1


@cache
def _field_names(record_type: type[object]) -> tuple[str, ...]:
    """The field names of a record's type; empty for other types."""
    return tuple(field.name for field in fields(record_type)) if is_dataclass(record_type) else ()


def to_plain_json(value: Any) -> Any:
    """A record as nested dicts and lists, ready for JSON. `dataclasses.asdict` is not used because it also copies
    immutable values, which would take an eighth of the time of a call.
    """
    value_type = value.__class__
    field_names = () if value_type is str else _field_names(value_type)  # most values in a record are text
    if field_names:
        return {name: to_plain_json(getattr(value, name)) for name in field_names}
    return [to_plain_json(entry) for entry in value] if isinstance(value, tuple) else value


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message."""

    role: Role
    content: str


def without_system(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The messages for a chat template without a system role: the text of the system messages is moved to the
    beginning of the first other message.
    """
    system_texts = [message.content for message in messages if message.role == "system"]
    other_messages = [message for message in messages if message.role != "system"]
    if system_texts and other_messages:
        merged_text = "\n\n".join([*system_texts, other_messages[0].content])
        other_messages[0] = replace(other_messages[0], content=merged_text)
    return tuple(other_messages)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a reply is sampled. `temperature` 0 is greedy; `stop` strings end the reply and are not part of it."""

    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 512
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Identity:
    """Everything about an endpoint, an embedder or a sandbox that determines its replies.

    `interface` is the kind of endpoint. `model` is a name for people, and `revision` identifies the model's content (a
    digest of the weights, a hosted model's version). `adapter` is the content hash of a LoRA adapter, or "". `variant`
    names everything else that changes the bits of a reply (precision, batch shape).
    """

    interface: str
    model: str
    revision: str = ""
    adapter: str = ""
    variant: str = ""


@dataclass(frozen=True, slots=True)
class Fault:
    """One failed request to a server: its kind, a message for people, and the raw text of an unusable reply.

    `tokens` and `usd` are what the request may have cost: servers also charge for replies that did not arrive
    completely.
    """

    model: str
    kind: FaultKind
    message: str
    raw: str = ""
    seconds: float = 0.0
    tokens: int = 0
    usd: float = 0.0


R = TypeVar("R", bound="Reply")


@dataclass(frozen=True, slots=True)
class Reply:
    """The base class of replies, which are flat records that can be converted to JSON and back."""

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = to_plain_json(self)
        return value

    @classmethod
    def from_json(cls: type[R], value: dict[str, Any]) -> R:
        return cls(**value)


@dataclass(frozen=True, slots=True)
class ChatReply(Reply):
    """A model's reply. `text` is raw: nothing is stripped before it is stored.

    Token counts are those of the endpoint (0 if it reports none); `seconds` is the duration of the request; `usd` is
    its price (0 for local models). `finish` is "length" for a reply that was truncated at `max_tokens`, and "refused"
    for a reply that the provider broke off; `text` is then the part that had arrived. `reasoning_tokens` are the
    completion tokens spent on reasoning, 0 if neither the server nor a local tokenizer can count them.
    """

    text: str
    finish: Finish
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    usd: float = 0.0
    reasoning_tokens: int = 0

    def to_json(self) -> dict[str, Any]:
        """The reply as JSON. `reasoning_tokens` is omitted if it is 0, so that the JSON is the same as in ledgers
        written before the field existed.
        """
        value: dict[str, Any] = to_plain_json(self)
        if not self.reasoning_tokens:
            del value["reasoning_tokens"]
        return value


@dataclass(frozen=True, slots=True)
class Refusal(Reply):
    """The record that takes the place of a reply if an endpoint permanently refuses a prompt, so that no resume sends
    the prompt again.

    `refused` is the cause in a few words ("prompt too long"), `detail` the provider's message.
    """

    refused: str
    detail: str


@dataclass(frozen=True, slots=True)
class EmbedReply(Reply):
    """An embedding of unit length. `data` contains it as little-endian float32 numbers in base64."""

    data: str

    @property
    def vector(self) -> Vector:
        """The embedding, of shape (dimensions,)."""
        return np.frombuffer(base64.b64decode(self.data), dtype="<f4")

    @classmethod
    def of(cls, vector: Vector) -> "EmbedReply":
        """The reply with the embedding `vector`, of shape (dimensions,)."""
        return cls(base64.b64encode(np.asarray(vector, dtype="<f4").tobytes()).decode())


def similarity(vector: Vector, other_vector: Vector) -> float:
    """Cosine similarity of two unit vectors of shape (dimensions,), rounded to 6 decimals. Products of float32 are
    exact in float64, and `fsum` rounds only once, so that the similarity of two vectors is identical in every process
    and on any machine.
    """
    products = (vector.astype(np.float64) * other_vector).tolist()
    return round(math.fsum(products), SIMILARITY_DIGITS)


@dataclass(frozen=True, slots=True)
class PythonReply(Reply):
    """The result of a program in the sandbox, with the fields of `nanoflux_sandbox.Result` except `detail`."""

    status: str
    exit_code: int | None
    stdout: str
    stderr: str
    truncated: bool
    backend: str
    wall_s: float = 0.0


@dataclass(frozen=True, slots=True)
class CutReply(Reply):
    """The longest prefix of a text that fits a token budget. `exact` is False if the endpoint has no tokenizer."""

    text: str
    exact: bool


@dataclass(frozen=True, slots=True)
class SearchReply(Reply):
    """The results of a search as (title, place, snippet), or in `detail` the reason why there are no results."""

    outcome: SearchOutcome
    detail: str = ""
    results: tuple[tuple[str, str, str], ...] = ()
    seconds: float = 0.0

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "SearchReply":
        results = tuple((title, place, snippet) for title, place, snippet in value["results"])
        return cls(**{**value, "results": results})


def read_costs(reply: Mapping[str, Any]) -> dict[str, float]:
    """The costs in a reply's JSON, by their columns in the ledger; 0 for a cost that the reply omits."""
    return {
        "prompt_tokens": reply.get("prompt_tokens", 0),
        "completion_tokens": reply.get("completion_tokens", 0),
        "reasoning_tokens": reply.get("reasoning_tokens", 0),
        "usd": float(reply.get("usd", 0.0)),
        "seconds": float(reply.get("seconds", reply.get("wall_s", 0.0))),
    }


@dataclass(frozen=True, slots=True)
class Request(Generic[R]):
    """The base class of requests. `key()` is the hash under which the ledger stores the reply."""

    kind: ClassVar[str]
    reply_type: ClassVar[type[Reply]]

    endpoint: Identity

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = to_plain_json(self)
        return value

    def key(self) -> str:
        """The SHA-256 of the request's kind and JSON, in hex."""
        return _compute_key(self)

    def read_reply(self, value: dict[str, Any]) -> Reply:
        """Parse a stored reply to this request: a record of its reply type, or a `Refusal`."""
        return Refusal.from_json(value) if "refused" in value else self.reply_type.from_json(value)


@lru_cache(maxsize=1024)  # the key of a request is needed several times before its reply is stored
def _compute_key(request: Request[Any]) -> str:
    return digest({"kind": request.kind, **request.to_json()})


@dataclass(frozen=True, slots=True)
class ChatRequest(Request[ChatReply]):
    """One chat completion. `seed` distinguishes repetitions of a request, and makes sampling repeatable if the endpoint
    supports seeds.

    `sections` are the keys of the JSON object that the reply must be; () if the reply may be any text.
    """

    kind: ClassVar[str] = "chat"
    reply_type: ClassVar[type[Reply]] = ChatReply

    endpoint: Identity
    messages: tuple[Message, ...]
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0
    sections: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The request as JSON. `sections` is omitted if it is empty, so that requests of earlier ledgers keep their
        keys.
        """
        value: dict[str, Any] = to_plain_json(self)
        if not self.sections:
            del value["sections"]
        return value

    @property
    def prompt_bytes(self) -> int:
        """Length of the message texts in UTF-8."""
        return sum(len(message.content.encode("utf-8", "replace")) for message in self.messages)


@dataclass(frozen=True, slots=True)
class EmbedRequest(Request[EmbedReply]):
    """A request for the embedding of one text."""

    kind: ClassVar[str] = "embed"
    reply_type: ClassVar[type[Reply]] = EmbedReply

    endpoint: Identity
    text: str


@dataclass(frozen=True, slots=True)
class PythonRequest(Request[PythonReply]):
    """One run of a program in the sandbox, with a wall-clock limit of `wall_s` seconds."""

    kind: ClassVar[str] = "python"
    reply_type: ClassVar[type[Reply]] = PythonReply

    endpoint: Identity
    code: str
    wall_s: float = 5.0


@dataclass(frozen=True, slots=True)
class CutRequest(Request[CutReply]):
    """A text to cut to `budget` tokens, counted with the endpoint's tokenizer (paper §3: response budgets)."""

    kind: ClassVar[str] = "cut"
    reply_type: ClassVar[type[Reply]] = CutReply

    endpoint: Identity
    text: str
    budget: int


@dataclass(frozen=True, slots=True)
class SearchRequest(Request[SearchReply]):
    """One query to a search engine or the local corpus: at most `top` results in at most `timeout_s` seconds."""

    kind: ClassVar[str] = "search"
    reply_type: ClassVar[type[Reply]] = SearchReply

    endpoint: Identity
    query: str
    top: int = 5
    timeout_s: float = 30.0


@dataclass(frozen=True, slots=True)
class ScoreReply(Reply):
    """The mean log-probability of a completion's `tokens` tokens, in nats per token, rounded to 6 decimals."""

    mean_log_probability: float
    tokens: int


@dataclass(frozen=True, slots=True)
class ScoreRequest(Request[ScoreReply]):
    """A request for the log-probability of a completion after its prompt, under teacher forcing."""

    kind: ClassVar[str] = "score"
    reply_type: ClassVar[type[Reply]] = ScoreReply

    endpoint: Identity
    messages: tuple[Message, ...]
    completion: str
