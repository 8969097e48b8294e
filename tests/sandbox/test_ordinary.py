"""Ordinary programs give their exact output in every tier."""

import asyncio

import pytest
from sandbox_suite.ordinary import FAILING, ORDINARY

from nanoflux_sandbox import Limits, Result, Sandbox

_LIMITS = Limits(wall_s=20.0)


@pytest.fixture(scope="module", params=["linux:namespaces+landlock+seccomp", "linux:landlock+seccomp"])
def results(request: pytest.FixtureRequest) -> dict[str, Result]:
    """The results of all programs in one tier, by the program's name."""

    async def run_all() -> dict[str, Result]:
        programs = {**ORDINARY, **FAILING}
        async with Sandbox(backend=request.param) as sandbox:
            program_results = await asyncio.gather(*(sandbox.run(code, _LIMITS) for code, _ in programs.values()))
        return dict(zip(programs, program_results, strict=True))

    return asyncio.run(run_all())


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_program_gives_its_exact_output(name: str, results: dict[str, Result]) -> None:
    result = results[name]
    assert (result.status, result.exit_code) == ("ok", 0), result
    _, expected_output = ORDINARY[name]
    assert result.stdout == expected_output
    assert not result.truncated


@pytest.mark.parametrize("name", FAILING)
def test_failing_program_gives_a_readable_error(name: str, results: dict[str, Result]) -> None:
    result = results[name]
    assert (result.status, result.exit_code) == ("error", 1), result
    assert result.stdout == ""
    _, expected_error_output = FAILING[name]
    assert result.stderr == expected_error_output


def test_suite_has_at_least_thirty_ordinary_programs() -> None:
    assert len(ORDINARY) >= 30
