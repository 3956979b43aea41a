"""An int that notes what is asked of it: its guards hold for exactly the numbers that were answered alike."""

import operator

import pytest
from blockskip.launching.guards import GuardedInt

COMPARISONS = [operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne]
ARITHMETIC = [operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod]


def holds(guarded, number):
    return all(guard.ask(number) == guard.answer for guard in guarded.guards)


@pytest.mark.parametrize("compare", COMPARISONS)
@pytest.mark.parametrize("compute", ARITHMETIC)
@pytest.mark.parametrize("swapped", [False, True])
def test_a_question_about_a_computed_number_is_asked_of_other_numbers(compare, compute, swapped):
    def answer(number):
        value = compute(90, number) if swapped else compute(number, 7)
        return compare(7, value + number) if swapped else compare(value, 12)

    for number in (1, 5, 12, 84, 85, 90):
        guarded = GuardedInt(number)
        assert answer(guarded) is answer(number)
        for other in range(1, 100):
            assert holds(guarded, other) == (answer(other) == answer(number))


@pytest.mark.parametrize("use", [int, operator.index, hash, lambda n: range(100)[n], lambda n: {5: 1}.get(n)])
def test_use_of_the_value_is_a_guard(use):
    guarded = GuardedInt(5)
    assert use(guarded) == use(5)
    assert holds(guarded, 5) and not holds(guarded, 6)


def test_text_and_what_is_computed_but_not_asked_are_none():
    guarded = GuardedInt(5)
    tiles = -(-guarded // 4) * 2 + 1
    assert (str(tiles), f"{guarded:03}", repr(guarded)) == ("5", "005", "5") and not guarded.guards
    assert guarded is not None and not guarded.guards
    assert min(guarded, 7) is guarded and max(guarded, 7) == 7 and holds(guarded, 6) and not holds(guarded, 8)


def test_truth_and_own_questions():
    guarded = GuardedInt(32)
    assert guarded and guarded.ask(lambda number: number % 16 == 0)
    assert holds(guarded, 48) and not holds(guarded, 40) and not holds(guarded, 0)


def test_what_is_not_noted_is_an_error():
    guarded = GuardedInt(5)
    for use in (
        lambda: guarded / 2,
        lambda: guarded << 1,
        lambda: guarded + 0.5,
        lambda: guarded < "5",
        lambda: guarded**2,
    ):
        with pytest.raises(TypeError):
            use()
    with pytest.raises(AttributeError):
        guarded.bit_length()
