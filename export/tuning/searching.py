"""The search: one setting after the other, each value in turns with the best so far.

start ─▶ axis by axis: candidate against incumbent, A B B A ─▶ winner against the defaults ─▶ choice

The incumbent stays open while candidates come and go, so that both always answer on the same
machine at the same time of day. The last comparison is a new measurement: of many candidates the
luckiest looks good by chance, and chance does not strike twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, fields, replace
from typing import Any, Generic, Protocol, TypeVar

from export.errors import EngineError
from export.tuned import CpuSettings, GpuSettings, Trial
from export.tuning.comparing import NO_SLOWER, Limit, Pair, Turn, Verdict, compare, is_settled

__all__ = ("Axis", "Choice", "Search", "SearchOptions", "Subject", "difference")

S = TypeVar("S", CpuSettings, GpuSettings)


class Subject(Protocol):
    """Some settings, open and warm."""

    @property
    def answers(self) -> str:
        """Digest of what it answers to the slices of the search."""
        ...

    def turn(self) -> Turn:
        """Measures once.

        Raises:
            EngineError: It no longer answers.
        """
        ...


@dataclass(frozen=True)
class Axis:
    """One setting and the values that are tried.

    Attributes:
        name: Field of the settings.
        values: In the order in which they are tried.
    """

    name: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class SearchOptions:
    """How a search is made.

    Attributes:
        seconds: After which no candidate is begun that could not be ended and confirmed.
        turn_s: About how long a turn takes.
        limit: How long a slice that comes alone may take.
        pairs: Turns of both in a comparison.
        screening: Turns of both from which on what cannot win is dropped.
        confirming: Turns of both in the last comparison.
    """

    seconds: float
    turn_s: float
    limit: Limit = NO_SLOWER
    pairs: int = 5
    screening: int = 2
    confirming: int = 7


@dataclass(frozen=True)
class Choice(Generic[S]):
    """What a search chose.

    Attributes:
        settings: The best, or the defaults.
        gain: It against the defaults; None where it is the defaults.
        trials: Everything that was tried.
        complete: Whether every value was tried before the time was up.
    """

    settings: S
    gain: Trial | None
    trials: tuple[Trial, ...]
    complete: bool


@dataclass
class Search(Generic[S]):
    """One search.

    Attributes:
        defaults: What is served without a search.
        axes: What is tried.
        opened: Opens settings; the subject ends with the context.
        options: How.
        clock: Seconds, monotonic.
        announce: Called with every trial.
    """

    defaults: S
    axes: Sequence[Axis]
    opened: Callable[[S], AbstractContextManager[Subject]]
    options: SearchOptions
    clock: Callable[[], float]
    announce: Callable[[Trial], None] = lambda trial: None
    _trials: list[Trial] = field(default_factory=list, init=False)
    _longest_s: float = field(default=0.0, init=False)
    _end: float = field(default=0.0, init=False)

    def run(self, start: S) -> Choice[S]:
        """Searches.

        Args:
            start: The settings that are in use, with which it begins.

        Raises:
            EngineError: The first settings cannot be measured.
        """
        begin = self.clock()
        self._end = begin + self.options.seconds
        with ExitStack() as stack:
            incumbent: _Open[S] = _Open(start, stack, self.opened)
            opening_s = self.clock() - begin
            self._longest_s = opening_s + 2 * self.options.pairs * self.options.turn_s
            complete = all(self._try_axis(axis, incumbent) for axis in self.axes)
            gain = None
            if incumbent.settings != self.defaults:
                gain = self._confirm(incumbent)
            if gain is None or gain.verdict != Verdict.BETTER:
                return Choice(self.defaults, None, tuple(self._trials), complete)
            return Choice(incumbent.settings, gain, tuple(self._trials), complete)

    def _try_axis(self, axis: Axis, incumbent: _Open[S]) -> bool:
        """Whether there was time for all of its values."""
        before = incumbent.settings
        for value in axis.values:
            candidate = replace(before, **{axis.name: value})
            if candidate == before:
                continue
            # The last comparison must still fit, which takes longer by as much as it has pairs.
            needed = self._longest_s * (1 + self.options.confirming / self.options.pairs)
            if self.clock() + needed >= self._end:
                return False
            self._try(candidate, incumbent)
        return True

    def _try(self, settings: S, incumbent: _Open[S]) -> None:
        begin = self.clock()
        with ExitStack() as stack:
            change = difference(incumbent.settings, settings)
            try:
                candidate: _Open[S] = _Open(settings, stack, self.opened)
                rival, count = incumbent.subject, self.options.pairs
                trial = self._compare(change, rival, candidate.subject, count)
            except EngineError as error:
                self._note(Trial(change, f"does not run: {str(error).splitlines()[-1]}"))
                return
            self._note(trial)
            if trial.verdict == Verdict.BETTER:
                incumbent.take(candidate, stack.pop_all())
        self._longest_s = max(self._longest_s, self.clock() - begin)

    def _confirm(self, incumbent: _Open[S]) -> Trial:
        with ExitStack() as stack:
            rival: _Open[S] = _Open(self.defaults, stack, self.opened)
            change = difference(self.defaults, incumbent.settings)
            trial = self._compare(change, rival.subject, incumbent.subject, self.options.confirming)
        self._note(trial)
        return trial

    def _compare(self, change: str, rival: Subject, candidate: Subject, count: int) -> Trial:
        if candidate.answers != rival.answers:
            return Trial(change, Verdict.OTHER_ANSWERS.value)
        pairs: list[Pair] = []
        for number in range(count):
            # A B B A: what drifts during a pair favours neither.
            if number % 2:
                second, first = candidate.turn(), rival.turn()
            else:
                first, second = rival.turn(), candidate.turn()
            pairs.append(Pair(first, second))
            enough = number + 1 >= self.options.screening
            if enough and is_settled(pairs, count, self.options.limit):
                break
        return compare(change, pairs, self.options.limit)

    def _note(self, trial: Trial) -> None:
        self._trials.append(trial)
        self.announce(trial)


class _Open(Generic[S]):
    """Settings and their open subject; ``take`` changes both and closes the old one."""

    def __init__(
        self,
        settings: S,
        stack: ExitStack,
        opened: Callable[[S], AbstractContextManager[Subject]],
    ) -> None:
        self.settings: S = settings
        # A stack of its own, so that it can be closed early; the outer one closes it in any case.
        self._stack = stack.enter_context(ExitStack())
        self.subject = self._stack.enter_context(opened(settings))

    def take(self, other: _Open[S], keeps: ExitStack) -> None:
        """Becomes the other one, which ``keeps`` holds open from now on."""
        self._stack.close()
        self._stack.push(keeps)
        self.settings, self.subject = other.settings, other.subject


def difference(old: CpuSettings | GpuSettings, new: CpuSettings | GpuSettings) -> str:
    """What differs between two settings, for people."""
    names = [one.name for one in fields(old)]
    changed = [(name, getattr(old, name), getattr(new, name)) for name in names]
    return ", ".join(f"{n} {_text(a)} ▶ {_text(b)}" for n, a, b in changed if a != b)


def _text(value: Any) -> str:
    return "auto" if value is None else str(value).lower()
