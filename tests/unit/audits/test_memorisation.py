"""The audit on planted cases: models that copy, and models that draw anew."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from folder_run import with_images
from scipy.ndimage import gaussian_filter

from dsa_lib.audits import copy_search, memorisation, planted_copies
from dsa_lib.core.condition_sentences import CELLS
from dsa_lib.fidelity import image_sets
from dsa_lib.run.errors import StudyError
from dsa_lib.run.hyperparameters import Privacy
from dsa_lib.run.profiles import load_profile

SETTINGS = Privacy(leave_one_out=60, gallery=5)
PER_PATIENT = 8


def frames_of(patients, seed):
    """Smooth random frames [n, 32, 32]: every patient has a pattern, every frame of theirs a variation of it."""
    rng = np.random.default_rng(seed)

    def smooth(count):
        return gaussian_filter(rng.normal(size=(count, 32, 32)), (0, 2, 2))

    pattern = np.repeat(smooth(patients), PER_PATIENT, axis=0)
    values = pattern + 0.5 * smooth(patients * PER_PATIENT)
    return np.clip(140 + 250 * values, 0, 255).astype(np.uint8)


def images(frames, first=0, known=True, features=True):
    n = len(frames)
    patients = np.array([f"P{first + i // PER_PATIENT:03d}" for i in range(n)]) if known else None
    return memorisation.Images(
        frames,
        np.arange(n),
        np.array(CELLS)[np.arange(n) % 4],
        patients,
        frames.reshape(n, -1)[:, ::37].astype(np.float32) if features else None,
    )


@pytest.fixture(scope="module")
def archive():
    training, held_out = images(frames_of(20, 0)), images(frames_of(10, 1), first=100)
    honest = images(frames_of(80, 2)[::PER_PATIENT], known=False)
    return training, held_out, honest


SPACES = [copy_search.pixel_space(), copy_search.feature_space("values")]


def audit(archive, generated):
    training, held_out, _ = archive
    return memorisation.audit(SPACES, generated, held_out, training, SETTINGS, 0)


@pytest.fixture(scope="module")
def honest(archive):
    return audit(archive, archive[2])


def test_an_honest_model_is_not_flagged(honest):
    assert not honest.flagged
    assert (honest.table["p_adjusted"] > 0.05).all() and (honest.table["near_copies"] == 0).all()
    told = memorisation.statement(honest)
    assert told.startswith("Not flagged: in none of 2 spaces") and "does not show that the images are anonymous" in told


def test_a_model_of_copies_is_flagged_in_every_space(archive):
    training = archive[0]
    found = audit(archive, images(training.frames[:40].copy(), known=False))
    assert found.table["flagged"].all()
    assert (found.table["median_generated"] == 0).all() and (found.table["near_copies"] == 40).all()
    assert (found.table["auth_pct"] == 0).all()
    assert memorisation.statement(found).startswith("Flagged: ")
    assert found.pairs.loc[found.pairs["set"] == "generated", "distance"].eq(0).all()


@pytest.mark.parametrize("kind", ["exact", "mirrored", "shifted", "noisy"])
def test_copies_by_hand_are_found_and_a_tenth_of_them_is_flagged(archive, honest, kind):
    training, held_out, generated = archive
    source = np.arange(0, len(training.frames), 7)
    copies = planted_copies.by_hand(training.frames[source], None, 0)[kind]
    near = copy_search.search(
        SPACES[0], copy_search.embed(SPACES[0], copies), training.frames, training.rows, training.patients
    )
    assert (near.at_best("position") == source).mean() > 0.95
    assert near.at_best("mirrored").mean() == (kind == "mirrored")
    assert np.median(near.relative()) < 0.5 * honest.lookups["pixels"].held_out.relative().min()
    table = planted_copies.controls(
        honest, SPACES, generated, held_out, training, {kind: copies},
        lambda frames: frames.reshape(len(frames), -1)[:, ::37].astype(np.float32), seed=0,
    )  # fmt: skip
    assert table["share"].tolist() == [1.0, planted_copies.SHARE]
    assert table["planted"].tolist() == [len(copies), 8] and table["flagged"].all()


def test_closest_pairs_are_ordered_and_name_a_training_frame_once(honest):
    for (_, _), pairs in honest.pairs.groupby(["space", "set"]):
        assert len(pairs) == SETTINGS.gallery and pairs["rank"].tolist() == [1, 2, 3, 4, 5]
        assert pairs["relative"].is_monotonic_increasing and pairs["training"].is_unique
    shown = honest.shown("pixels", {"generated": images(frames_of(80, 2)[::PER_PATIENT])}, images(frames_of(20, 0)))
    assert len(shown["generated"]) == SETTINGS.gallery


def test_too_few_held_out_patients_are_not_judged_by_nearness(archive):
    training, held_out, generated = archive
    few, two = held_out.at(np.arange(2 * PER_PATIENT)), training.at(np.arange(2 * PER_PATIENT))
    found = memorisation.audit(SPACES, generated, few, training, SETTINGS, 0)
    assert found.table["p_nearer"].isna().all() and found.table["p_near_copies"].notna().all()
    found = memorisation.audit(SPACES, generated, few.at(np.arange(8)), two, SETTINGS, 0)
    assert not found.flagged and found.table["p_adjusted"].isna().all()
    assert memorisation.statement(found).startswith("Not judged: ")


def test_one_training_patient_is_too_few(archive):
    training, held_out, generated = archive
    with pytest.raises(StudyError, match="are of 1 patient"):
        memorisation.audit(SPACES, generated, held_out, training.at(np.arange(PER_PATIENT)), SETTINGS, 0)


def test_holm_over_spaces_by_hand():
    table = pd.DataFrame({"p_nearer": [0.004, 0.5, 0.02], "p_near_copies": [0.5, 0.01, np.nan]})
    found = memorisation.judged(table, 0.05)
    assert found["p"].tolist() == pytest.approx(
        [0.008, 0.02, 0.02]
    )  # twice the smaller one; where one test is missing, the other
    assert found["p_adjusted"].tolist() == pytest.approx([0.024, 0.04, 0.04])  # ×3, then ×2 kept monotone
    assert found["flagged"].all()


def test_what_cannot_be_compared_is_refused_before_the_search(archive):
    training, held_out, generated = archive
    for broken, sentence in (
        ((generated, held_out, training.at(np.arange(0))), "no training frames"),
        ((generated.at(np.arange(0)), held_out, training), "no generated images"),
        ((images(np.zeros((4, 16, 16), np.uint8), known=False), held_out, training), "different sizes"),
        ((generated, training, training), "have training and held-out frames"),
    ):
        with pytest.raises(StudyError, match=sentence):
            memorisation.audit(SPACES, *broken, SETTINGS, 0)
    vectors = generated.vectors.copy()
    vectors[3] = np.nan
    with pytest.raises(StudyError, match="not finite"):
        memorisation.audit(SPACES, replace(generated, vectors=vectors), held_out, training, SETTINGS, 0)
    with pytest.raises(StudyError, match="give the vectors"):
        memorisation.audit(SPACES, replace(generated, vectors=None), held_out, training, SETTINGS, 0)


def test_a_level_that_is_no_probability_is_refused():
    with pytest.raises(StudyError, match=r"privacy\.level 1\.5 is not between 0 and 1"):
        load_profile("phantom", {"privacy.level": 1.5})


def test_false_alarms_are_those_of_the_benchmark():
    table = memorisation.false_alarms()
    assert table["audits"].tolist() == [400, 40, 40] and (table["flagged"] <= table["audits"]).all()
    assert (table["low"] <= table["flagged"] / table["audits"]).all()
    assert (table["flagged"] / table["audits"] <= table["high"]).all()


def test_sets_of_a_run_have_the_features_that_notebook_07_kept(tmp_path):
    study = with_images(tmp_path)
    found = image_sets.of_run(study)
    (tmp_path / "features").mkdir()
    for n, (name, count) in enumerate((("generated", 12), ("held-out", 48), ("training", 24))):
        np.save(tmp_path / "features" / f"{name}.npy", np.full((count, 2), n, np.float32))
    sets = memorisation.sets_of_run(study, found)
    assert [float(one.vectors[0, 0]) for one in sets.values()] == [0, 1, 2] and sets["generated"].patients is None
    training = sets["training"]
    assert training.frames is found.frames and training.rows.tolist() == found.rows["train"]["frame_id"].tolist()
    assert set(training.patients) == {"p0", "p1"} and training.cells[0] == "Others"
    assert sets["held-out"].rows.tolist() == found.held_out["frame_id"].tolist()
    audit = memorisation.audit(SPACES, *sets.values(), SETTINGS, 0)
    assert audit.table["training_images"].tolist() == [24, 24]
    np.save(tmp_path / "features" / "training.npy", np.zeros((3, 2), np.float32))
    with pytest.raises(StudyError, match="give the vectors of the 24 images"):
        memorisation.audit(SPACES, *memorisation.sets_of_run(study, found).values(), SETTINGS, 0)
