"""The simulation at the study's size: every published number, and books that answer to a disturbance."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dsa_lib.core import published
from dsa_lib.curation import circulation, cohort, filter_flow
from dsa_lib.figures import flow as figures
from dsa_lib.paper import cohort_at_size
from dsa_lib.run.profiles import Curation


@pytest.fixture(scope="module")
def simulated() -> cohort_at_size.PaperScale:
    return cohort_at_size.simulate(Curation(), seed=7)


@pytest.mark.parametrize("name", ["table1", "figure1", "cohort"])
def test_every_published_number_comes_out(simulated, name):
    table = cohort_at_size.fitted_tables(simulated)[name]
    printed = pd.read_csv(cohort_at_size.PROJECT / "data_manifests" / "published" / f"{name}.csv")
    assert table["published"].tolist() == printed["published"].tolist()
    assert table["fitted"].tolist() == printed["published"].tolist()
    assert list(table.columns) == ["row", "column", "published", "fitted", "source"]
    assert set(table["source"]) == {published.FITTED}


def test_the_numbers_are_those_of_the_text(simulated):
    """§2.1–2.2 as printed, typed from the paper and not from the files the simulation reads."""
    found, frames = simulated.cohort, simulated.arterial
    series, kept = found.series, found.series[found.series["kept"]]
    assert (len(series), int((~series["kept"]).sum()), len(kept)) == (22064, 3694, 18370)
    assert (kept["patient"].nunique(), kept["study"].nunique()) == (859, 1104)
    assert (len(simulated.annotated), len(kept) - len(simulated.annotated)) == (953, 17417)
    assert frames["circulation"].value_counts().to_dict() == {"anterior": 78253, "posterior": 21096}
    assert [round(100 * n / 99349, 2) for n in (78253, 21096)] == [78.77, 21.23]
    people = kept.sort_values("age").groupby("patient").first()
    men, women = (people.loc[people["sex"] == sex, "age"].astype(float) for sex in "MF")
    assert len(women) == 351
    assert (people["age"].min(), people["age"].max()) == (18, 91)
    assert round(people["age"].astype(float).std(), 2) == 15.32
    for equal_var in (True, False):  # the paper does not say which test; both print as it does
        t, p = stats.ttest_ind(men, women, equal_var=equal_var)
        assert (round(t, 2), round(p, 2)) == (-0.03, 0.97)


def test_contradictions_of_the_paper_that_the_docstring_names():
    assert round(100 * 351 / 859, 2) == 40.86
    assert [n for n in range(800, 900) if round(100 * 351 / n, 2) == 41.15] == [853]
    freedom = 853 - 2
    assert round(2 * stats.t.sf(0.03, freedom), 2) == 0.98
    printed = [t for t in np.arange(0.025, 0.035, 0.0001) if round(2 * stats.t.sf(t, freedom), 2) == 0.97]
    assert round(min(printed), 3) == 0.031
    assert round(100 * (9500 + 920 + 26720 + 7912) / 99349, 1) == 45.3
    assert round(9.6 + 0.9 + 26.9 + 8.0, 1) == 45.4
    assert round(100 * 54297 / 99349, 2) == 54.65


def test_frames_and_series_belong_together(simulated):
    series, frames = simulated.cohort.series.set_index("series"), simulated.arterial
    assert (frames["frame"] < frames["series"].map(series["frames"])).all()
    assert (frames.groupby("series")["frame"].diff().dropna() == 1).all(), "contrast passes the arteries once"
    assert set(frames["series"]) == set(series.index[series["kept"]])
    marked = simulated.annotated.merge(frames, on=["series", "frame"])
    assert len(marked) == 953, "the representative frame is an arterial one"
    assert (frames.groupby("patient")["split"].nunique() == 1).all()
    assert cohort.balance(simulated.cohort)["holds"].all()


def test_the_same_seed_gives_the_same_records():
    drawn = [cohort_at_size.draw_acquisitions(np.random.default_rng(seed)) for seed in (3, 3, 4)]
    assert drawn[0][0] == drawn[1][0]
    assert all(np.array_equal(a, b) for a, b in zip(drawn[0][1:], drawn[1][1:], strict=True))
    assert drawn[0][0] != drawn[2][0]


def test_the_books_answer_to_a_disturbance():
    """Nothing is written down: other words, motion, angles or copies change exactly the counts that they must."""
    acquisitions, _, arterial = cohort_at_size.draw_acquisitions(np.random.default_rng(1))
    few = acquisitions[:500]
    groin, rotation, turned, copied = np.flatnonzero(arterial[:500])[:4]

    vocabulary = circulation.read_vocabulary()

    def books(files):
        records = [filter_flow.judge(item, vocabulary) for item in files]
        return cohort.account([str(i) for i in range(len(files))], records, b"key", lambda first, second: True)

    def frames_by_view(found):
        kept = found.series[found.series["kept"]]
        return cohort.table1(kept.loc[kept.index.repeat(kept["frames"])])

    plain = books(few)
    few[groin] = dataclasses.replace(few[groin], texts=("Leiste", "", ""))
    few[rotation] = dataclasses.replace(few[rotation], rotational=True)
    few.append(few[copied])
    after = books(few)
    assert after.flow["files found"] == 501
    assert after.flow["quarantined"] == {"an identical copy of another file": 1}
    assert after.flow["series read"] == plain.flow["series read"] == 500
    assert after.flow["series kept"] == plain.flow["series kept"] - 2
    more = {"other territory: femoral artery": 1, "rotational run: the view changes": 1}
    excluded = plain.flow["excluded"]
    assert after.flow["excluded"] == excluded | {name: excluded.get(name, 0) + n for name, n in more.items()}

    views = [
        frames_by_view(books([dataclasses.replace(few[turned], primary_angle_deg=angle)])) for angle in (50.0, 95.0)
    ]
    assert [view["Others", "Count"] for view in views] == [few[turned].frames] * 2
    straight = dataclasses.replace(few[turned], primary_angle_deg=-85.0, secondary_angle_deg=5.0, plane="B")
    name = f"{'AC' if books([straight]).series['circulation'][0] == 'anterior' else 'PC'} B"
    assert frames_by_view(books([straight]))[name, "Count"] == few[turned].frames


def test_the_figure_says_what_it_is(simulated):
    figure = figures.draw_flow(
        simulated.cohort.flow, cohort_at_size.COUNTED_IN, simulated.further, heading=cohort_at_size.HEADING
    )
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts[0].startswith("Fitted to the published values")
    wanted = ["22,064 DSA series read", "3,694 excluded (16.7 %)", "18,370 series of anterior or posterior circulation"]
    wanted += ["953 series annotated", "17,417 further series classified", "99,349 arterial-phase frames"]
    wanted += ["78,253 arterial-phase frames (78.8 %)", "21,096 arterial-phase frames (21.2 %)"]
    assert [line for line in wanted if line not in texts] == []
    assert not any("training" in text for text in texts), "the split is not published"
