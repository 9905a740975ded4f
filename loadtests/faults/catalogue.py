"""The scenarios, in the order of the table."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from loadtests.faults import attacks, crowds, one_of_three, overload, posts, reloads
from loadtests.faults.bench import Bench
from loadtests.faults.outcome import Outcome


@dataclass(frozen=True, slots=True)
class Scenario:
    """Something that is done to a daemon of its own."""

    name: str
    run: Callable[[Bench], Outcome]


SCENARIOS = (
    Scenario("reloads under load", reloads.run),
    Scenario("many reloads", reloads.run_many),
    Scenario("kills in POSTs", posts.run),
    *(
        Scenario(f"one of three: {ending.title}", partial(one_of_three.run, ending=ending))
        for ending in (
            one_of_three.KILLED,
            one_of_three.STOPPED,
            one_of_three.RESETTING,
            one_of_three.ANSWERING_500,
            one_of_three.SLOW,
        )
    ),
    Scenario("overload", overload.run),
    *(
        Scenario(f"attack: {attack.title}", partial(attacks.run, attack=attack))
        for attack in (attacks.HEADS, attacks.BODIES, attacks.READERS)
    ),
    *(
        Scenario(f"crowd: clients that {crowd.title}", partial(crowds.run, crowd=crowd))
        for crowd in (crowds.HEADS, crowds.BODIES, crowds.READERS)
    ),
)


def chosen(words: Sequence[str]) -> list[Scenario]:
    """The scenarios whose names hold one of `words`; without words all."""
    return [one for one in SCENARIOS if not words or any(word.lower() in one.name.lower() for word in words)]
