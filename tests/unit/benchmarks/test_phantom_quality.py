"""The halves that the floor of `benchmarks/phantom_quality.py` is measured between."""

import benchmark_script
import numpy as np

benchmark = benchmark_script.load("phantom_quality")


def test_halves_share_no_patient_and_are_about_as_large():
    patients = np.repeat([f"p{n}" for n in range(20)], np.arange(1, 21))
    cuts = set()
    for seed in range(20):
        one, other = benchmark.halves(patients, np.random.default_rng(seed))
        assert not set(patients[one]) & set(patients[other])
        assert sorted([*one, *other]) == list(range(len(patients)))
        assert abs(len(one) - len(other)) <= 20  # the largest patient
        cuts.add(tuple(one))
    assert len(cuts) > 10  # another draw, other halves


def test_two_patients_are_one_half_each():
    patients = np.array(["a"] * 3 + ["b"] * 9)
    one, other = benchmark.halves(patients, np.random.default_rng(0))
    assert {len(one), len(other)} == {3, 9}
