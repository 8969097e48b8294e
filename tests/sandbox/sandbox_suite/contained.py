"""`python contained.py BACKEND` runs every exploit in the sandbox, and prints the results as JSON lines.

The tests run this script in a separate process, as any user, with secrets in its environment and descriptors. A
careless sandbox would pass these secrets on to its programs.
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
from sandbox_suite import EXPLOITS, Effects, Exploit
from sandbox_suite.exploit import TIMEOUT_S
from sandbox_suite.world import SECRET, World

GRACE_S = 1.0
"""Seconds after the time limit that a program may take to end: twice as many as the sandbox promises, since several
suites share the CPUs.
"""


def grade_output(result: Result) -> str:
    """The grade, derived outside the program, as the code check does: from the program's status and the last number
    that it printed.
    """
    try:
        answer = float(result.stdout.split()[-1])
    except (ValueError, IndexError):
        return "wrong"
    return "right" if result.status == "ok" and abs(answer - 42) < 1e-6 else "wrong"


async def _run_exploit(sandbox: Sandbox, world: World, exploit: Exploit) -> dict:
    """Run one exploit. Returns the row that is printed for it."""
    limits = Limits(wall_s=TIMEOUT_S, **exploit.limits)
    start = time.monotonic()
    result = await sandbox.run(exploit.source(world.describe()), limits)
    seconds = time.monotonic() - start
    timed_out = seconds > TIMEOUT_S + GRACE_S
    effects = Effects(result.stdout, timed_out, grade_output(result), world.changes())
    return {"exploit": exploit.name, "seconds": seconds, "effects": asdict(effects), "result": result.as_dict()}


async def main(backend: str) -> None:
    """Run the exploits one after another, so that every change of the world was made by the latest exploit. The last
    row names no exploit: it is about the whole suite.
    """
    os.environ["HOST_SECRET"] = SECRET
    world = World()
    try:
        async with Sandbox(backend=backend, workers=1) as sandbox:
            await sandbox.identity()
            for exploit in EXPLOITS.values():
                print(json.dumps(await _run_exploit(sandbox, world, exploit)), flush=True)
            print(json.dumps({"exploit": "", "starts": sandbox.starts, "uid": os.getuid()}))
    finally:
        world.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
