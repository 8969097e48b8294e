"""The records of a turn: attacks, defences, verdicts, attempts and the examples that result.

They are plain, frozen records with no behaviour beyond JSON and hashes. They contain everything that an audit of a run
needs.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from nanoflux_local.records import digest, to_plain_json

Outcome = Literal[
    "unparsed",
    "novelty_rejected",
    "contaminated",
    "invalid",
    "low_confidence",
    "defender_right",
    "unproven",
    "kept_failed",
    "kept_novel",
    "failed",
]
"""How an attempt ended: "unparsed" if the attack could not be read, "failed" if another reply could not be read or an
endpoint refused a prompt, and otherwise what was decided about the question.
"""
OUTCOMES: tuple[Outcome, ...] = Outcome.__args__  # type: ignore[attr-defined]
KEPT: tuple[Outcome, ...] = ("kept_failed", "kept_novel")
"""The outcomes of an attempt whose question becomes an example."""
PROVING_CHECKS = ("blind", "open_book")
"""The checks that let a model solve the question without seeing the attacker's solution: from the question alone
("blind"), or with the passages that the question was written from ("open_book").
"""
TurnOutcome = Literal["kept", "dropped", "exhausted", "failed"]
"""How a turn ended (`TurnRecord.outcome`)."""
Conclusion = Literal["supports", "contradicts", "not checked"]
"""What a check concludes about an attack."""
AttemptStep = Literal["attack", "embedding", "validation", "defence", "evaluation"]
"""The steps of an attempt that send requests to an endpoint."""


@dataclass(frozen=True, slots=True)
class Seed:
    """One item of a benchmark. `options` maps letters to texts; it is empty unless the item is multiple-choice.

    `program` is Python code that prints the answer as its last line, or "" if the item has no program. A passage of a
    document is a seed as well: `question` is its text, `answer` is empty, and `source` and `place` say where to find
    the passage ("wards/hygiene.pdf", "page 3").
    """

    id: str
    dataset: str
    question: str
    answer: str
    solution: str = ""
    program: str = ""
    options: dict[str, str] = field(default_factory=dict)
    source: str = ""
    place: str = ""

    def to_json(self) -> dict[str, Any]:
        """The item as JSON. `source` and `place` are omitted unless the item is a passage, so that items of older
        ledgers keep their digest.
        """
        value: dict[str, Any] = to_plain_json(self)
        if not self.source:
            del value["source"], value["place"]
        return value

    def format_question(self) -> str:
        """The question and its options, one option per line."""
        return "\n".join([self.question, *(f"{letter}. {option}" for letter, option in self.options.items())])

    @property
    def location(self) -> str:
        """The place of a passage as shown to people ("wards/hygiene.pdf, page 3"); "" for other items."""
        return ", ".join(part for part in (self.source, self.place) if part)


@dataclass(frozen=True, slots=True)
class Citation:
    """A quotation that a question is based on, with the document and the place that it is taken from."""

    source: str
    place: str
    quotation: str


@dataclass(frozen=True, slots=True)
class Attack:
    """A question with the attacker's solution and answer. `program` computes the answer, if a built-in program is the
    attacker; `notes` are the other sections that the domain requests.
    """

    question: str
    solution: str
    answer: str
    program: str = ""
    notes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Defence:
    """The sections of the defender's reply. `cut` names the sections that were cut at their token budget."""

    solution: str
    answer: str
    analysis: str = ""
    cut: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """A text that a search found, or the passage that contains a quotation: its title, its address, and the text."""

    title: str
    place: str
    snippet: str


@dataclass(frozen=True, slots=True)
class Exhibit:
    """One piece of evidence for a finding, which people can inspect.

    `text` is the program, the query, the quotation or the solution. `outcome` is the status of a search, or the answer
    of a program or a solution; `detail` explains the outcome. `results` are the results of a search, or the passage
    that contains a quotation. `author` is the endpoint that wrote a program or a solution; `agrees` says whether the
    answer equals the attacker's (None if there is no readable answer, or if it is not compared).
    """

    kind: Literal["program", "search", "quotation", "solution"]
    text: str
    outcome: str = ""
    detail: str = ""
    results: tuple[Source, ...] = ()
    author: str = ""
    agrees: bool | None = None

    @property
    def query(self) -> str:
        """The text of a search, under the name that prompts use."""
        return self.text


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check concluded about an attack, the reason, and the evidence."""

    check: str
    conclusion: Conclusion
    reason: str = ""
    evidence: tuple[Exhibit, ...] = ()


@dataclass(frozen=True, slots=True)
class Vote:
    """The verdict of one member of a panel; `positive` is None if the member gave no verdict."""

    judge: str
    positive: bool | None
    confidence: float
    explanation: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judge's decision. `positive` says whether an attack is VALID, or whether a defence is CORRECT in the strict
    reading.

    `soft` is the lenient reading (None if the judge was not asked for one); `confidence` lies in [0, 1]; `asked` is how
    often the judge was asked until it was confident (0: it was not asked). `findings` are the findings of the checks,
    in the order in which the checks ran; `votes` are the votes of a panel's members.
    """

    positive: bool
    confidence: float
    explanation: str
    soft: bool | None = None
    asked: int = 1
    findings: tuple[Finding, ...] = ()
    votes: tuple[Vote, ...] = ()

    def finding(self, check: str) -> Finding | None:
        """The finding of a check by its name, or None if that check did not run."""
        return next((finding for finding in self.findings if finding.check == check), None)

    @property
    def accepted_by_judge(self) -> bool:
        """Whether the judge accepted before the checks were applied. A contradicting check is assumed to have
        overturned an acceptance.
        """
        return self.positive or any(finding.conclusion == "contradicts" for finding in self.findings)


@dataclass(frozen=True, slots=True)
class Quality:
    """How well a solution is reasoned (paper A.4): five scores from 1 to 5, their weighted mean, and the level."""

    scores: dict[str, float]
    score: float
    level: int
    explanation: str


@dataclass(frozen=True, slots=True)
class Sample:
    """A further answer of the defender to the same question, sampled with a different random seed. `right` states
    whether it is correct (None if it could not be read or judged), and `reason` states how this was decided.
    """

    defence: Defence | None
    right: bool | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Doubt:
    """The result if every verdict of the judge stayed below the required confidence. `confidences` has the confidence
    of each of these verdicts.
    """

    confidences: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at a turn's question, and its outcome. `number` counts the turn's attempts from 0, `seeds` are the
    ids of the seed items, and `reason` explains the outcome. `nearest` is the highest similarity of the question to an
    earlier question, and `solution_similarity` that of the attacker's and the defender's solution; both are cosines,
    rounded to 6 decimals. `samples` are the defender's answers after `defence`. `quality` rates the reasoning of a kept
    attempt; `unrated` says why it could not be rated. `refused` is the step whose prompt an endpoint permanently
    refused.
    """

    number: int
    seeds: tuple[str, ...]
    outcome: Outcome
    reason: str = ""
    attack: Attack | None = None
    nearest: float | None = None
    validation: Verdict | None = None
    defence: Defence | None = None
    evaluation: Verdict | None = None
    solution_similarity: float | None = None
    quality: Quality | None = None
    unrated: str = ""
    refused: AttemptStep | Literal[""] = ""
    samples: tuple[Sample, ...] = ()

    def finding(self, check: str) -> Finding | None:
        """The finding of a check about the question, or None if that check did not run."""
        return self.validation.finding(check) if self.validation else None

    @property
    def citations(self) -> tuple[Citation, ...]:
        """The quotations that the question is based on, as the check `cited` found them in the passages."""
        finding = self.finding("cited")
        if finding is None:
            return ()
        citations = []
        for quotation in finding.evidence:
            if quotation.results:
                passage = quotation.results[0]
                citations.append(Citation(passage.title, passage.place, quotation.text))
        return tuple(citations)

    @property
    def pass_rate(self) -> tuple[int, int] | None:
        """(k, n): the defender answered k of n times correctly, including the first defence and without answers that
        could not be judged. None if the first defence was not evaluated.
        """
        if self.evaluation is None:
            return None
        sample_judgements = [sample.right for sample in self.samples if sample.right is not None]
        judgements = [self.evaluation.positive, *sample_judgements]
        return sum(judgements), len(judgements)

    @property
    def unreadable_step(self) -> AttemptStep | Literal[""]:
        """The step that got no readable reply: its prompt was refused, or the replies could not be read."""
        if self.refused or self.outcome not in ("unparsed", "failed"):
            return self.refused
        result_by_step: dict[AttemptStep, object] = {
            "attack": self.attack,
            "validation": self.validation,
            "defence": self.defence,
        }
        return next((step for step, result in result_by_step.items() if result is None), "evaluation")

    @property
    def readable_steps(self) -> tuple[AttemptStep, ...]:
        """The steps that got a readable reply."""
        is_doubted = self.outcome == "low_confidence"  # the judge's replies were readable, but gave no verdict
        result_by_step: dict[AttemptStep, object] = {
            "attack": self.attack,
            "embedding": self.attack is not None and self.refused != "embedding",
            "validation": _was_asked(self.validation) or (is_doubted and self.defence is None),
            "defence": self.defence,
            "evaluation": _was_asked(self.evaluation) or (is_doubted and self.defence is not None),
        }
        return tuple(step for step, result in result_by_step.items() if result)

    @property
    def rejected(self) -> bool:
        """Whether the question was rejected before the defence, so that the attacker may try again."""
        if self.outcome in ("low_confidence", "unproven"):
            return self.defence is None
        return self.outcome in ("unparsed", "novelty_rejected", "contaminated", "invalid")


def _was_asked(verdict: Verdict | None) -> bool:
    """Whether the judge gave a verdict; a check that rejects a question, or a program that grades, does not ask it."""
    return verdict is not None and verdict.asked > 0


@dataclass(frozen=True, slots=True)
class TurnRecord:
    """One turn (paper §3). `attacker`, `defender` and `judge` name the endpoints that had these roles in the turn."""

    number: int
    attacker: str
    defender: str
    judge: str
    attempts: tuple[Attempt, ...]

    @property
    def last_attempt(self) -> Attempt:
        """The last attempt, which decides the turn."""
        return self.attempts[-1]

    @property
    def kept(self) -> bool:
        """Whether the question of the last attempt became an example."""
        return self.last_attempt.outcome in KEPT

    @property
    def outcome(self) -> TurnOutcome:
        """How the turn ended: "exhausted" means that its last question was rejected before the defence, "dropped" that
        the question was answered but not kept.
        """
        if self.kept:
            return "kept"
        if self.last_attempt.outcome == "failed":
            return "failed"
        return "exhausted" if self.last_attempt.rejected else "dropped"

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = to_plain_json(self)
        return value


@dataclass(frozen=True, slots=True)
class Example:
    """The example of a kept turn; `reason` is the outcome for which it was kept."""

    turn: int
    question: str
    solution: str
    answer: str
    reason: str

    @classmethod
    def of(cls, record: TurnRecord) -> "Example":
        """The example of a kept turn, with the attacker's validated solution (paper §3). Raises ValueError if the turn
        was not kept.
        """
        attack = record.last_attempt.attack
        if not record.kept or attack is None:
            raise ValueError(f"turn {record.number} was not kept")
        return cls(record.number, attack.question, attack.solution, attack.answer, record.last_attempt.outcome)

    def hash(self) -> str:
        """The SHA-256 of the example, in hex."""
        return digest(to_plain_json(self))


def dataset_digest(examples: Iterable[Example]) -> str:
    """The SHA-256 of the kept examples in order; equal digests mean equal datasets."""
    return digest([to_plain_json(example) for example in examples])


def turn_from_json(value: dict[str, Any]) -> TurnRecord:
    """Parse a stored turn record."""
    attempts = tuple(attempt_from_json(attempt) for attempt in value["attempts"])
    return TurnRecord(**{**value, "attempts": attempts})


def attempt_from_json(value: dict[str, Any]) -> Attempt:
    """Parse a stored attempt."""
    parser_by_field: dict[str, Any] = {
        "attack": Attack,
        "quality": Quality,
        "validation": verdict_from_json,
        "evaluation": verdict_from_json,
    }
    parsed_fields = {
        name: parse(**value[name]) for name, parse in parser_by_field.items() if value.get(name) is not None
    }
    if value.get("defence") is not None:
        parsed_fields["defence"] = _parse_defence(value["defence"])
    samples = tuple(_parse_sample(sample) for sample in value.get("samples", ()))
    return Attempt(**{**value, **parsed_fields, "seeds": tuple(value["seeds"]), "samples": samples})


def _parse_defence(value: dict[str, Any]) -> Defence:
    return Defence(**{**value, "cut": tuple(value["cut"])})


def _parse_sample(value: dict[str, Any]) -> Sample:
    defence = value["defence"]
    return Sample(**{**value, "defence": None if defence is None else _parse_defence(defence)})


def verdict_from_json(**value: Any) -> Verdict:
    """Parse a stored verdict. Verdicts of earlier versions have fewer keys, and a separate field for each check."""
    findings = tuple(_parse_finding(finding) for finding in value.pop("findings", ()))
    if not findings:
        findings = _parse_older_findings(value)
    votes = tuple(Vote(**vote) for vote in value.get("votes", ()))
    former_keys = ("check", "check_detail", "program", "searches", "lookup")
    current_fields = {key: entry for key, entry in value.items() if key not in former_keys}
    return Verdict(**{**current_fields, "findings": findings, "votes": votes})


def _parse_finding(value: dict[str, Any]) -> Finding:
    evidence = tuple(
        Exhibit(**{**exhibit, "results": tuple(Source(**result) for result in exhibit["results"])})
        for exhibit in value["evidence"]
    )
    return Finding(**{**value, "evidence": evidence})


def _parse_older_findings(value: dict[str, Any]) -> tuple[Finding, ...]:
    """The findings of a verdict from a version that stored separate fields for each check."""
    findings: list[Finding] = []
    if value.get("lookup"):
        searches = tuple(
            Exhibit(
                "search", search["query"], search["outcome"], search["detail"],
                tuple(Source(**result) for result in search["results"]),
            )
            for search in value.get("searches", ())
        )  # fmt: skip
        findings.append(Finding("facts", "not checked", value["lookup"], searches))
    code_conclusion = value.get("check", "not checked")
    if code_conclusion != "not checked" or value.get("check_detail"):
        conclusions: dict[str, Conclusion] = {"agrees": "supports", "disagrees": "contradicts"}
        programs = (Exhibit("program", value["program"]),) if value.get("program") else ()
        findings.append(
            Finding("code", conclusions.get(code_conclusion, "not checked"), value.get("check_detail", ""), programs)
        )
    return tuple(findings)
