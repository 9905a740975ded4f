"""What is explained right before a choice is the choice, but for chance; and nobody is moved by being asked."""

import pytest

from loadtests.locality.homeport import REFRESH_S, Homeport
from loadtests.locality.simulation import simulate
from loadtests.locality.trace import BY_NAME, Trace
from proxy.policy.outlook import Why, outlook

SHIFT, SLOW, JOINS = (BY_NAME[name] for name in ("shift", "slow", "joins"))


class Asking(Homeport):
    """Asks before each request where it would go."""

    asked = 0
    by_chance = 0

    def choose(self, request, *, now):
        locality, facts = self.locality, self.facts(request)
        if now >= self._refresh_at:
            locality.refresh(self._usable)
            self._refresh_at = now + REFRESH_S  # the choice looks at the same loads
        found = outlook(locality, self._usable, facts, now=now)
        prospects = {one.candidate.number: one for one in found.prospects}
        number = super().choose(request, now=now)
        Asking.asked += 1
        picked, winner = prospects[number], found.winner
        if picked is not winner:
            # One that chance had looked at, and that is as good at least; or an equal.
            assert rank(picked) <= rank(winner)
            assert not picked.is_sure or rank(picked) == rank(winner)
            Asking.by_chance += 1
        elif found.why is Why.HOLDER:
            assert picked.held
        return number


def rank(prospect):
    return prospect.forecast.is_overloaded, round(prospect.score_s, 9)


class Distrusting(Asking):
    """Leaves data out of every third choice."""

    def choose(self, request, *, now):
        learning = self.locality.learning
        trusted = learning.is_trusted
        learning.is_trusted = trusted and request.number % 3 > 0
        number = super().choose(request, now=now)
        learning.is_trusted = trusted
        return number


@pytest.mark.parametrize("policy", [Asking, Distrusting])
@pytest.mark.parametrize(("scenario", "rate"), [(SHIFT, 350), (SLOW, 300), (JOINS, 300)])
def test_the_outlook_is_the_choice(policy, scenario, rate):
    Asking.asked = Asking.by_chance = 0
    simulate(Trace(scenario, 1, rate, seconds=5.0, warm_up_s=2.0), policy)
    assert Asking.asked > 1000 and Asking.by_chance < Asking.asked / 4


def test_nobody_is_moved_by_being_asked():
    trace = Trace(SHIFT, 1, 350, seconds=5.0, warm_up_s=2.0)

    assert simulate(trace, Homeport) == simulate(trace, Asking)
