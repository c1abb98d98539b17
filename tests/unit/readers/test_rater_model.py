"""The simulated readers: reproducible, valid by the files' own checks, and governed by what was measured in the images."""

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from dsa_lib.readers import tables as reader_tables
from dsa_lib.readers.rater_model import RaterModel, measured_quality, real_reference, simulate, vessel_features
from dsa_lib.readers.rating_files import open_reader_study, write_study

CONDITIONS = [("anterior", "A"), ("posterior", "A"), ("anterior", "B"), ("posterior", "B")]
MANIFEST = pd.DataFrame(
    [(f"r{i:03d}", *CONDITIONS[i % 4]) for i in range(200)], columns=["image_id", "circulation", "plane"]
)


def study_of(tmp_path, *frames):
    write_study(*frames, tmp_path / "screening.csv", tmp_path / "ratings.csv", "simulated")
    return open_reader_study(tmp_path / "screening.csv", tmp_path / "ratings.csv")


def test_simulated_files_pass_the_checks(tmp_path):
    study = study_of(tmp_path, *simulate(MANIFEST, seed=3))
    assert study.notes == []
    assert study.raters == ["NR1", "NR2", "NS1", "IM1"]
    assert len(study.ratings) == len(study.kept) * 12
    assert set(study.ratings["flag"]) == {"", "not_present", "external_circulation"}


def test_hopeless_images_still_make_a_valid_study(tmp_path):
    study = study_of(tmp_path, *simulate(MANIFEST, np.full(200, -3.0), seed=3))
    assert len(study.kept) < 20
    none = study_of(tmp_path, *simulate(MANIFEST, seed=3, model=RaterModel(screening_threshold=99)))
    assert len(none.kept) == 0 and "nothing to rate" in none.notes[0]


def test_an_image_is_rated_alike_whatever_the_others_are():
    screening, ratings = simulate(MANIFEST, seed=5)
    part, part_ratings = simulate(MANIFEST.iloc[::-7], seed=5)
    both = screening.merge(part, on="image_id")
    assert (both["kept_x"] == both["kept_y"]).all()
    key = ["image_id", "rater", "segment"]
    pd.testing.assert_frame_equal(
        part_ratings.sort_values(key, ignore_index=True),
        ratings[ratings["image_id"].isin(part["image_id"])].sort_values(key, ignore_index=True),
    )
    assert not simulate(MANIFEST, seed=6)[1].equals(ratings)


def test_measured_quality_moves_the_segment_it_belongs_to(tmp_path):
    """Same images, same random streams; only the peripheral vessels measure worse by one unit, worth half a grade."""
    model = RaterModel(screening_threshold=-99, typical_score=3.5)
    scores = []
    for peripheral in (0.0, -1.0):
        quality = np.tile([0.0, 0.0, peripheral], (200, 1))
        scores.append(reader_tables.image_scores(study_of(tmp_path, *simulate(MANIFEST, quality, seed=1, model=model))))
    assert scores[0][["proximal", "medium"]].equals(scores[1][["proximal", "medium"]])
    assert (scores[0]["peripheral"] - scores[1]["peripheral"]).mean() == pytest.approx(0.5, abs=0.06)


def test_agreement_is_what_the_variances_imply(tmp_path):
    """No clipping, no flags: ICC(2,1) tends to image variance / all variance (continuous, so only rounding is added)."""
    experts = (("NR1", "NR"), ("NR2", "NR"), ("NR3", "NR"), ("NR4", "NR"))
    model = RaterModel(
        raters=experts, typical_score=3.0, segment_effect=(0, 0, 0), image_sd=0.5, image_segment_sd=0.3, leniency_sd=0.0,
        expert_noise_sd=0.4, absent_rate=(1e-9,) * 3, external_rate=0.0, screening_threshold=-99, unreadable_below=-99,
    )  # fmt: skip
    many = pd.DataFrame({"image_id": [f"{i}" for i in range(1500)], "circulation": "anterior", "plane": "A"})
    study = study_of(tmp_path, *simulate(many, seed=2, model=model))
    shared = 0.5**2 + 0.3**2
    expected = shared / (shared + 0.4**2 + 1 / 12)  # rounding to whole grades adds a variance of about 1/12
    icc = reader_tables.reliability(study, 0, 0)["Proximal", "All raters"].single
    assert icc == pytest.approx(expected, abs=0.03)


def lines(rng, width=64, fine=True):
    image = np.full((width, width), 160.0)
    for sd, count in ((2.0, 2), (1.0, 4), (0.5, 12 if fine else 0)):
        layer = np.zeros((width, width))
        for _ in range(count):
            x, slope = rng.uniform(5, width - 5), rng.uniform(-0.5, 0.5)
            columns = np.clip((x + slope * np.arange(width)).astype(int), 0, width - 1)
            layer[np.arange(width), columns] = 120 * sd
        image -= ndimage.gaussian_filter(layer, sd)
    return np.clip(image, 0, 255).astype(np.uint8)


def test_measured_quality_sees_missing_small_vessels():
    rng = np.random.default_rng(0)
    real = np.stack([lines(rng) for _ in range(60)])
    alike = np.stack([lines(rng) for _ in range(20)])
    coarse = np.stack([lines(rng, fine=False) for _ in range(20)])
    cells = ["AC A"] * 40
    quality = measured_quality(np.concatenate([alike, coarse]), cells, real, ["AC A"] * 60)
    assert quality.shape == (40, 3)
    assert abs(np.median(quality[:20])) < 0.4
    assert np.median(quality[20:, 2]) < -1
    assert np.median(quality[20:, 2]) < np.median(quality[20:, 0]) - 0.5


def test_measured_quality_compares_within_the_condition_and_falls_back():
    rng = np.random.default_rng(1)
    real = np.stack([lines(rng, fine=i < 30) for i in range(60)])
    real_cells = np.array(["AC A"] * 30 + ["PC A"] * 30)
    image = np.stack([lines(rng, fine=False) for _ in range(10)])
    own = measured_quality(image, ["PC A"] * 10, real, real_cells)
    other = measured_quality(image, ["AC A"] * 10, real, real_cells)
    assert np.median(own[:, 2]) > -0.6 > -1 > np.median(other[:, 2])
    absent = measured_quality(image, ["PC B"] * 10, real, real_cells)
    assert np.isfinite(absent).all()


def test_features_ignore_brightness_and_reject_wrong_shapes():
    image = lines(np.random.default_rng(2))
    bright, darker = vessel_features(np.stack([np.clip(image, 20, 255), np.clip(image, 20, 255) - 20]))
    assert np.allclose(bright, darker, atol=1e-4)
    with pytest.raises(ValueError, match=r"\[n, H, W\]"):
        vessel_features(image)
    with pytest.raises(ValueError, match="quality has shape"):
        simulate(MANIFEST, np.zeros(3))


def test_reference_takes_so_many_frames_a_condition():
    frames = np.arange(40, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 4), np.uint8)
    arterial = pd.DataFrame({"frame_id": np.arange(5, 35), "cell": ["AC A"] * 20 + ["Others"] * 10})
    real, cells = real_reference(frames, arterial, seed=0, per_cell=8)
    assert len(real) == 16 and sorted(set(cells)) == ["AC A", "Others"]
    assert all((frame[0, 0] >= 25) == (cell == "Others") for frame, cell in zip(real, cells, strict=True))
