"""Runs the programs of judges and attackers in the sandbox, as the tool that replies to Python requests."""

from nanoflux_local.errors import RefusedError
from nanoflux_local.records import Identity, PythonReply, PythonRequest, digest
from nanoflux_sandbox import Limits, Sandbox


def make_unavailable_error(reason: str) -> RefusedError:
    """The error for a sandbox that cannot run programs."""
    fix = "run `nanoflux sandbox check` and correct the problems that it reports"
    return RefusedError(f"the sandbox is unavailable: {reason}", fix)


class PythonTool:
    """Runs programs in one sandbox. If this machine cannot isolate programs, it refuses to run them."""

    def __init__(self, workers: int | None = None) -> None:
        self._sandbox = Sandbox(workers=workers)

    async def identity(self) -> Identity:
        """The sandbox as the endpoint of Python requests: its layers and everything else that determines results.

        Raises:
            SandboxError: this machine cannot isolate programs.
        """
        backend = await self._sandbox.identity()
        return Identity("sandbox", backend.backend, revision=digest(backend.as_dict())[:16])

    async def run(self, request: PythonRequest) -> PythonReply:
        """Run one program.

        Raises:
            RefusedError: the sandbox became unavailable. No reply is stored, since this says nothing about the program.
        """
        result = await self._sandbox.run(request.code, Limits(wall_s=request.wall_s))
        if result.status == "unavailable":
            raise make_unavailable_error(result.detail)
        return PythonReply(
            result.status,
            result.exit_code,
            result.stdout,
            result.stderr,
            result.truncated,
            result.backend,
            round(result.wall_s, 4),
        )

    async def close(self) -> None:
        await self._sandbox.close()
