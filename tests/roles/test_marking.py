"""Marking compares answers with the attacker's if they are numbers or letters, and asks the judge about free text."""

from dataclasses import dataclass, field

import pytest

from nanoflux_local.domains.own import load_domain
from nanoflux_local.roles.base import Draw
from nanoflux_local.roles.marking import Marker
from nanoflux_local.roles.sections import Unparsed
from nanoflux_local.transcript import Attack, Defence, Doubt, Verdict

DRAW = Draw(0, 0, 0, sample=1)


@dataclass
class FixedJudge:
    """Gives the same result for every evaluation, and records the evaluated defences."""

    result: Verdict | Doubt | Unparsed
    evaluated_defences: list[Defence] = field(default_factory=list)
    name: str = "judge"

    async def evaluate(self, attack, defence, draw, call):
        self.evaluated_defences.append(defence)
        return self.result


async def refuse_call(request):
    """A `Call` that fails the test, since the marker itself must not send a request."""
    raise AssertionError("the marker sent a request")


@pytest.mark.parametrize(
    ("domain_name", "answer", "expected", "right"),
    [
        ("starter", "12.0", "12", True),
        ("starter", "13", "12", False),
        ("starter", "many", "12", False),
        ("starter-genetics", "(B)", "B", True),
        ("starter-genetics", "C", "B", False),
    ],
)
async def test_numbers_and_letters_are_marked_without_the_judge(domain_name, answer, expected, right):
    judge = FixedJudge(Verdict(not right, 1.0, "the judge is not asked"))
    marker = Marker(load_domain(domain_name), judge)
    sample = await marker.mark(Attack("Q", "S", expected), Defence("s", answer), DRAW, refuse_call)
    assert sample.right is right and sample.reason
    assert judge.evaluated_defences == [], "the judge was asked"


@pytest.mark.parametrize(
    ("result", "right", "reason"),
    [
        (Verdict(True, 1.0, "the same"), True, "the same"),
        (Verdict(False, 1.0, "another"), False, "another"),
        (Doubt((0.5,)), None, "the judge stayed in doubt"),
        (Unparsed("no DECISION"), None, "evaluation: no DECISION"),
    ],
)
async def test_free_text_is_marked_by_the_judge(result, right, reason):
    domain = load_domain("starter").model_copy(update={"answer": "text"})
    defence = Defence("s", "a short text")
    judge = FixedJudge(result)
    sample = await Marker(domain, judge).mark(Attack("Q", "S", "a text"), defence, DRAW, refuse_call)
    assert (sample.defence, sample.right, sample.reason) == (defence, right, reason)
    assert judge.evaluated_defences == [defence]
