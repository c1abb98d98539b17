"""Lesion pairs: patients of their own, one moment in both frames, masks on the lesion, sentences that parse, and a resume that changes nothing."""

from dataclasses import replace

import numpy as np
import pytest

from dsa_lib.core.condition_sentences import parse_sentence
from dsa_lib.core.pairs import TranslationSet
from dsa_lib.phantom import lesion_archive
from dsa_lib.phantom.body.lesions import KINDS
from dsa_lib.phantom.plan import plan_archive
from dsa_lib.run.profiles import SMOKE


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    work = tmp_path_factory.mktemp("pairs")
    return work, *lesion_archive.pairs(SMOKE, work)


def test_the_plan_deals_every_kind_to_patients_of_its_own():
    rows = lesion_archive.plan(SMOKE)
    by_run = rows.groupby("run")["lesion"]
    assert (by_run.nunique() == 1).all() and set(rows["vessel"]) <= {"ICA", "VA"}
    counts = by_run.first().value_counts()
    assert set(counts.index) == {*KINDS, lesion_archive.NONE}
    assert counts[list(KINDS)].max() - counts[list(KINDS)].min() <= 1
    assert round(0.8 * counts.sum()) == counts[list(KINDS)].sum()
    assert not set(rows["patient_id"]) & set(plan_archive(SMOKE.archive, SMOKE.seed)["patient_id"])


def test_pairs_are_of_one_shape_and_split_by_patient(made):
    _, found, told = made
    size = SMOKE.curation.image_size
    assert found.sources.shape == (len(found), 1, size, size) and found.targets.shape == (len(found), size, size)
    assert {len(found.rows(part)) > 0 for part in ("train", "val", "test")} == {True}
    assert sum(told.shown.values()) == len(found) and told.left_out == len(lesion_archive.plan(SMOKE)) - len(found)
    ill = found.kinds != lesion_archive.NONE
    assert (found.lesions.any((1, 2)) == ill).all()


def test_a_sentence_names_the_finding_and_only_where_there_is_one(made):
    _, found, _ = made
    for kind, sentence in zip(found.kinds, found.sentences, strict=True):
        finding = parse_sentence(str(sentence)).finding
        assert (finding is None) == (kind == lesion_archive.NONE)
        if finding is not None:
            assert finding.lesion == lesion_archive.NAMES.get(kind, kind)


def test_a_filled_lesion_is_darker_than_the_field_in_both_frames_and_bones_are_in_the_source_alone(made):
    _, found, _ = made
    background = SMOKE.curation.background_grey
    for row in np.flatnonzero(np.isin(found.kinds, ("aneurysm", "AVM"))):
        inside = found.lesions[row]
        assert found.targets[row][inside].mean() < background - 15
        around = found.targets[row] > background - 3  # no vessel
        assert found.sources[row, 0][inside].mean() < np.quantile(found.sources[row, 0][around], 0.5)
    assert np.median(np.abs(found.targets.astype(int) - background)) < 4 < found.sources.std((1, 2, 3)).mean()


def test_the_same_call_takes_up_what_is_done_and_other_numbers_begin_anew(made):
    work, found, _ = made
    parts = sorted(work.glob("*.npz"))
    kept = {path: path.stat().st_mtime_ns for path in parts}
    parts[0].unlink()
    again, _ = lesion_archive.pairs(SMOKE, work)
    for name in ("sources", "targets", "lesions", "kinds", "patients", "part", "sentences"):
        assert np.array_equal(getattr(again, name), getattr(found, name)), name
    assert all(path.stat().st_mtime_ns == kept[path] for path in parts[1:])
    lesion_archive._claim(work, replace(SMOKE, seed=SMOKE.seed + 1))
    assert not list(work.glob("*.npz"))


def test_a_set_is_written_and_read_as_it_is(made, tmp_path):
    _, found, _ = made
    found.save(tmp_path / "pairs.npz")
    read = TranslationSet.load(tmp_path / "pairs.npz")
    assert np.array_equal(read.sources, found.sources) and np.array_equal(read.sentences, found.sentences)
    assert read.lesions.dtype == bool and len(read.at(read.rows("test"))) == len(found.rows("test"))
