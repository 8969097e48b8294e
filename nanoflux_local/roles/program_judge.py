"""The built-in judge, which calls no model: it validates by running the attack's program, and evaluates by comparing
answers.

It judges answers only. It does not read the reasoning, so its verdicts do not say whether the approach is sound
(`soft`).
"""

from dataclasses import dataclass

from nanoflux_local.answers import read_number, same_number
from nanoflux_local.config import PROGRAM
from nanoflux_local.ledger.calls import Call
from nanoflux_local.records import Identity, PythonRequest
from nanoflux_local.roles.base import Draw
from nanoflux_local.transcript import Attack, Conclusion, Defence, Exhibit, Finding, Seed, Verdict


@dataclass(frozen=True, slots=True)
class ProgramJudge:
    """Judges attacks that contain a program: those of the built-in attacker."""

    sandbox: Identity
    timeout_s: float
    name: str = PROGRAM

    async def validate(
        self,
        attack: Attack,
        draw: Draw,
        call: Call,
        evidence: tuple[Exhibit, ...] = (),
        seeds: tuple[Seed, ...] = (),
    ) -> Verdict:
        """Accept the attack if its program runs and the last line that it prints is the answer."""
        del draw, evidence, seeds  # this judge neither samples nor reads evidence
        reply = await call(PythonRequest(self.sandbox, attack.program, self.timeout_s))
        if reply.status != "ok":
            explanation = f"the program ended with {reply.status}"
            finding = _make_finding("not checked", reply.stderr.strip()[-400:])
            return Verdict(False, 1.0, explanation, findings=(finding,))
        printed_lines = reply.stdout.strip().splitlines()
        last_line = printed_lines[-1] if printed_lines else ""
        agrees = same_number(last_line, attack.answer)
        detail = f"the program printed {last_line[:80]}, the attack says {attack.answer}"
        finding = _make_finding("supports" if agrees else "contradicts", detail)
        return Verdict(agrees, 1.0, detail, findings=(finding,))

    async def evaluate(self, attack: Attack, defence: Defence, draw: Draw, call: Call) -> Verdict:
        """Accept the defence if its answer is one number that equals the attack's."""
        del draw, call
        is_right = same_number(defence.answer, attack.answer)
        answer = "no single number" if read_number(defence.answer) is None else defence.answer[:80]
        return Verdict(is_right, 1.0, f"the defender says {answer}, the verified answer is {attack.answer}")


def _make_finding(conclusion: Conclusion, reason: str) -> Finding:
    """A finding under the name of the code check, which also runs a program."""
    return Finding("code", conclusion, reason)
