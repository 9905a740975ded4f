"""The ring: who owns what, the same everywhere; and how evenly, and how much moves."""

import subprocess
import sys
from array import array
from collections import Counter
from itertools import islice

import pytest

from proxy.policy.hashring import MAX_STEPS, POINTS, HashRing, key_point, ring_points

KEYS = [key_point(b"dataset-%d" % number) for number in range(20_000)]


def members(count, weight=1):
    return tuple((f"c/10.0.0.{number}:9000", weight) for number in range(count))


def ring(of):
    """The ring of (id, weight) each."""
    return HashRing(ring_points(tuple(member_id for member_id, _ in of)), [weight for _, weight in of])


def owners(of, keys=KEYS):
    """The id of the first owner of each key."""
    made = ring(of)
    return [of[next(made.owners(key))][0] for key in keys]


def shares(of):
    """Exact share of the circle of each of some members of equal weight, relative to the mean."""
    points = sorted(ring(of)._points)
    share = Counter()
    for before, point in zip([points[-1] - 2**64, *points[:-1]], points, strict=True):
        share[of[point & 0xFFFF][0]] += (point - before) / 2**64 * len(of)
    return [share[member_id] for member_id, _ in of]


def counted(of):
    """How many of the keys each has."""
    owned = Counter(owners(of))
    return [owned[member_id] for member_id, _ in of]


def test_places_are_fixed_for_ever():
    """Another hash would move every key at an upgrade."""
    assert key_point(b"dataset-1") == 0xBBAFBF81F1738982
    made = ring(members(5))
    assert [next(made.owners(key)) for key in KEYS[:12]] == [4, 1, 1, 0, 1, 3, 0, 4, 2, 3, 3, 2]


def test_the_same_in_another_process():
    code = (
        "from proxy.policy.hashring import *\n"
        "members = tuple(f'c/10.0.0.{n}:9000' for n in range(7))\n"
        "ring = HashRing(ring_points(members), [1] * 7)\n"
        "print([next(ring.owners(key_point(b'dataset-%d' % n))) for n in range(300)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "77"}
    )
    made = ring(members(7))
    assert done.stdout.strip() == str([next(made.owners(key)) for key in KEYS[:300]])


def test_the_order_of_members_does_not_matter():
    assert owners(members(9)) == owners(members(9)[::-1])


def test_evenness():
    """Shares deviate by 1/√160 = 8 %; of ten members none by more than 4 deviations (these ids: by 2)."""
    assert all(0.68 < share < 1.32 for share in shares(members(10)))
    assert len(ring(members(10))._points) == 10 * POINTS


@pytest.mark.parametrize("count", [3, 10, 50])
def test_when_one_leaves_only_its_keys_move(count):
    """To whom they go is as even as the ring. What moves is the leaver's share: at most 1.3 of the ideal 1/n."""
    before = owners(members(count))
    for gone in range(0, count, 5):
        left = tuple(member for number, member in enumerate(members(count)) if number != gone)
        after = owners(left)
        moved = sum(a != b for a, b in zip(before, after, strict=True))
        assert all(a == b for a, b in zip(before, after, strict=True) if a != members(count)[gone][0])
        assert moved / len(KEYS) <= 1.3 / count


def test_when_one_joins_keys_move_to_it_alone():
    before, after = owners(members(10)), owners(members(11))
    moved = [b for a, b in zip(before, after, strict=True) if a != b]
    assert set(moved) == {"c/10.0.0.10:9000"}
    assert len(moved) / len(KEYS) <= 1.3 / 11


def test_weights():
    """Shares are as weights are, within 4 deviations: those of the points, 1/√160 of a share, and of 20 000 keys."""
    of = (("a", 1), ("b", 2), ("c", 1))
    assert counted(of)[1] / len(KEYS) == pytest.approx(0.5, abs=0.17)
    many = tuple((f"e{number}", 1 + number % 3) for number in range(60))
    by_weight = [sum(counted(many)[number::3]) / len(KEYS) for number in range(3)]
    assert by_weight == pytest.approx([1 / 6, 2 / 6, 3 / 6], rel=4 / 160**0.5 / 20**0.5 + 0.02)


def test_a_common_factor_of_weights_does_not_count():
    once, often = ((("a", factor), ("b", 2 * factor), ("c", factor)) for factor in (1, 512))
    assert owners(once) == owners(often)


def test_weights_bid():
    """Of points 10 after the key for a, of weight 1, and 30 after it for b, of weight 4, b has it: 7.5 against 10."""
    points = array("Q", sorted([(10 << 16) | 0, (30 << 16) | 1, (50 << 16) | 0])).tobytes()
    assert [*HashRing(points, [1, 4]).owners(0)] == [1, 0, 0]
    assert [*HashRing(points, [1, 2]).owners(0)] == [0, 1, 0]
    assert [*HashRing(points, [1, 4]).owners(40 << 16)] == [0, 1, 0]  # b's is nearly a round away


def test_extreme_weights_make_no_extreme_rings():
    """One of 65535 beside a thousand of 1 has its 98 % of the keys, found after looking at a thousand points or so."""
    of = (*members(1000), ("heavy", 65535))
    made = ring(of)
    assert len(made._points) == 1001 * POINTS
    heavy = sum(next(made.owners(key)) == 1000 for key in KEYS[:1000])
    assert heavy / 1000 == pytest.approx(65535 / 66535, abs=4 * (0.985 * 0.015 / 1000) ** 0.5)


def test_a_changed_weight_moves_keys_to_or_from_it_alone():
    before = owners((("a", 4), ("b", 4), ("c", 4)))
    for weight in (5, 6, 100):
        after = owners((("a", 4), ("b", weight), ("c", 4)))
        assert {b for a, b in zip(before, after, strict=True) if a != b} == {"b"}


def test_owners_go_round_the_circle():
    of = members(4)
    made = ring(of)
    last = max(made._points)
    assert [*made.owners(last)] == [*made.owners(0)]  # beyond the last point comes the first
    assert len([*made.owners(KEYS[0])]) == MAX_STEPS
    assert set(islice(made.owners(KEYS[0]), 60)) == {0, 1, 2, 3}  # one is missed with odds of 4·0.75^60


def test_few_points_are_gone_over_once():
    made = ring((("a", 1),))
    assert len([*made.owners(5)]) == POINTS < MAX_STEPS
    assert [*HashRing(b"", []).owners(5)] == []
    assert ring_points(()) == b""
    assert repr(made) == "<HashRing 160 points>"
