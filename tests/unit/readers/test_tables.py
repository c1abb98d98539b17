"""Masking, aggregation and Tables 2-4 against a study worked by hand; the paper's own counts; figure 4 on odd studies."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pingouin
import pytest
from matplotlib.transforms import Bbox

from dsa_lib.core import published as core_published
from dsa_lib.figures import reader_study
from dsa_lib.readers import tables as reader_tables
from dsa_lib.readers.rating_files import open_reader_study, write_study
from dsa_lib.readers.tables import ReaderStudy

RATERS = {"NR1": "NR", "NR2": "NR", "NS1": "NS", "IM1": "IM"}
P, A, X = "not_present", "not_applicable", "external_circulation"


def make(images: dict, cells: dict, rejected=()) -> ReaderStudy:
    """`images`: image -> rater -> three entries, a grade or a flag; None leaves the row out."""
    rows = [
        (
            image,
            rater,
            RATERS[rater],
            segment,
            *((float(e), "") if not isinstance(e, str) else (np.nan, e)),
            cells[image],
        )
        for image, by_rater in images.items()
        for rater, entries in by_rater.items()
        for segment, e in zip(reader_tables.SEGMENTS, entries, strict=True)
        if e is not None
    ]
    ratings = pd.DataFrame(rows, columns=["image_id", "rater", "role", "segment", "rating", "flag", "cell"])
    screening = pd.DataFrame({"image_id": list(cells), "cell": list(cells.values())})
    return ReaderStudy(screening.assign(kept=~screening["image_id"].isin(rejected)), ratings)


@pytest.fixture
def worked():
    """Six images, five kept; every figure below was computed by hand from these lines."""
    images = {
        # proximal 4 4 5 3 -> 4; medium 3 P 2 4 -> 3; peripheral all NA -> none; overall (4 + 3) / 2
        "a": {"NR1": (4, 3, P), "NR2": (4, P, A), "NS1": (5, 2, P), "IM1": (3, 4, P)},
        # 2, 2, 2.25 (one rater saw external circulation and is left out of it)
        "b": {"NR1": (2, 1, 2), "NR2": (X, X, X), "NS1": (2, 3, 2.5), "IM1": (2, 2, 2.25)},
        # external circulation by all
        "c": {r: (X, X, X) for r in RATERS},
        # exclusions that differ between raters: neither NA nor external, and not scored
        "d": {"NR1": (X, X, X), "NR2": (P, P, P), "NS1": (A, A, A), "IM1": (A, P, A)},
        # 3, 3, 3 from two raters, the others did not judge it
        "e": {"NR1": (3, 3, 3), "NS1": (3, 3, 3), "NR2": (None,) * 3, "IM1": (None,) * 3},
    }
    cells = {"a": "AC A", "b": "AC A", "c": "AC B", "d": "AC B", "e": "AC A", "f": "PC B"}
    return make(images, cells, rejected=("f",))


def test_image_scores_by_hand(worked):
    scores = reader_tables.image_scores(worked).set_index("image_id")
    assert list(scores.index) == ["a", "b", "c", "d", "e"]
    assert scores.loc["a", ["proximal", "medium", "overall"]].tolist() == [4, 3, 3.5]
    assert np.isnan(scores.loc["a", "peripheral"])
    assert scores.loc["b", "peripheral"] == pytest.approx(2.25)
    assert scores.loc["b", "overall"] == pytest.approx((2 + 2 + 2.25) / 3)
    assert scores["scored"].tolist() == [True, True, False, False, True]


def test_table2_by_hand(worked):
    table = reader_tables.table2(worked)
    column = ["N_keep", "N_scored", "Prox. NA", "Med. NA", "Peri. NA", "Ext. circ.", "Not scored"]
    assert [table["AC A", c] for c in column] == [3, 3, 0, 0, 1, 0, 0]
    assert [table["AC B", c] for c in column] == [2, 0, 0, 0, 0, 1, 2]
    assert [table["PC B", c] for c in column] == [0] * 7
    assert [table["Total", c] for c in column] == [5, 3, 0, 0, 1, 1, 2]


def test_table3_by_hand(worked):
    table = reader_tables.table3(worked)
    overall = [3.5, 6.25 / 3, 3.0]
    assert table["AC A", "N_images"] == 3
    assert table["AC A", "Overall mean"] == pytest.approx(sum(overall) / 3)
    assert table["AC A", "Overall SD"] == pytest.approx(np.std(overall, ddof=1))
    assert table["AC A", "Peri. mean"] == pytest.approx((2.25 + 3) / 2)
    assert table["AC B", "N_images"] == 0 and np.isnan(table["AC B", "Overall mean"])


def test_keys_are_those_of_the_published_tables(worked):
    study = make({}, {str(i): cell for i, cell in enumerate(("AC A", "PC A", "AC B", "PC B"))})
    ours = {
        2: reader_tables.table2(study),
        3: reader_tables.table3(study),
        4: reader_tables.table4(reader_tables.reliability(study, 0, 0))[0],
    }
    for number, values in ours.items():
        published = core_published.published(number)
        assert set(zip(published["row"], published["column"], strict=True)) <= set(values)


def test_published_tables_agree_with_the_text():
    """Sections 2.2 and 2.4: 239 kept, 22 excluded, N_images of Table 3 is N_scored of Table 2, 99,349 frames."""
    table1, table2, table3 = (
        core_published.published(n).pivot(index="row", columns="column", values="published") for n in (1, 2, 3)
    )
    assert table2["N_keep"].sum() == 239
    assert (table2["N_keep"] - table2["N_scored"]).sum() == 22
    assert table2["N_scored"].tolist() == table3["N_images"].tolist()
    assert table1.drop("Total")["Count"].sum() == table1.loc["Total", "Count"] == 99349


def random_study(n=60, seed=0):
    rng = np.random.default_rng(seed)
    quality = rng.normal(3.2, 0.8, (n, 1, 1))
    grades = np.clip(np.rint(quality + rng.normal(0, 0.7, (n, 4, 3))), 1, 5)
    images = {
        f"i{i:02d}": {
            rater: tuple(P if rng.random() < 0.05 else grades[i, j, s] for s in range(3))
            for j, rater in enumerate(RATERS)
        }
        for i in range(n)
    }
    cells = dict(zip(images, ["AC A", "PC A", "AC B", "PC B"] * n, strict=False))
    return make(images, cells)


def test_table4_equals_pingouin_on_the_same_ratings():
    study = random_study()
    values, details = reader_tables.table4(reader_tables.reliability(study, 200, 1))
    rated = study.ratings[study.ratings["rating"].notna()]
    for region in ("proximal", "overall"):
        chosen = rated if region == "overall" else rated[rated["segment"] == region]
        means = chosen.groupby(["image_id", "rater"], as_index=False)["rating"].mean()
        for name, raters in (("All raters", list(RATERS)), ("Domain experts only", ["NR1", "NR2", "NS1"])):
            table = (
                means[means["rater"].isin(raters)].pivot(index="image_id", columns="rater", values="rating").dropna()
            )
            long = table.melt(ignore_index=False).reset_index()
            theirs = pingouin.intraclass_corr(long, "image_id", "rater", "value").set_index("Type")["ICC"]
            assert values[region.capitalize(), f"{name} ICC(2,1)"] == pytest.approx(theirs["ICC(A,1)"], abs=1e-9)
            assert values[region.capitalize(), f"{name} ICC(2,k)"] == pytest.approx(theirs["ICC(A,k)"], abs=1e-9)
            row = details[(details["region"] == region.capitalize()) & (details["raters"] == name)].iloc[0]
            assert (row["n_images"], row["k_raters"]) == (len(table), len(raters))


def test_number_of_images_that_entered_each_cell(worked):
    counts = reader_tables.entered(worked, reader_tables.reliability(worked, 0, 0))
    assert [counts[3]["AC A", column] for column in ("Prox. n", "Med. n", "Peri. n")] == [3, 3, 2]
    assert counts[3]["AC B", "Prox. n"] == counts[3]["PC B", "Peri. n"] == 0
    # image a alone has a proximal grade from all four; no image has all four medium ones; experts share image a
    assert counts[4]["Proximal", "All raters n"] == 1
    assert counts[4]["Medium", "All raters n"] == 0
    assert counts[4]["Overall", "Domain experts only n"] == 1
    third = reader_tables.table3(worked)
    assert all(
        np.isfinite(third[cell, column.replace(" n", " mean")]) == (n > 0) for (cell, column), n in counts[3].items()
    )


def test_mixed_model_stands_beside_the_complete_cases():
    study = random_study()
    complete, mixed = reader_tables.reliability(study, 0, 0), reader_tables.mixed_reliability(study, 50, 0)
    values, details = reader_tables.table4(complete, mixed)
    assert values == reader_tables.table4(complete)[0]  # the headline is that of the complete cases
    row = details.query("region == 'Proximal' and raters == 'All raters' and coefficient == 'ICC(2,1)'").iloc[0]
    rated = study.ratings.query("segment == 'proximal'").dropna(subset="rating")
    assert (row["mixed_n_images"], row["mixed_n_ratings"]) == (rated["image_id"].nunique(), len(rated))
    assert row["n_images"] < row["mixed_n_images"]
    assert row["icc"] != row["mixed_icc"] == pytest.approx(row["icc"], abs=0.08)
    assert row["mixed_low"] < row["mixed_icc"] < row["mixed_high"]


def test_one_expert_only_gives_nan_with_a_reason():
    study = make(
        {f"{i}": {"NR1": (i % 5 + 1,) * 3, "IM1": (3, 2, i % 4 + 1)} for i in range(9)},
        {f"{i}": "AC A" for i in range(9)},
    )
    values, details = reader_tables.table4(reader_tables.reliability(study, 0, 0))
    assert np.isfinite(values["Overall", "All raters ICC(2,k)"])
    assert np.isnan(values["Overall", "Domain experts only ICC(2,k)"])
    assert set(details.loc[details["raters"] == "Domain experts only", "reason"]) == {"fewer than two raters"}


def test_figure_data_by_hand(worked):
    shares = reader_tables.rating_shares(make({"a": {"NR1": (4, 4, P), "NS1": (5, 4, 1)}}, {"a": "PC A"}))
    assert shares.query("segment == 'proximal' and rating == 4")["share"].item() == 0.5
    assert shares.query("segment == 'peripheral'")["count"].sum() == 1
    means = reader_tables.rater_means(worked).set_index(["cell", "segment", "rater"])
    row = means.loc[("AC A", "proximal", "NR1")]  # grades 4, 2, 3: mean 3, t(2) = 4.3027, standard error 1/sqrt(3)
    assert (row["n"], row["mean"]) == (3, 3)
    assert row["high"] == pytest.approx(3 + 4.302653 / 3**0.5, abs=1e-5)
    rich = reader_tables.richness(worked, pd.Series({"AC A": 30, "AC B": 10, "Others": 60})).set_index("cell")
    assert rich.loc["AC A", ["frames", "percent", "n"]].tolist() == [30, 30.0, 3]
    assert np.isnan(rich.loc["AC B", "mean"]) and rich.loc["PC B", "percent"] == 0


@pytest.mark.parametrize("case", ["ordinary", "nothing rated", "unknown condition"])
def test_figure4_draws_every_study(case, worked):
    study = {
        "ordinary": worked,
        "nothing rated": make({}, {"a": "AC A", "b": "PC B"}),
        "unknown condition": make({"a": {"NR1": (1, 2, 3)}}, {"a": "vertebral C"}),
    }[case]
    frames = pd.Series({"AC A": 5, "Others": 5})
    data = (reader_tables.rating_shares(study), reader_tables.image_scores(study), reader_tables.rater_means(study))
    richness = reader_tables.richness(study, frames)
    figure = reader_study.figure4(*data, richness, study.raters, study.cells, "simulated ratings")
    figure.canvas.draw()
    drawn = [text.get_text() for axis in figure.axes for text in axis.texts]
    assert [letter for letter in "abcde" if letter in drawn] == list("abcde")
    assert figure.get_suptitle() == "simulated ratings"
    if case == "ordinary":  # panel c prints the mean of images a, b and e
        assert f"{(4 + 2 + 3) / 3:.2f}" in drawn
    plt.close("all")


@pytest.mark.parametrize("percents", [(1, 8, 9, 27), (10, 10.2, 10.4, 10.6)], ids=["paper-like", "crowded"])
def test_labels_of_panel_e_touch_no_bar_and_no_other_label(percents):
    table = pd.DataFrame(
        dict(cell=["PC A", "PC B", "AC A", "AC B"], percent=percents, n=60, mean=[3.3, 3.58, 3.62, 3.55])
    ).assign(low=lambda t: t["mean"] - 0.15, high=lambda t: t["mean"] + 0.15)
    figure, axis = plt.subplots(figsize=(2.6, 2.2), layout="constrained")
    reader_study.panel_e(axis, table)
    figure.canvas.draw()
    texts = axis.get_legend().get_texts()
    assert [text.get_text() for text in texts] == ["PC A, n = 60", "PC B, n = 60", "AC A, n = 60", "AC B, n = 60"]
    labels = [text.get_window_extent() for text in texts]
    ends = [axis.transData.transform(table[["percent", side]].to_numpy()) for side in ("low", "high")]
    bars = [Bbox([low - [1, 0], high + [1, 0]]) for low, high in zip(*ends, strict=True)]
    for i, label in enumerate(labels):
        assert not label.count_overlaps(bars) and not label.count_overlaps(labels[:i] + labels[i + 1 :])
        assert axis.figure.bbox.x0 <= label.x0 and label.x1 <= axis.figure.bbox.x1
    plt.close(figure)


def test_grades_keep_their_order_in_grey_print():
    light = [np.dot(colour[:3], (0.299, 0.587, 0.114)) for colour in reader_study.GRADE_COLOURS]
    assert min(-np.diff(light)) > 0.1  # each grade clearly darker than the one below


def test_files_written_are_read_back_alike(tmp_path):
    study = random_study(12)
    screening = study.screening.assign(circulation="anterior", plane="A")
    write_study(screening, study.ratings, tmp_path / "screening.csv", tmp_path / "ratings.csv", "readers")
    again = open_reader_study(tmp_path / "screening.csv", tmp_path / "ratings.csv")
    columns = ["image_id", "rater", "role", "segment", "rating", "flag"]
    assert again.ratings[columns].fillna(0).values.tolist() == study.ratings[columns].fillna(0).values.tolist()
    assert again.screening["kept"].all()
    assert again.notes == []
