"""An even selection of rows. The division of patients is tried on a whole cohort, in `curation/test_cohort.py`."""

import numpy as np

from dsa_lib.core.splits import evenly


def test_rows_are_spread_from_the_first_to_the_last():
    assert evenly(np.arange(10, 20), 3).tolist() == [10, 14, 19]
    assert evenly(np.arange(10, 20), 4).tolist() == [10, 13, 16, 19]
    assert evenly(np.arange(3), 9).tolist() == [0, 1, 2] and evenly(np.arange(0), 9).tolist() == []
    assert evenly(np.array([7, 3]), 5).tolist() == [7, 3], "in their order"
