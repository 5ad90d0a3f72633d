"""The engine contract: how work is spread, whatever spreads it.

A task is a top-level function ``(item, job) -> result``. Items are small (a shard), jobs are read-only
and the same for all items, results are small and, where they are folded, know ``+``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, Self, TypeVar

Item = TypeVar("Item")
Job = TypeVar("Job")
Result = TypeVar("Result")


class Addable(Protocol):
    """A result that adds up: a tally."""

    def __add__(self, other: Self, /) -> Self:
        """Return the sum of both."""


Sum = TypeVar("Sum", bound=Addable)
Node = TypeVar("Node")


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Item, Result]):
    """What became of one item: a result or an error, never both."""

    item: Item
    result: Result | None
    error: Exception | None = None

    def value(self) -> Result:
        """Return the result, or raise the error."""
        if self.error is not None:
            raise self.error
        return self.result  # type: ignore[return-value]


@dataclass(frozen=True, slots=True)
class Worker:
    """A process that runs tasks, as its engine knows it.

    Attributes
    ----------
    name : str
    memory_bytes : int
        Its limit; 0 where it has none.
    threads : int
        Tasks that it runs at once.
    """

    name: str
    memory_bytes: int
    threads: int


class Runner(Protocol):
    """An engine. The serial one and the Dask one give the same results, bit for bit."""

    @property
    def workers(self) -> int:
        """How many tasks run at once."""

    def map(
        self, task: Callable[[Item, Job], Result], items: Iterable[Item], job: Job
    ) -> Iterator[Outcome[Item, Result]]:
        """Run a task for every item and yield outcomes as they come, in any order.

        A failed item does not stop the others.
        """

    def fold(
        self,
        task: Callable[[Item, Job], Sum],
        items: Sequence[Item],
        job: Job,
        result_bytes: int | None = None,
    ) -> Sum:
        """Run a task for every item and add the results in a tree that the items' order fixes.

        Parameters
        ----------
        task, items, job
            As `map` takes them.
        result_bytes : int, optional
            About the size of a result, where it is known: small ones are added where the caller is, large
            ones where they lie.

        Raises
        ------
        Exception
            The error of the first item, in item order, that failed.
        """

    def worker_memory(self) -> tuple[int, list[int]]:
        """Return how many workers there are and the bytes that they hold, as they last told; of many, of some.

        Costs one message at most; where this process does the work, there is none.
        """

    def survey(
        self, task: Callable[[Worker, Job], Result], job: Job, known: Iterable[str] = ()
    ) -> list[Outcome[Worker, Result]]:
        """Run a short task once on every worker but those whose names are known, beside whatever else they do.

        A worker that went while it was asked is left out; where this process does the work there is none.
        """


def fold_tree(nodes: Iterable[Node], add: Callable[[Node, Node], Node]) -> Node:
    """Add nodes pairwise, neighbours first, in a tree that depends only on their number.

    Floating-point sums depend on their order, so the order must not depend on who finished first.
    Nodes are taken as they are needed and at most log2(n) partial sums are held.

    Raises
    ------
    ValueError
        If there are no nodes.

    Examples
    --------
    >>> fold_tree("abcde", lambda a, b: f"({a}{b})")
    '(((ab)(cd))e)'
    """
    stack: list[tuple[int, Node]] = []
    for node in nodes:
        total, weight = node, 1
        while stack and stack[-1][0] == weight:
            total = add(stack.pop()[1], total)
            weight *= 2
        stack.append((weight, total))
    if not stack:
        raise ValueError("there is nothing to fold")
    _, total = stack.pop()
    while stack:
        total = add(stack.pop()[1], total)
    return total
