"""The limiter admits at most `limit` tasks at a time, in the order of rank and arrival, and skips cancelled tasks."""

import asyncio
import contextlib

from nanoflux_local.limiter import RANK, Limiter


async def settle() -> None:
    """Let the other tasks run until each of them waits, which takes a few steps of the event loop."""
    for _ in range(5):
        await asyncio.sleep(0)


class Queue:
    """A limiter, and the names of the tasks that it has admitted, in order. Admitted tasks keep their slots until
    `release` is set.
    """

    def __init__(self, limit: float) -> None:
        self.limiter = Limiter(limit)
        self.admitted: list[str] = []
        self.release = asyncio.Event()

    def start_task(self, name: str, *rank: int) -> asyncio.Task[None]:
        """Start a task with this rank, which waits for a slot."""

        async def run_task() -> None:
            RANK.set(lambda: rank)
            async with self.limiter:
                self.admitted.append(name)
                await self.release.wait()

        return asyncio.create_task(run_task())


def test_limiter_admits_the_smallest_rank_then_the_earliest_arrival() -> None:
    async def run_tasks() -> list[str]:
        queue = Queue(1)
        tasks = [queue.start_task("first", 9)]
        await settle()
        tasks += [
            queue.start_task("late", 5),
            queue.start_task("a", 2),
            queue.start_task("b", 2),
            queue.start_task("unranked"),
        ]
        await settle()
        assert queue.admitted == ["first"]
        queue.release.set()
        await asyncio.gather(*tasks)
        return queue.admitted

    assert asyncio.run(run_tasks()) == ["first", "unranked", "a", "b", "late"]


def test_limiter_reorder_applies_changed_ranks() -> None:
    async def run_tasks() -> list[str]:
        queue = Queue(1)
        rank_by_name = {"a": 1, "b": 2}

        async def run_task(name: str) -> None:
            RANK.set(lambda: (rank_by_name[name],))
            async with queue.limiter:
                queue.admitted.append(name)

        holding_task = queue.start_task("holder")
        await settle()
        tasks = [asyncio.create_task(run_task(name)) for name in rank_by_name]
        await settle()
        rank_by_name.update(a=2, b=1)
        queue.limiter.reorder()
        queue.release.set()
        await asyncio.gather(holding_task, *tasks)
        return queue.admitted

    assert asyncio.run(run_tasks()) == ["holder", "b", "a"]


def test_limiter_skips_a_cancelled_task() -> None:
    async def run_tasks() -> tuple[list[str], int]:
        queue = Queue(1)
        holding_task = queue.start_task("holder")
        await settle()
        cancelled_task, next_task = queue.start_task("cancelled", 1), queue.start_task("next", 2)
        await settle()
        cancelled_task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await cancelled_task
        queue.release.set()
        await asyncio.gather(holding_task, next_task)
        return queue.admitted, queue.limiter.busy

    assert asyncio.run(run_tasks()) == (["holder", "next"], 0)


def test_limiter_resize_admits_waiting_tasks() -> None:
    async def run_tasks() -> int:
        queue = Queue(1)
        tasks = [queue.start_task(str(number), number) for number in range(4)]
        await settle()
        queue.limiter.resize(3)
        await settle()
        admitted_count = len(queue.admitted)
        queue.release.set()
        await asyncio.gather(*tasks)
        return admitted_count

    assert asyncio.run(run_tasks()) == 3
