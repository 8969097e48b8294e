"""The code check (paper §3, A.1): the judge writes a program of a fixed form, and the sandbox runs it.

The program repeats the solution's steps, starting from the problem's quantities. It only computes an answer; this
module compares that answer with the attacker's. If the program fails or computes nothing, the check concludes "not
checked" and gives the reason.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from nanoflux_local.config import JudgeRules
from nanoflux_local.domains.base import Domain
from nanoflux_local.ledger.calls import Call
from nanoflux_local.records import Identity, Message
from nanoflux_local.roles.base import Draw, Player, ask
from nanoflux_local.roles.checks.base import SANDBOX, Check, CheckContext, CheckStage
from nanoflux_local.roles.checks.programs import NONE, read_program, run_program
from nanoflux_local.roles.judge import is_same_answer
from nanoflux_local.roles.sections import RefusedPrompt, Unparsed
from nanoflux_local.transcript import Attack, Conclusion, Exhibit, Finding, Seed


@dataclass(frozen=True, slots=True)
class CodeCheck:
    """Requests programs until one computes an answer, with at most `retries` retries. The prompt of each retry quotes
    why the previous program failed.
    """

    name: ClassVar[str] = "code"
    title: ClassVar[str] = "code check"
    stage: ClassVar[CheckStage] = "verifies"
    tools: ClassVar[tuple[str, ...]] = (SANDBOX,)
    objection: ClassVar[str] = "the program disagrees"
    asks_solvers: ClassVar[bool] = False

    domain: Domain
    player: Player
    sandbox: Identity
    timeout_s: float
    retries: int

    @classmethod
    def build(cls, context: CheckContext) -> "CodeCheck":
        config = context.config
        sandbox = context.find_tool(SANDBOX, "code_check")
        return cls(context.domain, context.player, sandbox, config.sandbox_wall_s, config.retries.parse)

    @classmethod
    def count_calls(cls, rules: JudgeRules) -> Mapping[str, int]:
        del rules
        return {"chat": 1}

    async def examine(self, attack: Attack, draw: Draw, call: Call, seeds: tuple[Seed, ...] = ()) -> Finding:
        """Compare the attacker's answer with the answer that the solution's steps give. The last program is
        attached as evidence.
        """
        del seeds  # the program starts from the question
        if self.domain.answer == "text":
            return self._make_finding("not checked", "a program cannot tell whether two texts say the same")
        problem = ""
        program = ""
        for retry in range(self.retries + 1):
            prompt = self.domain.render("code", {"attack": attack, "problem": problem})
            request = self.player.build_request((Message("user", prompt),), draw.seed("code", retry), ("CODE",))
            reply = await ask(request, call)
            if isinstance(reply, RefusedPrompt):
                return self._make_finding("not checked", reply.reason)
            incomplete = self.player.refuse_incomplete(reply)
            parsed_program = read_program(reply) if incomplete is None else incomplete
            if parsed_program == NONE:
                return self._make_finding("not checked", "the judge found nothing to calculate")
            if isinstance(parsed_program, Unparsed):
                problem = parsed_program.reason
                continue
            program = parsed_program
            answer = await run_program(program, self.domain, self.sandbox, self.timeout_s, call)
            if isinstance(answer, str):
                return self._compare(answer, attack, program)
            problem = answer.reason
        return self._make_finding("not checked", problem, program)

    def _compare(self, answer: str, attack: Attack, program: str) -> Finding:
        """The finding if the program computes `answer`."""
        agrees = is_same_answer(self.domain, answer, attack.answer)
        reason = f"the program gives {answer[:80]}, the solution says {attack.answer}"
        return self._make_finding("supports" if agrees else "contradicts", reason, program)

    def _make_finding(self, conclusion: Conclusion, reason: str, program: str = "") -> Finding:
        """The finding of this check, with the program as evidence if there is one."""
        evidence = (Exhibit("program", program),) if program else ()
        return Finding(self.name, conclusion, reason, evidence)


CHECK: type[Check] = CodeCheck
