"""The panel: combines verdicts by majority or by the least confident member, and records the votes."""

import pytest

from nanoflux_local.roles.base import Draw
from nanoflux_local.roles.panel import PanelJudge, combine_verdicts
from nanoflux_local.roles.sections import Unparsed
from nanoflux_local.transcript import Attack, Defence, Doubt, Exhibit, Verdict

DOUBT = Doubt((0.5, 0.6))
UNPARSED = Unparsed("no")


def accept(confidence=0.95, soft=None) -> Verdict:
    """A positive verdict."""
    return Verdict(True, confidence, "holds", soft)


def reject(confidence=0.95, soft=None) -> Verdict:
    """A negative verdict."""
    return Verdict(False, confidence, "fails", soft)


COMBINATIONS = {
    "majority": {
        (accept(0.9), accept(1.0), reject()): (True, 0.95), (reject(0.9), reject(1.0), accept()): (False, 0.95),
        (accept(), accept(), DOUBT): (True, 0.95), (accept(), DOUBT, DOUBT): None, (accept(), reject()): None,
        (accept(), reject(), UNPARSED): None, (accept(), accept(), reject(), reject()): None,
        (accept(), accept(), UNPARSED): (True, 0.95),
    },
    "minimum": {
        (accept(0.9), accept(1.0)): (True, 0.9), (accept(0.99), reject(0.92)): (False, 0.92),
        (reject(), reject(0.9)): (False, 0.9), (accept(), DOUBT): None, (reject(), UNPARSED): None,
    },
}  # fmt: skip
"""The panel's decision and confidence, or None for a doubt, by the rule and the results of the members."""


@pytest.mark.parametrize(
    ("rule", "results", "expected"),
    [(rule, results, expected) for rule, cases in COMBINATIONS.items() for results, expected in cases.items()],
)
def test_panel_combines_the_results_of_its_members(rule, results, expected):
    combined = combine_verdicts(rule, [f"j{number}" for number in range(len(results))], results)
    if expected is None:
        assert isinstance(combined, Doubt)
        return
    assert (combined.positive, combined.confidence) == expected
    assert [vote.positive for vote in combined.votes] == [getattr(result, "positive", None) for result in results]
    assert combined.explanation == ("holds" if expected[0] else "fails")


@pytest.mark.parametrize(
    ("member_values", "soft"),
    [((True, True, False), True), ((False, False, True), False), ((True, False), None), ((None,), None)],
)
def test_panel_soft_value_is_that_of_the_majority(member_values, soft):
    results = [accept(soft=value) for value in member_values]
    assert combine_verdicts("majority", ["j"] * len(results), results).soft is soft


class FakeMember:
    """A judge that always gives the same result, and records its arguments."""

    def __init__(self, name, result):
        self.name = name
        self.result = result
        self.arguments = []

    async def validate(self, attack, draw, call, evidence=(), seeds=()):
        self.arguments.append((attack, draw, evidence))
        return self.result

    async def evaluate(self, attack, defence, draw, call):
        self.arguments.append((attack, defence, draw))
        return self.result


async def refuse_call(request):
    """A `Call` that fails the test, since the fake members of the panel send no request."""
    raise AssertionError("a request was sent")


async def test_panel_asks_every_member():
    members = (FakeMember("one", accept()), FakeMember("two", accept()), FakeMember("three", reject()))
    panel = PanelJudge(members)
    attack = Attack("Q", "S", "A")
    defence = Defence("s", "a")
    draw = Draw(run_seed=1, turn=2, attempt=3)
    evidence = (Exhibit("search", "a query"),)
    verdict = await panel.validate(attack, draw, refuse_call, evidence)
    assert panel.name == "one + two + three" and verdict.positive
    assert [member.arguments for member in members] == [[(attack, draw, evidence)]] * 3
    evaluation = await panel.evaluate(attack, defence, draw, refuse_call)
    assert [vote.judge for vote in evaluation.votes] == ["one", "two", "three"]
    unreadable_panel = PanelJudge((FakeMember("one", UNPARSED), FakeMember("two", UNPARSED)))
    assert await unreadable_panel.evaluate(attack, defence, draw, refuse_call) == UNPARSED
