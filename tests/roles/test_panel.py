"""The panel: combines verdicts by majority or by the least confident member, and records the votes."""

import pytest

from nanoflux_local.ledger.calls import Call
from nanoflux_local.roles.base import Draw
from nanoflux_local.roles.panel import PanelJudge, combine_verdicts
from nanoflux_local.roles.sections import Unparsed
from nanoflux_local.transcript import Attack, Defence, Doubt, Verdict

DOUBT = Doubt((0.5, 0.6))
UNPARSED = Unparsed("no")


def yes(confidence=0.95, soft=None) -> Verdict:
    return Verdict(True, confidence, "holds", soft)


def no(confidence=0.95, soft=None) -> Verdict:
    return Verdict(False, confidence, "fails", soft)


CASES = {
    "majority": {
        (yes(0.9), yes(1.0), no()): (True, 0.95), (no(0.9), no(1.0), yes()): (False, 0.95),
        (yes(), yes(), DOUBT): (True, 0.95), (yes(), DOUBT, DOUBT): None, (yes(), no()): None,
        (yes(), no(), UNPARSED): None, (yes(), yes(), no(), no()): None, (yes(), yes(), UNPARSED): (True, 0.95),
    },
    "minimum": {
        (yes(0.9), yes(1.0)): (True, 0.9), (yes(0.99), no(0.92)): (False, 0.92), (no(), no(0.9)): (False, 0.9),
        (yes(), DOUBT): None, (no(), UNPARSED): None,
    },
}  # fmt: skip
"""By rule and by the members' results: the panel's decision and confidence, or None for a doubt."""


@pytest.mark.parametrize(
    ("rule", "results", "expected"),
    [(rule, results, expected) for rule, cases in CASES.items() for results, expected in cases.items()],
)
def test_panel_combines_votes(rule, results, expected):
    combined = combine_verdicts(rule, [f"j{number}" for number in range(len(results))], results)
    if expected is None:
        assert isinstance(combined, Doubt)
        return
    assert (combined.positive, combined.confidence) == expected
    assert [vote.positive for vote in combined.votes] == [getattr(result, "positive", None) for result in results]
    assert combined.explanation == ("holds" if expected[0] else "fails")


@pytest.mark.parametrize(
    ("readings", "soft"),
    [((True, True, False), True), ((False, False, True), False), ((True, False), None), ((None,), None)],
)
def test_panel_soft_value_is_that_of_the_majority(readings, soft):
    results = [yes(soft=reading) for reading in readings]
    assert combine_verdicts("majority", ["j"] * len(results), results).soft is soft


class FakeMember:
    """A judge that always gives the same result, and records its arguments."""

    def __init__(self, name, result):
        self.name, self.result, self.arguments = name, result, []

    async def validate(self, attack, draw, call, evidence=(), seeds=()):
        self.arguments.append((attack, draw, evidence))
        return self.result

    async def evaluate(self, attack, defence, draw, call):
        self.arguments.append((attack, defence, draw))
        return self.result


async def test_panel_asks_every_member():
    members = (FakeMember("one", yes()), FakeMember("two", yes()), FakeMember("three", no()))
    panel = PanelJudge(members)
    call = Call
    attack, defence, draw = Attack("Q", "S", "A"), Defence("s", "a"), Draw(1, 2, 3)
    verdict = await panel.validate(attack, draw, call, ("found",))
    assert panel.name == "one + two + three" and verdict.positive
    assert [member.arguments for member in members] == [[(attack, draw, ("found",))]] * 3
    evaluation = await panel.evaluate(attack, defence, draw, call)
    assert [vote.judge for vote in evaluation.votes] == ["one", "two", "three"]
    unreadable_panel = PanelJudge((FakeMember("one", UNPARSED), FakeMember("two", UNPARSED)))
    assert await unreadable_panel.evaluate(attack, defence, draw, call) == UNPARSED
