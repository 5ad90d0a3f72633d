"""A stage: whether it must run and why, and what it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from vqpipe.pipeline.run import Run

State = Literal["done", "partial", "to do"]


@dataclass(frozen=True, slots=True)
class Need:
    """Whether a stage must run.

    Attributes
    ----------
    state : str
        ``done``, ``partial`` (it goes on where it was) or ``to do``.
    reason : str
        Why, in words.
    """

    state: State
    reason: str


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of the route.

    Attributes
    ----------
    name : str
    need : callable
        Looks, changes nothing.
    execute : callable
        Does the work and returns what was done, in words.
    remind : callable, optional
        Warns, whether the stage ran or not, of what follows from settings that no fingerprint holds.
    kept : callable
        Says what is kept of the stage when it is interrupted; must return at once.
    """

    name: str
    need: Callable[[Run], Need]
    execute: Callable[[Run], str]
    remind: Callable[[Run], None] | None = None
    kept: Callable[[Run], str] = lambda _: "the stages before it stay done"
