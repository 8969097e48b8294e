"""Runs every attack in the sandbox, in a separate process: `python contained.py BACKEND`, results as JSON lines.

The process is separate so that it can run as any user and hold secrets in its environment and descriptors, which a
sandbox that is started carelessly would inherit.
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
"""Twice the delay that the sandbox promises after a program's time limit, since several suites share the CPUs."""


def judge_output(result: Result) -> str:
    """The verdict as the code check derives it outside the program: from its status and its last printed number."""
    try:
        answer = float(result.stdout.split()[-1])
    except (ValueError, IndexError):
        return "wrong"
    return "right" if result.status == "ok" and abs(answer - 42) < 1e-6 else "wrong"


async def _run_attack(sandbox: Sandbox, world: World, attack: Attack) -> dict:
    limits = Limits(wall_s=WALL_S, **attack.limits)
    start = time.monotonic()
    result = await sandbox.run(attack.source(world.describe()), limits)
    seconds = time.monotonic() - start
    effects = Effects(result.stdout, seconds > WALL_S + GRACE_S, judge_output(result), world.changes())
    return {"attack": attack.name, "seconds": seconds, "effects": asdict(effects), "result": result.as_dict()}


async def main(backend: str) -> None:
    """Run the attacks one after another, so that each change in the world was made by the latest attack."""
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
