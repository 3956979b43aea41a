"""Samples that several callables take in turn: in which order, how many, and when they end."""

import pytest
from skiplab.measure import samples
from skiplab.measure.samples import Cancelled, Way, in_turn, rounds


def way(clock, name, seconds, **more):
    """Samples of so many seconds each, or of as many as a function says."""

    def sample():
        clock.passes(name, seconds() if callable(seconds) else seconds)
        return 1_000_000

    return Way(sample, **more)


def test_samples_are_taken_there_and_back_and_then_from_the_next_one_on(clock):
    ways = [way(clock, name, 0.005) for name in "abc"]
    taken = in_turn(ways, 0.0275, lambda: False)
    assert "".join(clock.calls) == "abccbabcaacbcabbac"
    assert [len(one.values) for one in taken] == [6, 6, 6]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_in_a_whole_cycle_all_stand_everywhere_equally_often(count):
    orders = rounds(count)
    cycle = [next(orders) for _ in range(2 * count)]
    for place in range(count):
        assert sorted(one[place] for one in cycle) == sorted([*range(count), *range(count)])
    for there, back in zip(cycle[::2], cycle[1::2], strict=True):
        assert back == there[::-1]  # what grows evenly adds as much to each


def test_a_clock_that_falls_falls_for_all_alike(clock):
    """A call takes 1 ms at first, and evenly longer; b takes 1.5 times as long as a. One by one b is the later one."""
    counts, speed = {"a": 5, "b": 5}, {"a": 1.0, "b": 1.5}

    def calls(name):
        def sample():
            took = speed[name] * (1 + clock.now) * 1e-3
            clock.passes(name, took * counts[name])
            return round(took * 1e9)

        return Way(sample, counts[name])

    def ratio(several):
        a, b = (sorted(one.values)[len(one.values) // 2] for one in several)
        return b / a

    assert ratio(in_turn([calls("a"), calls("b")], 1.0, lambda: False)) == pytest.approx(1.5, rel=0.02)
    clock.now = 0.0
    alone = [samples.collect(calls(name), 1.0, lambda: False) for name in "ab"]
    assert ratio(alone) > 1.7


def test_slow_samples_are_spread_over_the_time_of_quick_ones(clock):
    slow, quick = in_turn([way(clock, "s", 0.05), way(clock, "q", 0.005)], 0.2825, lambda: False)
    assert (len(slow.values), len(quick.values)) == (6, 57)  # each for 0.2825 s, and to the end of its last sample
    between = "".join(clock.calls).split("s")[1:-1]
    assert all(5 <= len(one) <= 12 for one in between)


def test_short_samples_come_a_few_milliseconds_at_a_time(clock):
    in_turn([way(clock, "a", 0.0003), way(clock, "b", 0.0003)], 0.1, lambda: False)
    turns = "".join(clock.calls).replace("ab", "a b").replace("ba", "b a").split()
    assert turns[:3] == ["a" * 7, "b" * 14, "a" * 7] and len(turns) > 20


def test_who_is_sure_goes_on_until_all_are(clock):
    spread = iter(range(10**6))
    wild = Way(lambda: clock.passes("w", 0.05) or 50_000_000 + 9_000_000 * (next(spread) % 3), 1)
    sure = Way(lambda: clock.passes("s", 0.05) or 50_000_000, 1)
    first, second = in_turn([sure, wild], 3.0, lambda: False)
    assert first.converged and not second.converged and len(first.values) == len(second.values) == 61
    clock.now = 0.0
    assert len(samples.collect(sure, 3.0, lambda: False).values) == 10


def test_the_most_samples_end_one_and_not_the_others(clock):
    few, many = in_turn([way(clock, "f", 0.005, most=4), way(clock, "m", 0.005)], 0.0975, lambda: False)
    assert len(few.values) == 4 and len(many.values) == 20


def test_cancel_is_asked_before_each_sample(clock):
    ways = [way(clock, name, 0.005) for name in "ab"]
    with pytest.raises(Cancelled):
        in_turn(ways, 1.0, lambda: len(clock.calls) >= 7)
    assert len(clock.calls) == 7


def test_the_more_samples_the_rarer_they_are_looked_at():
    asked = [count for count in range(1, 3001) if samples._is_asked(count)]
    assert asked[:11] == [10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 200] and asked[-3:] == [1000, 2000, 3000]
