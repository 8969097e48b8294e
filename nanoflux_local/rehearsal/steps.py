"""Runs and records the steps of a rehearsal. Each step has a name, an outcome (passed, skipped or failed) and a result.

An error of NanoFlux or vLLM fails only the current step, and the steps that depend on it are skipped. A programming
error is not an outcome: it is raised with its traceback.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from nanoflux_local.errors import NanofluxError
from nanoflux_models.errors import ModelsError
from nanoflux_sandbox.records import SandboxError

StepOutcome = Literal["passed", "skipped", "failed"]


class StepSkipped(Exception):
    """Raised by a step that cannot be performed on this machine; its text is the reason."""


@dataclass(frozen=True, slots=True)
class RehearsalStep:
    """One line of a rehearsal's report. `model` is "" for a step of the whole profile; `detail` is the result, or the
    reason why the step was skipped or failed.
    """

    name: str
    model: str
    outcome: StepOutcome
    detail: str
    seconds: float

    def __str__(self) -> str:
        subject = f"{self.name} {self.model}".rstrip()
        separator = ", " if self.outcome == "passed" else ": "
        return f"{subject}: {self.outcome}{separator}{self.detail}"


@dataclass(slots=True)
class RehearsalReport:
    """The steps of one profile. `on_start` is called with a step's name and model when the step starts, and `on_step`
    with the step when it ends.
    """

    profile: str
    on_step: Callable[[RehearsalStep], None] = lambda _: None
    on_start: Callable[[str], None] = lambda _: None
    steps: list[RehearsalStep] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether no step failed."""
        return all(step.outcome != "failed" for step in self.steps)

    def perform(self, name: str, model: str, work: Callable[[], str]) -> bool:
        """Run one step by calling `work`, which returns the step's result as text; return whether the step passed."""
        self.on_start(f"{name} {model}".rstrip())
        start = time.monotonic()
        outcome, detail = _run_step(work)
        self._add(RehearsalStep(name, model, outcome, detail, round(time.monotonic() - start, 1)))
        return outcome == "passed"

    def skip(self, name: str, model: str, reason: str) -> None:
        """Record a step that is not performed."""
        self._add(RehearsalStep(name, model, "skipped", reason, 0.0))

    def to_json(self) -> dict[str, Any]:
        return {"profile": self.profile, "steps": [asdict(step) for step in self.steps], "ok": self.ok}

    def _add(self, step: RehearsalStep) -> None:
        self.steps.append(step)
        self.on_step(step)


def _run_step(work: Callable[[], str]) -> tuple[StepOutcome, str]:
    """Call `work`; return the outcome, and the result or the reason why the step was skipped or failed."""
    try:
        return "passed", work()
    except StepSkipped as skipped:
        return "skipped", str(skipped)
    except (NanofluxError, ModelsError, SandboxError) as error:
        cause = " ".join(error.message.split())
        return "failed", f"{cause} → {error.fix}" if error.fix else cause
