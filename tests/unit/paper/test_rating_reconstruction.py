"""Reconstructed ratings: what the published tables ask for, the search on small problems, and the files that ship, judged by the public table functions."""

import itertools

import numpy as np
import pandas as pd
import pingouin
import pytest

from dsa_lib.paper import constraints
from dsa_lib.paper import rating_reconstruction as reconstruction
from dsa_lib.paper.rating_search import FLAGGED, RunningSums, Targets, anneal, misfit, single_from_sums
from dsa_lib.readers import tables as reader_tables
from dsa_lib.readers.rating_files import RATINGS, RECONSTRUCTED, collect
from dsa_lib.readers.reliability import spearman_brown
from dsa_lib.readers.tables import REGIONS, SEGMENTS, ReaderStudy
from dsa_lib.run.errors import StudyError


@pytest.fixture(scope="module")
def cells():
    return constraints.published_cells()


@pytest.fixture(scope="module")
def shipped():
    return reconstruction.open_shipped()


# --- what the published tables ask for ---


def test_printed_text_becomes_the_interval_that_rounds_to_it():
    assert constraints.printed_interval("0.49") == (0.485, 0.495)
    assert constraints.printed_interval("0.810") == (0.8095, 0.8105)
    assert constraints.printed_interval("3") == (2.5, 3.5)


@pytest.mark.parametrize("single, average, k", [("0.49", "0.80", 4), ("0.785", "0.917", 3), ("0.810", "0.927", 3)])
def test_both_ends_of_an_icc_interval_print_as_both_coefficients(single, average, k):
    low, high = constraints.single_interval(single, average, k)

    def printed(r):
        return f"{r:.{len(single) - 2}f}", f"{spearman_brown(r, k):.{len(average) - 2}f}"

    assert {printed(r) for r in np.linspace(low + 1e-9, high - 1e-9, 7)} == {(single, average)}
    assert printed(low - 1e-6) != (single, average) != printed(high + 1e-6)


def test_table_4_holds_together_with_three_experts_and_with_no_other_number(cells):
    intervals = constraints.icc_intervals(cells)
    assert len(intervals) == 8 and (intervals["low"] < intervals["high"]).all()
    assert set(zip(intervals["raters"], intervals["k"], strict=True)) == {("All raters", 4), ("Domain experts only", 3)}
    for region, (column, right) in itertools.product(REGIONS, (("All raters", 4), ("Domain experts only", 3))):
        printed = [cells[region.capitalize(), f"{column} {form}"] for form in ("ICC(2,1)", "ICC(2,k)")]
        fits = [k for k in range(2, 9) if np.less(*constraints.single_interval(*printed, k))]
        assert fits == [right]


def test_an_icc_that_contradicts_its_step_is_named(cells):
    wrong = cells | {("Medium", "All raters ICC(2,k)"): "0.90"}
    with pytest.raises(
        StudyError, match=r"Table 4, Medium, All raters: no ICC\(2,1\) prints as 0.56 and steps up to 0.90"
    ):
        constraints.targets(wrong)


def test_flags_that_table_2_leaves(cells):
    counts = constraints.flag_counts(cells)
    # By hand from the printed rows: AC A 78 - 70 - 1 = 7, and 11 - 7, 9 - 7, 12 - 7 single segments.
    assert counts.loc["AC A", ["empty", "proximal", "medium", "peripheral", "missing"]].tolist() == [7, 4, 2, 5, 11]
    assert counts.loc["AC B", ["empty", "proximal", "medium", "peripheral", "missing"]].tolist() == [6, 12, 12, 13, 37]
    assert (counts["kept"] - counts["scored"]).sum() == 22  # §2.4
    with pytest.raises(StudyError, match="Table 2, PC A"):
        constraints.flag_counts(cells | {("PC A", "Prox. NA"): "0"})


def test_implied_score_of_images_that_lack_a_segment_is_their_score(cells, shipped):
    """Against the definition, image by image, with means that are not rounded."""
    exact = {key: f"{value:.9f}" for key, value in reader_tables.table3(shipped).items()}
    implied = constraints.implied_scores(cells | exact)
    scores = reader_tables.image_scores(shipped).query("scored")
    lacking = scores[list(SEGMENTS)].isna().sum(axis=1)
    for cell, rows in scores.groupby("cell"):
        assert implied.loc[cell, "implied"] == pytest.approx(
            np.average(rows["overall"], weights=lacking[rows.index]), abs=1e-6
        )
    published = constraints.implied_scores(cells)
    assert ((published["low"] < implied["implied"]) & (implied["implied"] < published["high"])).all()
    assert published["low"].min() > 1 and published["high"].max() < 5


# --- the search ---


def small_problem(seed, images=40, raters=4):
    """Ratings [images, raters, 3] of two conditions with flags of all kinds; condition; sets of raters."""
    rng = np.random.default_rng(seed)
    looks = 3 + rng.normal(size=(images, 1, 3)) + 0.7 * rng.normal(size=(images, raters, 3))
    ratings = np.clip(np.rint(looks), 1, 5).astype(int)
    ratings[:3, :, 2] = FLAGGED
    ratings[3, :, :2] = FLAGGED
    ratings[5:8, 1, 0] = FLAGGED
    ratings[9, 2] = FLAGGED
    return ratings, np.arange(images) % 2, (tuple(range(raters)), (0, 1, 2))


def as_study(ratings, condition):
    """The same as a checked study, for the public functions."""
    names = [f"i{i:02d}" for i in range(len(ratings))]
    roles = ["NR", "NR", "NS", "IM"]
    rows = [
        (
            names[i],
            f"r{j}",
            roles[j],
            segment,
            float(r) if (r := ratings[i, j, s]) else np.nan,
            "" if r else "not_present",
        )
        for i in range(len(ratings))
        for j in range(ratings.shape[1])
        for s, segment in enumerate(SEGMENTS)
    ]
    frame = pd.DataFrame(rows, columns=list(RATINGS.columns))
    screening = pd.DataFrame(
        {"image_id": names, "circulation": "x", "plane": "y", "kept": True, "cell": [f"c{c}" for c in condition]}
    )
    return ReaderStudy(screening, frame.assign(cell=frame["image_id"].map(screening.set_index("image_id")["cell"])))


def no_wishes(conditions=2, sets=2):
    return Targets(*(np.full(shape, np.nan) for shape in ((conditions, 4, 2), (conditions, 4, 2), (4, sets, 2))))


def statistics(ratings, condition):
    """(means, SDs, ICCs) as arrays, by the public functions."""
    study = as_study(ratings, condition)
    table = reader_tables.table3(study)
    means, sds = (
        np.array([[table[f"c{c}", f"{reader_tables.SHORT[r]} {what}"] for r in REGIONS] for c in (0, 1)])
        for what in ("mean", "SD")
    )
    found = reader_tables.reliability(study, 0, 0)
    return (
        means,
        sds,
        np.array([[found[r.capitalize(), name].single for name in reader_tables.RATER_SETS] for r in REGIONS]),
    )


def targets_around(ratings, condition, half=0.02):
    return Targets(*(np.stack([values - half, values + half], axis=-1) for values in statistics(ratings, condition)))


def of_sums(sums):
    n, total, squares = (np.array(x) for x in (sums.counts, sums.sums, sums.squares))
    means, sds = total / n + sums.CENTRE, np.sqrt((squares - total**2 / n) / (n - 1))
    return (
        means.reshape(-1, 4),
        sds.reshape(-1, 4),
        np.array([single_from_sums(*a) for a in sums.agreement]).reshape(4, -1),
    )


def test_running_sums_stay_what_the_public_functions_say():
    ratings, condition, sets = small_problem(0)
    sums = RunningSums(ratings, condition, sets, no_wishes())
    rng = np.random.default_rng(1)
    for _ in range(600):
        i, j, s = (int(rng.integers(n)) for n in ratings.shape)
        if ratings[i, j, s]:
            sums.attempt([(i, j, s, int(rng.choice([-1, 1])))], limit=np.inf)
    moved = np.array(sums.ratings)
    assert (moved != ratings).sum() > 100 and moved[ratings > 0].min() >= 1 and moved.max() <= 5
    assert np.array_equal(moved == FLAGGED, ratings == FLAGGED)
    for ours, theirs in zip(of_sums(sums), statistics(moved, condition), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-10)


def test_a_refused_pair_leaves_everything_as_it_was():
    ratings, condition, sets = small_problem(0)
    sums = RunningSums(ratings, condition, sets, targets_around(ratings, condition))
    before = of_sums(sums)
    i, k = [i for i in range(10, 40, 2) if 1 < ratings[i, 0, 0] < 5][:2]
    assert sums.attempt([(i, 0, 0, 1), (k, 0, 0, -1)], limit=-np.inf) == 0
    assert np.array_equal(sums.ratings, ratings)
    for ours, theirs in zip(of_sums(sums), before, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)
    assert sums.total == pytest.approx(0, abs=1e-9)


def test_misfit_is_zero_well_inside_and_where_nothing_is_asked():
    assert misfit(0.5, 0.4, 0.6) == misfit(7, np.nan, np.nan) == 0
    assert misfit(0.8, 0.4, 0.6) == pytest.approx((3 - 0.9) ** 2)
    assert misfit(0.6, 0.4, 0.6) > 0  # how a value on the border rounds must not matter


def test_search_meets_the_statistics_of_other_ratings():
    wanted, condition, sets = small_problem(2)
    start = np.where(wanted > 0, 3 + (np.indices(wanted.shape).sum(axis=0) % 2), FLAGGED)  # knows the flags only
    goal = targets_around(wanted, condition)
    found = anneal(RunningSums(start, condition, sets, goal), seed=1, moves=20_000, hot=5, cold=0.01)
    assert found.misfit < 1e-9 and found.moves < 20_000
    assert not np.array_equal(found.ratings, wanted)
    for ours, theirs in zip(statistics(found.ratings, condition), statistics(wanted, condition), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=0.02)
    again = anneal(RunningSums(start, condition, sets, goal), seed=1, moves=20_000, hot=5, cold=0.01)
    other = anneal(RunningSums(start, condition, sets, goal), seed=2, moves=20_000, hot=5, cold=0.01)
    assert np.array_equal(found.ratings, again.ratings) and not np.array_equal(found.ratings, other.ratings)


def test_search_says_what_it_cannot_meet():
    ratings, condition, sets = small_problem(3)
    goal = targets_around(ratings, condition)
    goal.mean[0, 0] = 5.2, 5.3  # no ratings from 1 to 5 have this mean
    found = anneal(RunningSums(ratings, condition, sets, goal), seed=1, moves=3000, hot=5, cold=0.01)
    assert found.moves == 3000 and found.misfit > 1


def test_images_without_any_rating_are_refused():
    ratings, condition, sets = small_problem(3)
    ratings[4] = FLAGGED
    with pytest.raises(ValueError, match="leave out"):
        RunningSums(ratings, condition, sets, no_wishes())


def test_start_has_the_flags_of_table_2(cells):
    ratings, condition = reconstruction.draw_start(cells, np.random.default_rng(0))
    counts = constraints.flag_counts(cells)
    absent = (ratings == FLAGGED).all(axis=1)
    assert not absent.all(axis=1).any()
    for c, (_, row) in enumerate(counts.iterrows()):
        assert absent[condition == c].sum(axis=0).tolist() == row[list(SEGMENTS)].tolist()
        assert (condition == c).sum() == row["scored"]


def test_command_writes_the_files_and_names_what_it_missed(tmp_path, capsys):
    assert reconstruction.main(["--seed", "7", "--moves", "1000", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    left = pd.read_csv(tmp_path / "residuals.csv", dtype={"published": str})
    assert len(left) == 76 and left.query("table == 2")["printed_alike"].all()  # Table 2 holds from the start
    missed = int((~left["printed_alike"]).sum())
    assert missed > 0 and f"{76 - missed} of 76 cells as printed; not met:" in said
    again = tmp_path / "again"
    reconstruction.main(["--seed", "7", "--moves", "1000", "--out", str(again)])
    assert (again / "ratings.csv").read_bytes() == (tmp_path / "ratings.csv").read_bytes()


# --- what ships ---


def test_shipped_ratings_give_the_shipped_residuals(shipped):
    left = reconstruction.residuals(shipped)
    stored = pd.read_csv(reconstruction.FOLDER / "residuals.csv", dtype={"published": str})
    pd.testing.assert_frame_equal(left.round(6), stored, check_dtype=False, atol=2e-6)
    assert len(left) == 76 and left["printed_alike"].all()


def test_shipped_ratings_print_the_published_tables(cells, shipped):
    """Without `residuals`: every cell formatted as printed, Table 4 by pingouin."""
    values = reader_tables.table2(shipped) | reader_tables.table3(shipped)
    for region, name in itertools.product(REGIONS, reader_tables.RATER_SETS):
        raters = shipped.raters if name == "All raters" else reader_tables.experts(shipped)
        long = reader_tables.rating_matrix(shipped, region, raters).dropna().stack().rename("rating").reset_index()
        icc = pingouin.intraclass_corr(long, "image_id", "rater", "rating").set_index("Type")["ICC"]
        values[region.capitalize(), f"{name} ICC(2,1)"] = icc.get("ICC2", icc.get("ICC(A,1)"))
        values[region.capitalize(), f"{name} ICC(2,k)"] = icc.get("ICC2k", icc.get("ICC(A,k)"))
    for key, text in cells.items():
        assert f"{values[key]:.{len(text.partition('.')[2])}f}" == text, key


def test_shipped_files_are_the_whole_study_and_no_more(shipped):
    assert len(shipped.screening) == 400 and shipped.screening.groupby("cell").size().tolist() == [100] * 4
    assert len(shipped.kept) == 239 and len(shipped.ratings) == 239 * 4 * 3
    roles = shipped.ratings.drop_duplicates("rater")["role"].tolist()
    assert sorted(roles) == ["IM", "NR", "NR", "NS"]
    assert set(shipped.ratings["rating"].dropna()) == {1, 2, 3, 4, 5}
    assert shipped.notes == []
    assert sum(path.stat().st_size for path in reconstruction.FOLDER.iterdir()) < 300_000


def test_for_the_eye_every_cell_stands_with_its_difference(shipped):
    shown = reconstruction.side_by_side(reconstruction.residuals(shipped))
    assert len(shown) == 76 and shown.loc[(2, "AC A", "N_keep")].tolist() == ["78", "78", "0"]
    value = reader_tables.table3(shipped)["AC A", "Overall SD"]
    assert shown.loc[(3, "AC A", "Overall SD")].tolist() == ["0.50", f"{value:.4f}", f"{value - 0.5:+.4f}"]
    worst = reconstruction.worst(reconstruction.residuals(shipped))
    assert worst["cells"].tolist() == [24, 36, 16] and worst.loc[2, "largest"] == 0 and (worst["largest"] < 1).all()


def test_changed_ratings_are_noticed(shipped):
    """The residuals look at the ratings: a rater who is one step kinder throughout no longer gives the published tables."""
    kinder = shipped.ratings.assign(
        rating=(shipped.ratings["rating"] + shipped.ratings["rater"].eq("NR1")).clip(upper=5)
    )
    left = reconstruction.residuals(ReaderStudy(shipped.screening, kinder))
    assert left.query("table == 2")["printed_alike"].all()
    assert not left.query("table == 3 and column.str.endswith('mean')")["printed_alike"].any()


def test_alternatives_differ_in_what_the_tables_leave_open(shipped):
    shown = reconstruction.alternatives()
    assert shown["seed"].tolist() == [1, 2, 3, 4, 5], "a seed that misses a cell is shown like the others"
    assert (shown["cells"] == 76).all()
    assert shown.loc[0, "printed_alike"] == 76 and (shown["printed_alike"] == 76).sum() > 1
    for name, value in reconstruction.undetermined(shipped).items():
        assert shown.loc[0, name] == pytest.approx(value, abs=1e-5)
        assert shown[name].nunique() == len(shown)


def test_nothing_made_of_it_can_pass_for_readers_own(shipped, tmp_path):
    assert shipped.screening["image_id"].str.startswith(RECONSTRUCTED).all() and shipped.origin == "reconstructed"
    for frame in reconstruction.fitted_tables(shipped).values():
        assert set(frame["source"]) == {reconstruction.NAME} and "this_run" not in frame
    with pytest.raises(StudyError, match=r"ratings\.csv holds reconstructed ratings"):
        collect(
            *(reconstruction.FOLDER / f"{name}.csv" for name in ("screening", "ratings")),
            tmp_path / "s",
            tmp_path / "r",
        )
    assert not list(tmp_path.iterdir())
