"""The limiter admits as many tasks as its limit, by rank and then by arrival; a cancelled waiter keeps no slot."""

import asyncio
import contextlib

from nanoflux_local.limiter import RANK, Limiter


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class Queue:
    """A room and those that came to it, in the order in which they got in."""

    def __init__(self, limit: float) -> None:
        self.limiter = Limiter(limit)
        self.inside: list[str] = []
        self.out = asyncio.Event()

    def come(self, name: str, *rank: int) -> asyncio.Task[None]:
        async def visit() -> None:
            RANK.set(lambda: rank)
            async with self.limiter:
                self.inside.append(name)
                await self.out.wait()

        return asyncio.create_task(visit())


def test_limiter_admits_the_smallest_rank_then_the_earliest_arrival() -> None:
    async def play() -> list[str]:
        queue = Queue(1)
        visits = [queue.come("first", 9)]
        await settle()
        visits += [queue.come("late", 5), queue.come("a", 2), queue.come("b", 2), queue.come("unranked")]
        await settle()
        assert queue.inside == ["first"]
        queue.out.set()
        await asyncio.gather(*visits)
        return queue.inside

    assert asyncio.run(play()) == ["first", "unranked", "a", "b", "late"]


def test_limiter_reorder_applies_changed_ranks() -> None:
    async def play() -> list[str]:
        queue = Queue(1)
        order = {"a": 1, "b": 2}

        async def visit(name: str) -> None:
            RANK.set(lambda: (order[name],))
            async with queue.limiter:
                queue.inside.append(name)

        holder = queue.come("holder")
        await settle()
        visits = [asyncio.create_task(visit(name)) for name in order]
        await settle()
        order.update(a=2, b=1)
        queue.limiter.reorder()
        queue.out.set()
        await asyncio.gather(holder, *visits)
        return queue.inside

    assert asyncio.run(play()) == ["holder", "b", "a"]


def test_limiter_passes_the_slot_of_a_cancelled_task_on() -> None:
    async def play() -> tuple[list[str], int]:
        queue = Queue(1)
        holder = queue.come("holder")
        await settle()
        gone, next_one = queue.come("gone", 1), queue.come("next", 2)
        await settle()
        gone.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await gone
        queue.out.set()
        await asyncio.gather(holder, next_one)
        return queue.inside, queue.limiter.busy

    assert asyncio.run(play()) == (["holder", "next"], 0)


def test_limiter_resize_admits_waiting_tasks() -> None:
    async def play() -> int:
        queue = Queue(1)
        visits = [queue.come(str(number), number) for number in range(4)]
        await settle()
        queue.limiter.resize(3)
        await settle()
        inside = len(queue.inside)
        queue.out.set()
        await asyncio.gather(*visits)
        return inside

    assert asyncio.run(play()) == 3
