"""`python contained.py BACKEND` runs every attack in the sandbox, and prints the results as JSON lines.

It is a separate process, which can run as any user, and which has secrets in its environment and descriptors. A
careless sandbox would inherit these secrets.
"""

import asyncio
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from nanoflux_sandbox import Limits, Result, Sandbox
from sandbox_suite import ATTACKS, Attack, Effects
from sandbox_suite.attack import WALL_S
from sandbox_suite.world import SECRET, World

GRACE_S = 1.0
"""Seconds after the time limit that a program may take to end: twice as many as the sandbox promises, since several
suites share the CPUs.
"""


def judge_output(result: Result) -> str:
    """The verdict as the code check derives it, outside the program: from the program's status and the last number that
    it printed.
    """
    try:
        answer = float(result.stdout.split()[-1])
    except (ValueError, IndexError):
        return "wrong"
    return "right" if result.status == "ok" and abs(answer - 42) < 1e-6 else "wrong"


async def _run_attack(sandbox: Sandbox, world: World, attack: Attack) -> dict:
    """Run one attack. Returns the row that is printed for it."""
    limits = Limits(wall_s=WALL_S, **attack.limits)
    start = time.monotonic()
    result = await sandbox.run(attack.source(world.describe()), limits)
    seconds = time.monotonic() - start
    is_late = seconds > WALL_S + GRACE_S
    effects = Effects(result.stdout, is_late, judge_output(result), world.changes())
    return {"attack": attack.name, "seconds": seconds, "effects": asdict(effects), "result": result.as_dict()}


async def main(backend: str) -> None:
    """Run the attacks one after another, so that every change of the world was made by the latest attack. The last row
    has no attack, but facts about the whole suite.
    """
    os.environ["HOST_SECRET"] = SECRET
    world = World()
    try:
        async with Sandbox(backend=backend, workers=1) as sandbox:
            await sandbox.identity()
            for attack in ATTACKS.values():
                print(json.dumps(await _run_attack(sandbox, world, attack)), flush=True)
            print(json.dumps({"attack": "", "starts": sandbox.starts, "uid": os.getuid()}))
    finally:
        world.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
