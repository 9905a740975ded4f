"""How instances of a new version take the place of those of the old one, and when that is called off. Pure.

A few at a time: one more than there should be is started, and when it serves an old one goes. The first ones are
watched before more follow, for a version that starts well and fails is the one that does harm: whether more of their
requests fail than of the old ones' at the same time, and whether they take much longer. A comparison with what was an
hour ago would see the load of the hour.

What is called off stays so: the new ones go, the old ones stay, and it takes somebody's word or another version to try
again. Started again by itself it would fail again.
"""

from dataclasses import dataclass
from enum import Enum
from math import comb, sqrt

LEAST_ANSWERS = 20
"""Requests of the new instances from which shares and means are compared."""

FEWEST_ANSWERS = 3
"""Requests below which nothing is. Between the two failures alone count, by exact odds: a version that fails every
request is given no twenty, for its circuit opens after a few."""

CHANCE = 1 / 740
"""Odds of the failures of few requests below which they are none of chance."""

SIGNIFICANT = 3.0
"""Standard errors by which the share of failures must be larger: chance does it once in 740 comparisons."""

LEAST_DIFFERENCE = 0.02
"""Share of failures that does not matter, however significant."""

SLOWER = 2.5
"""Times as long as the old ones on average stand out. Caches that are empty double what requests take."""

LEAST_SLOWER_S = 0.01
"""Seconds that do not matter, however many times as long."""


@dataclass(frozen=True, slots=True)
class DeployParams:
    """How quickly, and how carefully."""

    max_surge: int = 1
    """Instances beyond the size of the cluster meanwhile, ≥ 1."""
    max_unavailable: int = 0
    """Instances that may be missing meanwhile. 0 = an old one goes when a new one serves."""
    bake_s: float = 30.0
    """Seconds for which the first new ones are watched before more follow. 0 = they are not."""


class Stage(Enum):
    """How far a deployment is."""

    NONE = "none"
    """All instances are of the version that there should be."""
    STARTING = "starting"
    """The first new ones start."""
    BAKING = "baking"
    """They are watched."""
    ROLLING = "rolling"
    """The others follow."""
    HALTED = "halted"
    """It is called off."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What requests to some instances came to."""

    sent: int = 0
    failed: int = 0
    took_s: float = 0.0
    """Of those that were answered, all together."""
    answered: int = 0

    def __add__(self, other: "Answers") -> "Answers":
        return Answers(
            self.sent + other.sent,
            self.failed + other.failed,
            self.took_s + other.took_s,
            self.answered + other.answered,
        )

    def since(self, before: "Answers") -> "Answers":
        """What came after `before`; counts that went back begin anew."""
        if self.sent < before.sent or self.answered < before.answered:
            return self
        return Answers(
            self.sent - before.sent,
            self.failed - before.failed,
            self.took_s - before.took_s,
            self.answered - before.answered,
        )


def why_worse(new: Answers, old: Answers) -> str | None:
    """Why the new ones stand out; `None` = they do not, as far as anybody can tell.

    The shares of failures are compared by a two-proportion z-test: 8 of 50 against 2 of 200 differ by 0.15, with a
    standard error of √(0.04 · 0.96 · (1/50 + 1/200)) = 0.031: 4.8 of them.
    """
    share, usual = _share(new), _share(old)
    if share - usual > LEAST_DIFFERENCE and _is_significant(new, old):
        return f"{share:.1%} of their requests fail, {usual:.1%} of the others'"
    if min(new.answered, old.answered) >= LEAST_ANSWERS:
        took_s, usual_s = new.took_s / new.answered, old.took_s / old.answered
        if took_s > SLOWER * usual_s and took_s - usual_s > LEAST_SLOWER_S:
            return f"their requests take {took_s:.3g} s on average, the others' {usual_s:.3g} s"
    return None


def _share(answers: Answers) -> float:
    return answers.failed / answers.sent if answers.sent else 0.0


def _is_significant(new: Answers, old: Answers) -> bool:
    """Whether it is not by chance that a larger share of the new ones' requests failed.

    Of fewer than 20 the odds of so many failures, or more, are summed up, if each fails with the odds of the old ones',
    by Laplace's rule (f + 1) / (n + 2): 3 of 3 against 0 of 20 have the odds (1/22)³, about 1:10 000.
    """
    if new.sent < FEWEST_ANSWERS:
        return False
    if new.sent < LEAST_ANSWERS:
        usual, sent = (old.failed + 1) / (old.sent + 2), new.sent
        odds = [
            comb(sent, count) * usual**count * (1.0 - usual) ** (sent - count)
            for count in range(new.failed, sent + 1)
        ]
        return sum(odds) < CHANCE
    together = (new.failed + old.failed) / (new.sent + old.sent)
    error = sqrt(together * (1.0 - together) * (1.0 / new.sent + 1.0 / max(old.sent, new.sent)))
    return _share(new) - _share(old) > SIGNIFICANT * error


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many instances of either version there should be, starting ones included."""

    new: int
    old: int


class Rollout:
    """The deployment of one cluster."""

    __slots__ = ("_bake_until", "_begun_at", "_params", "_stage_at", "reason", "stage")

    def __init__(self, params: DeployParams, halted: str = "") -> None:
        """`halted` says why one was called off before, and still is."""
        self._params = params
        self.stage = Stage.HALTED if halted else Stage.NONE
        self.reason = halted
        """Why it was called off."""
        self._begun_at = self._stage_at = self._bake_until = 0.0

    def __repr__(self) -> str:
        return f"Rollout({self.stage.value}{': ' if self.reason else ''}{self.reason})"

    @property
    def is_under_way(self) -> bool:
        """Whether new ones take the place of old ones."""
        return self.stage in (Stage.STARTING, Stage.BAKING, Stage.ROLLING)

    def change(self, params: DeployParams) -> None:
        """Go by other parameters."""
        self._params = params

    def forget(self) -> None:
        """There is another version, or somebody wants it tried again."""
        self.stage, self.reason = Stage.NONE, ""

    def halt(self, reason: str) -> None:
        """Call it off, if it is under way."""
        if self.is_under_way:
            self.stage, self.reason = Stage.HALTED, reason

    def sizes(self, desired: int, new_serving: int, old: int, *, now: float) -> Sizes:
        """How many there should be, with so many new ones that serve, and so many old ones that start or serve.

        3 instances, 1 more at once: 1 new and 3 old until it has been watched, 1 and 2 when it passed, then 2 and 2,
        2 and 1, 3 and 1, 3 and 0.
        """
        if self.stage is Stage.HALTED:
            return Sizes(0, desired)
        if not old or (not self.is_under_way and new_serving >= desired):
            # All there should be, or what came back when somebody took the new version back.
            self.stage = Stage.NONE
            return Sizes(desired, 0)
        if not self.is_under_way:
            self.stage, self._begun_at = Stage.STARTING, now
        params = self._params
        first = min(params.max_surge, desired)
        if self.stage is Stage.STARTING and new_serving >= first:
            self.stage, self._bake_until = Stage.BAKING, now + params.bake_s
        if self.stage is Stage.BAKING and now >= self._bake_until:
            self.stage = Stage.ROLLING
        if self.stage is not Stage.ROLLING:
            return Sizes(first, desired)
        staying = max(desired - params.max_unavailable - new_serving, 0)
        old = min(old, staying)
        return Sizes(min(desired + params.max_surge - old, desired), old)

    def left_s(self, now: float) -> float | None:
        """Seconds that the first ones will still be watched; `None` = they are not."""
        return max(self._bake_until - now, 0.0) if self.stage is Stage.BAKING else None

    def took_s(self, now: float) -> float:
        """Seconds since it began."""
        return now - self._begun_at
