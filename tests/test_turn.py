"""The outcomes of a turn (paper §3), in which the real roles get scripted replies instead of those of models."""

import math
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from nanoflux_local.paths import Home
from nanoflux_local.records import ChatReply, ChatRequest, CutReply, CutRequest, EmbedReply, EmbedRequest, Identity
from nanoflux_local.run.binding import build_rules
from nanoflux_local.run.configs import resolve
from nanoflux_local.run.novelty import History
from nanoflux_local.run.turn import Rules, TurnRoles, run_turn
from nanoflux_local.transcript import Attack, Defence, Finding, TurnRecord, Verdict

IDENTITIES = {name: Identity("scripted", name) for name in ("duelist-a", "duelist-b", "arbiter", "embedder")}
NO_HISTORY = History()
"""A history without earlier questions."""
DIMENSIONS = 256
"""The number of dimensions of the embeddings: more than a turn has texts, so that each text can get its own axis."""


def write_attack(question="Question {n}", solution="attacker's steps", answer="4") -> str:
    """A readable reply of the attacker."""
    return f"QUESTION: {question}\nSOLUTION: {solution}\nANSWER: {answer}\nREFLECTION: r"


def write_defence(answer="4", solution="defender's steps") -> str:
    """A readable reply of the defender."""
    return f"SOLUTION: {solution}\nANSWER: {answer}"


def write_validation(decision="VALID", confidence=0.95) -> str:
    """A readable reply of the judge that validates a question."""
    return f"ANALYSIS: a\nVERIFICATION: v\nDECISION: {decision}\nCONFIDENCE: {confidence}\nEXPLANATION: e"


def write_evaluation(decision="CORRECT", confidence=0.95) -> str:
    """A readable reply of the judge that evaluates a defence."""
    return (
        f"ANALYSIS: a\nREASONING QUALITY: SOUND\nCALCULATION ACCURACY: c\nDECISION: {decision}\n"
        f"CONFIDENCE: {confidence}\nEXPLANATION: e"
    )


def make_axis_vector(number: int) -> np.ndarray:
    """The unit vector along an axis, shape (DIMENSIONS,)."""
    return np.eye(DIMENSIONS, dtype=np.float32)[number]


def make_tilted_vector(cosine: float, towards: int, own: int) -> np.ndarray:
    """A unit vector in the plane of the axes `towards` and `own` whose similarity to the axis `towards` is `cosine`."""
    sine = math.sqrt(1 - cosine**2)
    return (cosine * make_axis_vector(towards) + sine * make_axis_vector(own)).astype(np.float32)


@dataclass
class Script:
    """A `Call` that replies from a script, and records the requests with their steps, and the texts to embed.

    The replies of each step are sent in order, and the last one is repeated. In a reply, `{n}` stands for the number of
    earlier requests of the step. Texts without a vector in `vectors` get vectors that are orthogonal to each other.
    """

    attack: list[str] = field(default_factory=lambda: [write_attack()])
    validation: list[str] = field(default_factory=lambda: [write_validation()])
    defence: list[str] = field(default_factory=lambda: [write_defence(answer="5")])
    evaluation: list[str] = field(default_factory=lambda: [write_evaluation("INCORRECT")])
    vectors: dict[str, np.ndarray] = field(default_factory=dict)
    requests: list[tuple[str, ChatRequest]] = field(default_factory=list)
    embedded: list[str] = field(default_factory=list)

    async def __call__(self, request):
        if isinstance(request, EmbedRequest):
            assert request.endpoint == IDENTITIES["embedder"]
            self.embedded.append(request.text)
            unused_axis = make_axis_vector(DIMENSIONS - 1 - len(self.vectors))
            return EmbedReply.of(self.vectors.setdefault(request.text, unused_axis))
        if isinstance(request, CutRequest):
            return CutReply(request.text, exact=True)
        step = self._find_step(request.messages[-1].content)
        replies, earlier_requests = getattr(self, step), self.count(step)
        self.requests.append((step, request))
        reply = replies[min(earlier_requests, len(replies) - 1)]
        return ChatReply(reply.replace("{n}", str(earlier_requests)), "stop")

    @staticmethod
    def _find_step(prompt: str) -> str:
        """The step that a prompt belongs to, recognised by a phrase of its instructions."""
        step_by_phrase = {"QUESTION:": "attack", "VALID or INVALID": "validation", "CORRECT or INCORRECT": "evaluation"}
        for phrase, step in step_by_phrase.items():
            if phrase in prompt:
                return step
        return "defence"

    def count(self, step: str) -> int:
        """The number of requests of a step."""
        return len(self.list_prompts(step))

    def list_prompts(self, step: str) -> list[str]:
        """The prompts of a step, in the order of their requests."""
        return [request.messages[-1].content for request_step, request in self.requests if request_step == step]


def make_rules(tmp_path, profile="scripted", **overrides) -> Rules:
    """The rules of a run of the domain "starter" with these overrides."""
    config = resolve("starter", profile, overrides, Home(tmp_path))
    identities = {**IDENTITIES, "sandbox": Identity("sandbox", "s"), "smollm2": Identity("x", "y")}
    return build_rules(config, identities, Home(tmp_path))


@pytest.fixture
def take_turn(tmp_path):
    """A function that runs one turn with scripted replies, and returns its record."""

    async def run_scripted_turn(script: Script, number=0, history=NO_HISTORY, **overrides) -> TurnRecord:
        return await run_turn(make_rules(tmp_path, **overrides), number, history, script)

    return run_scripted_turn


def place_solutions(cosine: float) -> dict[str, np.ndarray]:
    """Vectors with the similarity `cosine` for the attacker's and the defender's solution."""
    return {"attacker's steps": make_axis_vector(0), "defender's steps": make_tilted_vector(cosine, 0, 1)}


DOUBT_REASON = "confidence 0.5, 0.5, 0.5"
READ_ATTEMPTS = 3
"""How many times a reply is requested before the step ends as unreadable."""
CASES = {
    "kept_failed": (Script(), ["kept_failed"], "kept", (1, 1, 1, 1)),
    "kept_novel": (
        Script(
            defence=[write_defence()],
            evaluation=[write_evaluation()],
            vectors=place_solutions(0.74),
        ),
        ["kept_novel"],
        "kept",
        (1, 1, 1, 1),
    ),
    "defender_right": (
        Script(
            defence=[write_defence()],
            evaluation=[write_evaluation()],
            vectors=place_solutions(0.76),
        ),
        ["defender_right"],
        "dropped",
        (1, 1, 1, 1),
    ),
    "right answer by invalid steps": (Script(defence=[write_defence()]), ["kept_failed"], "kept", (1, 1, 1, 1)),
    "unparsed, then kept": (Script(attack=["no", write_attack()]), ["unparsed", "kept_failed"], "kept", (2, 1, 1, 1)),
    "unparsed to the end": (Script(attack=["no"]), ["unparsed"] * 6, "exhausted", (6, 0, 0, 0)),
    "invalid, then kept": (
        Script(validation=[write_validation("INVALID"), write_validation()]),
        ["invalid", "kept_failed"],
        "kept",
        (2, 2, 1, 1),
    ),
    "invalid to the end": (
        Script(validation=[write_validation("INVALID")]),
        ["invalid"] * 6,
        "exhausted",
        (6, 6, 0, 0),
    ),
    "the same question again and again": (
        Script(attack=[write_attack("Same")], validation=[write_validation("INVALID")]),
        ["invalid"] + ["novelty_rejected"] * 5,
        "exhausted",
        (6, 1, 0, 0),
    ),
    "doubt in validation, then kept": (
        Script(validation=[*[write_validation(confidence=0.5)] * 3, write_validation()]),
        ["low_confidence", "kept_failed"],
        "kept",
        (2, 4, 1, 1),
    ),
    "doubt in validation to the end": (
        Script(validation=[write_validation(confidence=0.5)]),
        ["low_confidence"] * 6,
        "exhausted",
        (6, 18, 0, 0),
    ),
    "doubt in evaluation": (
        Script(evaluation=[write_evaluation(confidence=0.5)]),
        ["low_confidence"],
        "dropped",
        (1, 1, 1, 3),
    ),
    "confident at the third request": (
        Script(evaluation=[*[write_evaluation("INCORRECT", 0.5)] * 2, write_evaluation("INCORRECT")]),
        ["kept_failed"],
        "kept",
        (1, 1, 1, 3),
    ),
    "unreadable validation": (Script(validation=["no"]), ["failed"], "failed", (1, READ_ATTEMPTS, 0, 0)),
    "unreadable defence": (Script(defence=["no"]), ["failed"], "failed", (1, 1, READ_ATTEMPTS, 0)),
    "unreadable evaluation": (Script(evaluation=["no"]), ["failed"], "failed", (1, 1, 1, READ_ATTEMPTS)),
    "readable at the third request": (
        Script(validation=["no", "no", write_validation()], defence=["no", "no", write_defence("5")]),
        ["kept_failed"],
        "kept",
        (1, 3, 3, 1),
    ),
    "every rejection before the last try": (
        Script(
            attack=["no", write_attack("Same"), write_attack("Same"), write_attack("Other {n}")],
            validation=[
                write_validation("INVALID"),
                *[write_validation(confidence=0.5)] * 3,
                write_validation("INVALID"),
                write_validation(),
            ],
        ),
        ["unparsed", "invalid", "novelty_rejected", "low_confidence", "invalid", "kept_failed"],
        "kept",
        (6, 6, 1, 1),
    ),
}
"""Each case by its description: the script, the outcomes of the attempts, the outcome of the turn, and the numbers of
requests for an attack, a validation, a defence and an evaluation.
"""


@pytest.mark.parametrize(("script", "outcomes", "turn_outcome", "request_counts"), CASES.values(), ids=CASES)
async def test_turn_and_its_attempts_have_the_expected_outcomes(
    take_turn, script, outcomes, turn_outcome, request_counts
):
    script = replace(script, requests=[], embedded=[], vectors=dict(script.vectors))  # a fresh copy without requests
    record = await take_turn(script)
    assert [attempt.outcome for attempt in record.attempts] == outcomes
    assert [attempt.number for attempt in record.attempts] == list(range(len(outcomes)))
    assert record.outcome == turn_outcome
    assert tuple(map(script.count, ("attack", "validation", "defence", "evaluation"))) == request_counts
    sampling_seeds = [request.seed for _, request in script.requests]
    assert len(set(sampling_seeds)) == len(sampling_seeds), "two requests of the turn have the same sampling seed"


async def test_kept_attempt_records_every_step(take_turn):
    script = Script(evaluation=[write_evaluation("INCORRECT", 0.6), write_evaluation("INCORRECT", 0.99)])
    attempt = (await take_turn(script)).last_attempt
    assert attempt.attack == Attack("Question 0", "attacker's steps", "4", notes={"REFLECTION": "r"})
    assert attempt.validation == Verdict(True, 0.95, "e")
    assert (attempt.defence.answer, attempt.defence.solution) == ("5", "defender's steps")
    assert attempt.evaluation == Verdict(False, 0.99, "e", soft=True, asked=2)
    assert (attempt.nearest, attempt.solution_similarity, attempt.reason) == (None, None, "")


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (Script(attack=["no"]), "missing section QUESTION, SOLUTION, ANSWER, REFLECTION"),
        (Script(attack=[write_attack(answer="many")]), "ANSWER is not a number: 'many'"),
        (Script(validation=[write_validation("INVALID")]), "e"),
        (Script(validation=[write_validation(confidence=0.5)]), f"validation: {DOUBT_REASON}"),
        (Script(evaluation=[write_evaluation(confidence=0.5)]), f"evaluation: {DOUBT_REASON}"),
        (Script(validation=["no"]), "validation: missing section ANALYSIS"),
        (Script(defence=["no"]), "defence: missing section SOLUTION, ANSWER"),
        (Script(evaluation=["no"]), "evaluation: missing section ANALYSIS"),
    ],
)
async def test_rejection_records_its_reason(take_turn, script, reason):
    assert (await take_turn(script)).last_attempt.reason.startswith(reason)


async def test_limits_of_retries_strikes_and_confidence_come_from_the_configuration(take_turn):
    script = Script(attack=["no"])
    assert len((await take_turn(script, retries={"validation": 0})).attempts) == 1
    script = Script(defence=["no"])
    await take_turn(script, retries={"parse": 0})
    assert script.count("defence") == 1
    script = Script(validation=[write_validation(confidence=0.5)])
    await take_turn(script, retries={"validation": 1}, judge={"strikes": 2})
    assert script.count("validation") == 4
    script = Script(validation=[write_validation(confidence=0.5)])
    assert (await take_turn(script, judge={"confidence": 0.5})).kept


async def test_each_further_request_to_a_judge_in_doubt_has_a_different_prompt(take_turn):
    script = Script(
        evaluation=[
            write_evaluation("INCORRECT", 0.5),
            write_evaluation("INCORRECT", 0.6),
            write_evaluation("INCORRECT"),
        ]
    )
    await take_turn(script)
    first_prompt, second_prompt, third_prompt = script.list_prompts("evaluation")
    assert second_prompt.startswith(first_prompt) and third_prompt.startswith(first_prompt)
    assert len({first_prompt, second_prompt, third_prompt}) == 3


async def test_retry_of_an_unreadable_reply_repeats_the_prompt(take_turn):
    script = Script(defence=["no"])
    await take_turn(script)
    assert len(set(script.list_prompts("defence"))) == 1


@pytest.mark.parametrize(
    ("cosine", "outcome"), [(0.84, "kept_failed"), (0.85, "kept_failed"), (0.86, "novelty_rejected")]
)
async def test_question_similar_to_one_of_an_earlier_turn_is_rejected(take_turn, cosine, outcome):
    """A question is rejected if the similarity is above the threshold θq = 0.85, and not if it is equal to θq."""
    history = History((np.stack([make_axis_vector(5), make_axis_vector(0), make_axis_vector(6)]),))
    script = Script(vectors={"Question 0": make_tilted_vector(cosine, 0, 1)})
    record = await take_turn(script, history=history)
    assert (record.attempts[0].outcome, record.attempts[0].nearest) == (outcome, pytest.approx(cosine, abs=1e-6))
    assert script.count("validation") == 1, "the judge was asked about the rejected question too"


async def test_questions_of_the_same_turn_count_as_earlier_questions(take_turn):
    """Every readable question counts as an earlier question for the next attempts, even if it was rejected."""
    script = Script(
        attack=[write_attack("First"), write_attack("Second"), write_attack("Third"), write_attack("Fourth")],
        validation=[write_validation("INVALID")],
        vectors={
            "First": make_axis_vector(0),
            "Second": make_tilted_vector(0.9, 0, 1),
            "Third": make_axis_vector(1),
            "Fourth": make_axis_vector(3),
        },
    )
    record = await take_turn(script, retries={"validation": 3})
    assert [attempt.outcome for attempt in record.attempts] == ["invalid", "novelty_rejected", "invalid", "invalid"]
    assert [attempt.nearest for attempt in record.attempts] == [
        None,
        0.9,
        pytest.approx(math.sqrt(1 - 0.81), abs=1e-6),
        0.0,
    ]


@pytest.mark.parametrize(
    ("cosine", "outcome"), [(0.74, "kept_novel"), (0.75, "defender_right"), (0.76, "defender_right")]
)
async def test_correct_defence_is_kept_only_below_the_solution_threshold(take_turn, cosine, outcome):
    script = Script(
        defence=[write_defence()],
        evaluation=[write_evaluation()],
        vectors=place_solutions(cosine),
    )
    attempt = (await take_turn(script)).last_attempt
    assert (attempt.outcome, attempt.solution_similarity) == (outcome, pytest.approx(cosine, abs=1e-6))


async def test_wrong_defence_is_kept_without_embedding_its_solution(take_turn):
    script = Script()
    await take_turn(script)
    assert script.embedded == ["Question 0"]


async def test_seeds_are_drawn_without_replacement_within_a_turn(take_turn):
    record = await take_turn(Script(attack=["no"]), seeds={"min": 2, "max": 5}, seed=4)
    seed_ids = [seed_id for attempt in record.attempts for seed_id in attempt.seeds]
    assert len(set(seed_ids)) == len(seed_ids)
    assert all(2 <= len(attempt.seeds) <= 5 for attempt in record.attempts)
    assert len({len(attempt.seeds) for attempt in record.attempts}) > 1, "all attempts drew the same number of seeds"


async def test_attacker_prompt_contains_as_many_seeds_as_are_recorded(take_turn, tmp_path):
    script = Script()
    record = await take_turn(script)
    assert len(record.last_attempt.seeds) in (1, 2)
    assert script.list_prompts("attack")[0].count("Material ") == len(record.last_attempt.seeds)


async def test_two_models_swap_roles_each_turn(tmp_path):
    rules = make_rules(tmp_path)
    for number in range(4):
        script = Script(attack=[write_attack(f"Turn {number}")])
        record = await run_turn(rules, number, NO_HISTORY, script)
        model_names = ("duelist-a", "duelist-b") if number % 2 == 0 else ("duelist-b", "duelist-a")
        assert (record.attacker, record.defender, record.judge) == (*model_names, "arbiter")
        model_by_step = {step: request.endpoint.model for step, request in script.requests}
        assert (model_by_step["attack"], model_by_step["defence"]) == model_names
        assert model_by_step["validation"] == model_by_step["evaluation"] == "arbiter"


async def test_two_models_keep_their_roles_if_swapping_is_off(tmp_path):
    rules = make_rules(tmp_path, swap_roles=False)
    for number in range(2):
        record = await run_turn(rules, number, NO_HISTORY, Script())
        assert (record.attacker, record.defender) == ("duelist-a", "duelist-b")


def test_swap_keeps_the_sampling_of_each_role(tmp_path):
    for roles in make_rules(tmp_path).role_groups:
        assert roles.attacker.player.sampling.temperature == 0.8
        assert roles.defender.player.sampling.temperature == 0.7


@pytest.mark.parametrize(
    ("profile", "overrides", "names"),
    [
        ("embedded", {}, ("program", "smollm2", "program")),
        ("scripted", {"roles": {"attacker": {"endpoint": "duelist-b"}}}, ("duelist-b", "duelist-b", "arbiter")),
    ],
)
def test_roles_are_not_swapped_if_a_program_or_one_model_plays_them(tmp_path, profile, overrides, names):
    rules = make_rules(tmp_path, profile, **overrides)
    assert [(roles.attacker.name, roles.defender.name, roles.judge.name) for roles in rules.role_groups] == [names]
    assert rules.find_roles(0) == rules.find_roles(1)


async def test_turns_with_equal_arguments_have_equal_requests_and_records(take_turn):
    scripts = [
        Script(
            attack=["no", write_attack(), write_attack()],
            validation=[write_validation("INVALID"), write_validation()],
        )
        for _ in range(2)
    ]
    first_record, second_record = [await take_turn(script, number=7) for script in scripts]
    assert first_record == second_record
    assert scripts[0].requests == scripts[1].requests
    assert scripts[0].embedded == scripts[1].embedded


@pytest.mark.parametrize("changes", [{"number": 9}, {"seed": 1}])
async def test_different_turn_or_random_seed_gives_different_seeds_and_sampling_seeds(take_turn, changes):
    first_script, second_script = Script(), Script()
    first_record = await take_turn(first_script, number=7)
    second_record = await take_turn(second_script, **{"number": 7, **changes})
    assert first_record.last_attempt.seeds != second_record.last_attempt.seeds
    first_sampling_seeds = {request.seed for _, request in first_script.requests}
    second_sampling_seeds = {request.seed for _, request in second_script.requests}
    assert not first_sampling_seeds & second_sampling_seeds


async def test_turn_does_not_change_its_history(take_turn):
    history, script = History((make_axis_vector(0)[None, :],)), Script()
    await take_turn(script, history=history)
    question = script.vectors[script.embedded[0]]
    assert history.nearest_similarity(question) == 0.0, "the turn added its question to the history"


# Several answers of the defender

PROVABLE_SETTINGS = {"samples": 3, "keep": "provable"}
"""The defender answers each question three times, and only provable questions are kept."""
WRONG_DEFENCE, RIGHT_DEFENCE = write_defence(answer="5"), write_defence(answer="4")
RIGHT_EVALUATION, WRONG_EVALUATION = write_evaluation("CORRECT"), write_evaluation("INCORRECT")
"""The judge's evaluations of the first defence. Further answers are compared by a program."""


@pytest.mark.parametrize(
    ("defences", "evaluation", "outcome", "pass_rate"),
    [
        ([WRONG_DEFENCE, RIGHT_DEFENCE, WRONG_DEFENCE], WRONG_EVALUATION, "kept_failed", (1, 3)),
        ([RIGHT_DEFENCE, WRONG_DEFENCE, WRONG_DEFENCE], RIGHT_EVALUATION, "kept_failed", (1, 3)),
        ([RIGHT_DEFENCE, RIGHT_DEFENCE, RIGHT_DEFENCE], RIGHT_EVALUATION, "defender_right", (3, 3)),
        ([WRONG_DEFENCE, WRONG_DEFENCE, WRONG_DEFENCE], WRONG_EVALUATION, "unproven", (0, 3)),
        ([WRONG_DEFENCE, "no", "no", "no", RIGHT_DEFENCE], WRONG_EVALUATION, "kept_failed", (1, 2)),
    ],
    ids=["first wrong", "first right", "always right", "never right", "an unreadable answer does not count"],
)
async def test_provable_question_is_solved_sometimes_but_not_always(
    take_turn, defences, evaluation, outcome, pass_rate
):
    script = Script(defence=defences, evaluation=[evaluation])
    record = await take_turn(script, **PROVABLE_SETTINGS)
    assert (record.last_attempt.outcome, record.last_attempt.pass_rate) == (outcome, pass_rate)
    assert record.outcome == ("kept" if outcome == "kept_failed" else "dropped")
    assert script.count("evaluation") == 1, "the judge was asked about further answers, which a program can compare"
    if outcome == "unproven":
        assert record.last_attempt.reason == "0 of 3 answers are right; no blind solutions were written"


@pytest.mark.parametrize(
    ("defences", "outcome"),
    [
        ([WRONG_DEFENCE, RIGHT_DEFENCE, WRONG_DEFENCE], "unproven"),
        ([WRONG_DEFENCE, RIGHT_DEFENCE, RIGHT_DEFENCE], "kept_failed"),
        ([WRONG_DEFENCE, "no", "no", "no", RIGHT_DEFENCE], "unproven"),
    ],
    ids=["one of three", "two of three", "one of two is no majority"],
)
async def test_supported_question_is_solved_by_most_answers_of_the_defender(take_turn, defences, outcome):
    script = Script(defence=defences, evaluation=[WRONG_EVALUATION])
    record = await take_turn(script, samples=3, keep="supported")
    assert record.last_attempt.outcome == outcome
    if outcome == "unproven":
        assert record.last_attempt.reason.startswith("1 of ")


@pytest.mark.parametrize(
    ("findings", "outcome"),
    [
        ([Finding("blind", "not checked", "1 of 2 agrees")], "unproven"),
        ([Finding("blind", "contradicts", "3 of 4 give 5")], "invalid"),
        ([Finding("blind", "supports", "4 of 4 agree")], "invalid"),  # the judge itself rejects the question
        ([Finding("restated", "contradicts", "a seed"), Finding("blind", "not checked", "skipped")], "invalid"),
        ([], "invalid"),
    ],
    ids=["no support", "contradicted", "the judge rejects", "a seed again", "no checks"],
)
async def test_confirmed_question_without_support_is_rejected_before_the_defence(tmp_path, findings, outcome):
    class RejectingJudge:
        """A judge whose validation is negative, with the given findings."""

        name = "judge"

        async def validate(self, attack, draw, call, evidence=(), seeds=()):
            return Verdict(False, 1.0, "the reason", asked=0, findings=tuple(findings))

    base_rules = make_rules(tmp_path, samples=3, keep="confirmed", judge={"checks": ["blind"]})
    roles = replace(base_rules.find_roles(0), judge=RejectingJudge())
    record = await run_turn(replace(base_rules, role_groups=[roles]), 0, NO_HISTORY, Script())
    assert {(attempt.outcome, attempt.reason) for attempt in record.attempts} == {(outcome, "the reason")}
    assert len(record.attempts) > 1, "the attacker did not try again"
    assert record.outcome == "exhausted"


@pytest.mark.parametrize("keep", ["provable", "supported", "confirmed"])
@pytest.mark.parametrize("conclusion", ["supports", "contradicts", "not checked"])
async def test_never_solved_question_is_kept_only_if_blind_solutions_support_it(tmp_path, conclusion, keep):
    class JudgeWithBlindCheck:
        """A judge that accepts every question with a finding of the blind check, and rejects every defence."""

        name = "judge"

        async def validate(self, attack, draw, call, evidence=(), seeds=()):
            return Verdict(True, 1.0, "fine", findings=(Finding("blind", conclusion, "2 of 4 agree"),))

        async def evaluate(self, attack, defence, draw, call):
            return Verdict(False, 1.0, "wrong")

    base_rules = make_rules(tmp_path, samples=3, keep=keep, judge={"checks": ["blind"]})
    roles = replace(base_rules.find_roles(0), judge=JudgeWithBlindCheck())
    record = await run_turn(replace(base_rules, role_groups=[roles]), 0, NO_HISTORY, Script(defence=[WRONG_DEFENCE]))
    assert record.last_attempt.outcome == ("kept_failed" if conclusion == "supports" else "unproven")
    if conclusion != "supports":
        assert record.last_attempt.reason == "0 of 3 answers are right; 2 of 4 agree"


async def test_never_solved_question_is_kept_if_a_program_computed_its_answer(tmp_path):
    class ProgramJudge:
        """A judge that is a program: it has computed the answer itself, and rejects every defence."""

        name = "program"

        async def validate(self, attack, draw, call, evidence=(), seeds=()):
            return Verdict(True, 1.0, "the program printed 4")

        async def evaluate(self, attack, defence, draw, call):
            return Verdict(False, 1.0, "wrong")

    base_rules = make_rules(tmp_path, **PROVABLE_SETTINGS)
    roles = replace(base_rules.find_roles(0), judge=ProgramJudge())
    record = await run_turn(replace(base_rules, role_groups=[roles]), 0, NO_HISTORY, Script(defence=[WRONG_DEFENCE]))
    assert (record.last_attempt.outcome, record.last_attempt.pass_rate) == ("kept_failed", (0, 3))


async def test_further_answers_do_not_change_the_requests_of_the_first_answer(take_turn):
    one_answer_script, three_answers_script = Script(), Script()
    await take_turn(one_answer_script)
    await take_turn(three_answers_script, samples=3)
    requests = [request for _, request in one_answer_script.requests]
    requests_with_further_answers = [request for _, request in three_answers_script.requests]
    first_requests = requests_with_further_answers[: len(requests)]
    assert [request.key() for request in first_requests] == [request.key() for request in requests]
    added_requests = requests_with_further_answers[len(requests) :]
    assert len({request.key() for request in added_requests}) == 2
    (defence_request,) = (request for step, request in one_answer_script.requests if step == "defence")
    assert {request.messages for request in added_requests} == {defence_request.messages}
    assert {request.sampling for request in added_requests} == {defence_request.sampling}


async def test_further_answers_of_a_greedy_defender_are_sampled(take_turn):
    greedy_roles = {"roles": {role: {"sampling": {"temperature": 0.0}} for role in ("attacker", "defender")}}
    script = Script()
    await take_turn(script, samples=2, **greedy_roles)
    first_temperature, second_temperature = (
        request.sampling.temperature for step, request in script.requests if step == "defence"
    )
    assert (first_temperature, second_temperature) == (0.0, 0.7)


async def test_further_answers_do_not_affect_the_outcome_under_the_paper_rules(take_turn):
    record = await take_turn(Script(defence=[WRONG_DEFENCE, RIGHT_DEFENCE]), samples=2)
    assert (record.last_attempt.outcome, record.last_attempt.pass_rate) == ("kept_failed", (1, 2))
    assert record.last_attempt.samples[0].right is True and record.last_attempt.samples[0].reason


class EndpointFailure(Exception):
    """The error of an endpoint that fails."""


async def test_error_of_a_call_is_raised_by_the_turn(take_turn):
    """A failing endpoint does not end a turn with an outcome: its error reaches the engine."""

    class FailingScript(Script):
        async def __call__(self, request):
            raise EndpointFailure

    with pytest.raises(EndpointFailure):
        await take_turn(FailingScript())


async def test_turn_calls_only_four_methods_of_its_roles(tmp_path):
    class MinimalPlayer:
        """Plays all roles with the four methods that a turn needs. As judge, it accepts only the third question."""

        name = "minimal"

        async def attack(self, seeds, draw, call):
            return Attack(f"{draw.turn}-{draw.attempt}-{len(seeds)}", "s", "1")

        async def validate(self, attack, draw, call, evidence=(), seeds=()):
            return Verdict(draw.attempt == 2, 1.0, "third time")

        async def defend(self, question, draw, call):
            return Defence("s", "2")

        async def evaluate(self, attack, defence, draw, call):
            return Verdict(False, 1.0, "wrong")

    player = MinimalPlayer()
    base_rules = make_rules(tmp_path)
    record = await run_turn(
        Rules(base_rules.config, base_rules.seeds, [TurnRoles(player, player, player)], base_rules.embedder),
        3,
        NO_HISTORY,
        Script(),
    )
    assert [attempt.outcome for attempt in record.attempts] == ["invalid", "invalid", "kept_failed"]
    assert record.last_attempt.attack.question.startswith("3-2-")
