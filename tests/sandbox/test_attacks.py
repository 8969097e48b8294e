"""Every attack succeeds on a plain subprocess, and in no tier of the sandbox, as root or as an ordinary user."""

import errno
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sandbox_suite import ATTACKS, Attack, Effects, plain
from sandbox_suite.world import World

_SUITE = Path(__file__).parent / "sandbox_suite"
_TIERS = ("linux:namespaces+landlock+seccomp", "linux:landlock+seccomp")
_USERS = ("root", "ordinary")
"""The users as whom the suite runs, by their roles in `become.py`."""
_CONCURRENT_SUITES = 2
_MAX_TRIES = 3
"""How often a suite, or an attack without a sandbox, is tried. On a loaded virtual machine, about one exec in tens of
thousands fails with EFAULT. To start a suite again is sound, because no part of the sandbox has run by then. To repeat
an attack without a sandbox is sound, because the test only claims that the attack can succeed.
"""


def _run_suite(user: str, tier: str, tries_left: int = _MAX_TRIES) -> dict[str, Any]:
    """Run all attacks as a user in a tier of the sandbox. Returns the rows that `contained.py` prints, by attack."""
    command = [sys.executable, str(_SUITE / "become.py"), user, sys.executable, str(_SUITE / "contained.py"), tier]
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=400)
    except OSError as error:
        if error.errno != errno.EFAULT or tries_left == 1:
            raise
        return _run_suite(user, tier, tries_left - 1)
    assert process.returncode == 0, process.stderr
    rows = [json.loads(line) for line in process.stdout.splitlines()]
    return {row["attack"]: row for row in rows}


def _run_without_sandbox(attack: Attack, world: World) -> Effects:
    """The effects of an attack in a plain subprocess, which is repeated until the attack succeeds."""
    for _ in range(_MAX_TRIES):
        effects = plain.run(attack, world)
        if attack.success(effects):
            break
    return effects


@pytest.fixture(scope="module")
def suite_results() -> Iterator[dict[tuple[str, str], Future[dict[str, Any]]]]:
    """The results of the attack suite in each tier as each user; two suites run at a time."""
    with ThreadPoolExecutor(_CONCURRENT_SUITES) as pool:
        yield {(user, tier): pool.submit(_run_suite, user, tier) for user in _USERS for tier in _TIERS}


@pytest.fixture(scope="module")
def plain_effects() -> dict[str, Effects]:
    """The effects of each attack without a sandbox. Three threads, each with its own world, share the attacks."""

    def run_every_third(first: int) -> dict[str, Effects]:
        names = list(ATTACKS)[first::3]
        world = World()
        try:
            return {name: _run_without_sandbox(ATTACKS[name], world) for name in names}
        finally:
            world.close()

    all_effects: dict[str, Effects] = {}
    with ThreadPoolExecutor(3) as pool:
        for effects in pool.map(run_every_third, range(3)):
            all_effects |= effects
    return all_effects


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_succeeds_in_a_plain_subprocess(name: str, plain_effects: dict[str, Effects]) -> None:
    assert ATTACKS[name].success(plain_effects[name]), plain_effects[name]


@pytest.mark.parametrize("tier", _TIERS)
@pytest.mark.parametrize("user", _USERS)
@pytest.mark.parametrize("name", ATTACKS)
def test_attack_is_contained_in_every_tier(
    name: str, user: str, tier: str, suite_results: dict[tuple[str, str], Future[dict[str, Any]]]
) -> None:
    row = suite_results[user, tier].result()[name]
    attack = ATTACKS[name]
    assert row["result"]["backend"] == tier
    assert row["result"]["status"] != "unavailable"
    assert not attack.success(Effects(**row["effects"])), row
    assert not row["effects"]["changes"]
    if attack.statuses:
        assert row["result"]["status"] in attack.statuses, row["result"]


@pytest.mark.parametrize("tier", _TIERS)
@pytest.mark.parametrize("user", _USERS)
def test_attack_suite_runs_as_its_user_with_one_fork_server(
    user: str, tier: str, suite_results: dict[tuple[str, str], Future[dict[str, Any]]]
) -> None:
    summary_row = suite_results[user, tier].result()[""]  # the last row belongs to no attack
    assert (summary_row["uid"] == 0) is (user == "root")
    assert summary_row["starts"] == 1


def test_attack_suite_has_at_least_eighty_attacks() -> None:
    assert len(ATTACKS) >= 80
