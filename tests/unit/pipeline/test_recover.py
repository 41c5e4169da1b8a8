from __future__ import annotations

import pytest

from edgevision.pipeline.stages.recover import fewest


@pytest.mark.parametrize("most", [1, 2, 7, 30])
@pytest.mark.parametrize("needed", [1, 2, 3, 6, 7, 8, 29, 30, 31])
def test_fewest_finds_the_smallest_count_in_few_questions(most, needed):
    asked = []

    def enough(count):
        asked.append(count)
        return count >= needed

    assert fewest(most, enough) == (needed if needed <= most else None)
    assert len(asked) == len(set(asked)) <= 2 * most.bit_length() + 1
    assert max(asked) <= most


def test_nothing_to_try_is_not_enough():
    assert fewest(0, lambda count: True) is None
