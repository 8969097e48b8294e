"""Programs for judges and attackers: run in the sandbox, answered as remembered calls."""

from nanoflux_local.errors import RefusedError
from nanoflux_local.records import Identity, PythonReply, PythonRequest, digest
from nanoflux_sandbox import Limits, Sandbox


class PythonTool:
    """Runs programs in one sandbox. It never runs one that cannot be contained."""

    def __init__(self, workers: int | None = None) -> None:
        self._sandbox = Sandbox(workers=workers)

    async def identity(self) -> Identity:
        """The sandbox as the endpoint of Python requests: its layers, and everything that decides results.

        Raises:
            SandboxError: nothing can be contained on this machine.
        """
        backend = await self._sandbox.identity()
        return Identity("sandbox", backend.backend, revision=digest(backend.as_dict())[:16])

    async def run(self, request: PythonRequest) -> PythonReply:
        """Run one program.

        Raises:
            RefusedError: the sandbox became unavailable; that is no verdict on the program, so it is not remembered.
        """
        result = await self._sandbox.run(request.code, Limits(wall_s=request.wall_s))
        if result.status == "unavailable":
            raise RefusedError(f"the sandbox is unavailable: {result.detail}", "see `nanoflux sandbox check`")
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
