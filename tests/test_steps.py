"""The steps of a turn: the attempt and step of each request, and the role or check that the run screen shows as
working.
"""

import asyncio
import json
from collections import defaultdict

import pytest
from rich.text import Text

from nanoflux_local.domains.own import load_domain
from nanoflux_local.ledger.packing import CALLS
from nanoflux_local.ledger.tally import Tally, Usage
from nanoflux_local.ledger.turn_steps import TurnInProgress, derive_origins
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.run import configs, runs
from nanoflux_local.run.steps import load_steps, plan_steps
from nanoflux_tui.theme import Colours
from nanoflux_tui.widgets.charts import draw_turns, draw_usage


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("steps")).prepare()


def test_each_request_of_a_run_belongs_to_a_step_of_its_role(home: Home) -> None:
    settings = {"max_turns": 25, "seed": 7, "seeds": {"min": 2}, "samples": 2, "judge": {"quality": True, "strikes": 2}}

    async def generate() -> str:
        run = await runs.start(home, configs.resolve("starter-genetics", "scripted", settings, home))
        await runs.execute(home, run)
        return run

    run = asyncio.run(generate())
    roles_by_step = defaultdict(set)
    with LedgerView(home.ledger) as view:
        steps = load_steps(home, json.loads(view.find_run(run)["config"]))
        for record in view.turn_records(run):
            origin_by_seed = derive_origins(steps, 7, record.number, len(record.attempts))
            sql = (
                f"SELECT role, json_extract(request, '$.seed') AS seed FROM {CALLS} AS calls JOIN turn_calls"
                " ON turn_calls.call = calls.id JOIN turns ON turns.id = turn_calls.turn"
                " WHERE turns.run = ? AND number = ? AND kind = 'chat' ORDER BY position"
            )
            calls = list(view.rows(sql, run, record.number))
            origins = [origin_by_seed[call["seed"]] for call in calls]
            attempt_numbers = [origin.attempt for origin in origins]
            assert attempt_numbers == sorted(attempt_numbers)
            assert set(attempt_numbers) == set(range(len(record.attempts)))
            for origin, call in zip(origins, calls, strict=True):
                roles_by_step[origin.step.name].add(call["role"])
    assert roles_by_step["attack"] == {"attacker"} and roles_by_step["defence"] == {"defender"}
    assert roles_by_step["validation"] == roles_by_step["evaluation"] == roles_by_step["quality"] == {"judge"}
    assert {"defender"} <= roles_by_step["samples"] <= {"defender", "judge"}


def draw_turn(home: Home, domain: str, profile: str, answered: int, **settings: object) -> str:
    """The line that the screen shows for turn 3 once `answered` steps of its first attempt have been answered."""
    config = configs.resolve(domain, profile, settings, home)
    tally = Tally("run", steps=plan_steps(config, load_domain(config.domain, home.root)))
    names = (config.roles.attacker.endpoint, config.roles.defender.endpoint)
    return draw_turns([TurnInProgress(3, 0, answered)], tally, names, Colours({}), 100).plain


def test_turn_line_of_the_embedded_profile_names_the_working_defender(home: Home) -> None:
    assert "○  defender smollm2: solving the question" in draw_turn(home, "starter", "embedded", 0)
    assert "●  answered, waiting for turn 0" in draw_turn(home, "starter", "embedded", 1)


def test_turn_line_names_the_working_role_or_check(home: Home) -> None:
    judge = {"checks": ["answerable", "blind"], "solutions": 3}
    lines = [draw_turn(home, "starter-genetics", "scripted", answered, judge=judge) for answered in range(6)]
    roles_or_checks = [line.split()[2:4] for line in lines]  # a role and its model, or the two words of a check's title
    assert roles_or_checks == [
        ["attacker", "duelist-a:"], ["judge", "arbiter:"], ["answerability", "check"], ["blind", "check"],
        ["defender", "duelist-b:"], ["judge", "arbiter:"],
    ]  # fmt: skip


def test_blind_check_is_shown_before_the_judge_if_only_confirmed_questions_are_kept(home: Home) -> None:
    judge = {"checks": ["answerable", "blind"], "solutions": 3}
    lines = [
        draw_turn(home, "starter-genetics", "scripted", answered, judge=judge, keep="confirmed")
        for answered in range(4)
    ]
    assert [line.split()[2:4] for line in lines] == [
        ["attacker", "duelist-a:"], ["blind", "check"], ["judge", "arbiter:"], ["answerability", "check"],
    ]  # fmt: skip


def test_evaluation_is_no_step_if_a_program_grades(home: Home) -> None:
    config = configs.resolve("starter-genetics", "scripted", {"judge": {"grading": "program"}, "samples": 2}, home)
    names = [step.name for step in plan_steps(config, load_domain(config.domain, home.root))]
    assert names == ["attack", "validation", "defence", "samples"]


def test_usage_shows_how_many_requests_ran_in_parallel_on_average() -> None:
    """The requests took 300 seconds in all and the work took 20 seconds, so 15 requests ran in parallel on average."""
    tally = Tally("run", usage={"defender": Usage(calls=30, seconds=240.0), "judge": Usage(calls=30, seconds=60.0)})
    usage_chart: Text = draw_usage(tally, Colours({}), 20.0)
    assert "model time 5 min in 20 s of work: 15.0 parallel requests on average" in usage_chart.plain
