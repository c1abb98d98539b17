"""The ledger of published numbers: no cell is left out, findings are computed and vanish when the numbers are changed, tests know when they cannot fail."""

import dataclasses
import itertools
import math
import re
import statistics

import numpy as np
import pandas as pd
import pytest

from dsa_lib.paper import ledger
from dsa_lib.paper.printed_number import CHECKS, Number, Paper, compare, parse, show, spread
from dsa_lib.paper.reader_numbers import bounds
from dsa_lib.readers.reliability import spearman_brown
from dsa_lib.run.errors import StudyError
from dsa_lib.run.profiles import PAPER


@pytest.fixture(scope="module")
def numbers() -> dict[str, Number]:
    return ledger.read()


@pytest.fixture(scope="module")
def verdicts(numbers) -> pd.DataFrame:
    return ledger.verdicts(numbers).set_index("id")


def made(printed, kind="exact", unit="", name="x", checks=()) -> Number:
    values = () if kind == "words" else parse(printed)
    return Number(name, "§0", name, printed, unit, kind, 1, "", checks, "", values)


def paper(**printed) -> Paper:
    """Rounded where a point is printed, else exact."""
    return Paper({k: made(v, "rounded" if "." in v else "exact", name=k) for k, v in printed.items()})


def changed(numbers, name, **printed):
    """The verdict of `name` after the printed values of these ids (dots written as __) are changed."""
    new = dict(numbers)
    for key, text in printed.items():
        old = new[key.replace("__", ".")]
        new[old.id] = dataclasses.replace(old, printed=text, values=() if old.kind == "words" else parse(text))
    return ledger.verdicts(new, only=[name])["verdict"].item()


# --- the file -----------------------------------------------------------------------------------------------------------------------------------


def test_every_published_cell_has_exactly_one_row(numbers):
    """Patients and studies stand in two files but once in the paper (§2.1)."""
    rows = [number.cell for number in numbers.values() if number.cell]
    twice = {"figure1/patients": "cohort/patients/Value", "figure1/studies": "cohort/studies/Value"}
    assert sorted([*rows, *twice]) == sorted(ledger.cells())
    assert len(rows) > 110
    printed = {number.cell: number.value for number in numbers.values() if number.cell}
    stages = pd.read_csv(ledger.CELLS / "figure1.csv").set_index("stage")["published"]
    assert {stages[name.removeprefix("figure1/")] == printed[cell] for name, cell in twice.items()} == {True}


def test_rows_are_well_formed(numbers):
    for number in numbers.values():
        assert re.fullmatch(r"[a-z0-9_]+(\.[a-z0-9_]+)+", number.id), number.id
        assert number.checks or number.note, number.id
        assert (number.kind == "words") == (not number.values), number.id
        assert number.kind != "rounded" or number.unit != "images", f"{number.id}: images are counted"
        for name, *arguments in number.checks:
            whole_rows = (
                "prevalence",
                "unscored_fit",
                "segment_bounds",
            )  # these take a row of a table, the number in it too
            assert name in whole_rows or number.id not in arguments, f"{number.id} is checked against itself by {name}"


def test_every_check_is_used_and_every_id_that_is_named_exists(numbers):
    used = {name for number in numbers.values() for name, *_ in number.checks}
    assert used == set(CHECKS)
    for number in numbers.values():
        for name, *arguments in number.checks:
            odd = [a for a in arguments if "." in a and a not in numbers and name != "setting"]
            assert not odd, f"{number.id}: {name} names {odd}"


def test_the_paper_s_sections_tables_and_captions_are_all_there(numbers):
    places = set(dict.fromkeys(number.place for number in numbers.values()))
    sections = {f"§{n}" for n in ("1", "2.1", "2.2", "2.3", "2.4", "2.5", "3", "4.1", "4.2", "4.3", "4.4", "4.5")}
    assert sections | {f"Table {n}" for n in range(1, 6)} | {f"Eq. {n}" for n in range(1, 7)} <= places
    assert {"Abstract", "Table 1, note and caption", "Table 4, caption", "Figure 4, caption"} <= places


def test_the_rows_hold_as_many_numerals_as_the_readme_says(numbers):
    """Counted in the paper once, by hand and script: 303 numerals outside the bibliography that are no labels."""
    counted = sum(
        number.times * len(re.findall(r"\d+(?:\.\d+)?", re.sub(r",(?=\d)", "", number.printed)))
        for number in numbers.values()
        if number.kind != "words"
    )
    assert f"{counted} numerals" in ledger.FILE.with_name("README.md").read_text()


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        ({"kind": "odd"}, "kind 'odd' is not one of exact, rounded, words"),
        ({"printed": "many"}, "no number is read in 'many'"),
        ({"printed": "1 and 2", "kind": "rounded"}, "holds 2 figures"),
        ({"cell": "table1/AC A/Count"}, "not both"),
        ({"printed": "", "cell": "table1/AC A/Colour"}, "table1.csv has no cell 'AC A/Colour'"),
        ({"times": "0"}, "times '0' is no count"),
        ({"note": ""}, "neither a check nor a reason"),
        ({"checks": "guess b"}, "no check is called 'guess'"),
    ],
)
def test_a_faulty_row_is_named(tmp_path, edit, complaint):
    row = dict(id="a.b", place="§1", quantity="q", printed="5", unit="", kind="exact", times="1", cell="", checks="")
    file = tmp_path / "published.csv"
    pd.DataFrame([row | {"note": "a date"} | edit])[ledger.COLUMNS].to_csv(file, index=False)
    with pytest.raises(StudyError, match=re.escape(complaint)):
        ledger.read(file)


def test_ids_are_unique_and_arguments_exist(tmp_path, numbers):
    file = tmp_path / "published.csv"
    row = dict(id="a.b", place="§1", quantity="q", printed="5", unit="", kind="exact", times="1", cell="", checks="")
    pd.DataFrame([row | {"note": "a date"}] * 2)[ledger.COLUMNS].to_csv(file, index=False)
    with pytest.raises(StudyError, match=r"'a\.b' twice"):
        ledger.read(file)
    broken = {"a.b": made("5", checks=(("total", "no.such"),))}
    with pytest.raises(StudyError, match=r"'total no.such' cannot be made"):
        ledger.verdicts(broken)


def test_printed_text_is_read():
    cases = {"22,064": (22064,), "-90/0": (-90, 0), "{1, 2, 4}": (1, 2, 4), "four": (4,), "0.0195": (0.0195,)}
    cases |= {"3×64×64": (3, 64, 64), "26 720": (26720,), "0, 0": (0, 0), "−0.03": (-0.03,), "no idea": ()}
    assert {text: parse(text) for text in cases} == cases
    assert parse("2×10^-5") == pytest.approx((2e-5,)) and parse("10^-6") == pytest.approx((1e-6,))
    assert (show(-1234.5, 1), show(0.0004, 2), show(99349)) == ("−1,234.5", "0.00", "99,349")


# --- what it finds ------------------------------------------------------------------------------------------------------------------------------

FOUND = {
    "2.1.female_share": 41.15 - 100 * 351 / 859,
    "2.2.joint_share": 45.4 - 100 * (9500 + 920 + 26720 + 7912) / 99349,
    "t1.others.share": 54.6 - 100 * 54297 / 99349,
    "abs.rated": 400 - 239,
    "abs.overall_low": 3.1 - 2.73,
    "2.4.neuroradiologists": 4 - 2,
    "t1n.set": 5000,
}


@pytest.mark.parametrize("name", FOUND)
def test_a_contradiction_is_found_with_its_residual(verdicts, name):
    assert verdicts.loc[name, "verdict"] == ledger.DISAGREES
    assert verdicts.loc[name, "residual"] == pytest.approx(FOUND[name])


def test_a_share_of_an_unnamed_whole_is_in_doubt_where_another_whole_fits(verdicts, numbers):
    assert verdicts.loc["2.4.unscored_share", "verdict"] == ledger.DOUBT
    assert verdicts.loc["2.4.unscored_share", "residual"] == pytest.approx(5.5 - 100 * 22 / 239)
    assert changed(numbers, "2.4.unscored_share", **{"2__4__unscored_share": "7.7"}) == ledger.DISAGREES


def test_a_fit_does_not_speak_for_a_number_that_others_contradict(numbers):
    cell = numbers["t1.others.share"].cell
    found = ledger.verdicts(numbers, {cell: 54.6}, only=["t1.others.share"]).iloc[0]
    assert found["verdict"] == ledger.DISAGREES and "simulated" not in found["because"]


def test_sentences_say_what_would_fit(verdicts):
    because = verdicts["because"]
    assert "No whole number of 859 prints as 41.15 %. 351 are 41.15 % of 853" in because["2.1.female_share"]
    assert "22 are 5.5 % of 400 (images screened, §2.4)" in because["2.4.unscored_share"]
    assert "9.6 + 0.9 + 26.9 + 8.0 = 45.40 %" in because["2.2.joint_share"]
    assert "100 − (9.6 + 0.9 + 26.9 + 8.0) = 54.60 %" in because["t1.others.share"]
    assert "need 1,250 of each condition; PC A has 920" in because["2.5.reference"]
    assert "splits into 60 combinations or more" in because["2.2.prevalent"]  # 54,297 / 920 = 59.02
    assert (
        "14 or more of them in its own circulation" in because["2.2.prevalent"]
    )  # (21,096 − 920 − 7,912) / 920 = 13.3
    assert "no term in common" in because["eq2.terms"]


@pytest.mark.parametrize(
    ("name", "edits"),
    [
        ("2.1.female_share", {"2__1__patients": "853"}),
        ("2.1.female_share", {"2__1__female_share": "40.86"}),
        ("2.2.joint_share", {"2__2__joint_share": "45.3"}),
        ("t1.others.share", {"t1__others__share": "54.7", "t1__pc_b__share": "7.9"}),
        ("2.4.unscored_share", {"2__4__unscored_share": "9.2"}),
        ("abs.rated", {"abs__rated": "239"}),
        ("abs.overall_low", {"t3__pc_a__overall": "3.12"}),
        ("2.4.neuroradiologists", {"2__4__neuroradiologists": "two"}),
        ("2.2.annotators", {"4__2__annotators": "an expert neuroradiologist"}),
        ("eq2.terms", {"eq2__terms": "KL; LPIPS"}),
        ("4.5.examples", {"4__4__examples": "four"}),
        ("2.4.moderate", {"t4__prox__all_1": "0.50"}),
        ("2.5.features", {"t1__pc_a__count": "2920"}),
    ],
)
def test_a_finding_goes_when_the_numbers_meet(numbers, verdicts, name, edits):
    assert verdicts.loc[name, "verdict"] in (ledger.DISAGREES, ledger.DOUBT)
    assert changed(numbers, name, **edits) in (ledger.AGREES, ledger.RESTATED)


@pytest.mark.parametrize(
    ("name", "edits"),
    [
        ("2.2.kept", {"2__2__excluded": "3693"}),
        ("2.2.excluded_share", {"2__2__excluded_share": "16.8"}),
        ("t4.prox.expert_k", {"t4__prox__expert_k": "0.889"}),
        ("t4.k_all", {"t4__prox__all_k": "0.83"}),
        ("t2.ac_a.scored", {"t3__ac_a__n": "71"}),
        ("t2.pc_b.keep", {"t2__pc_b__keep": "56"}),
        ("t3.pc_b.overall", {"t3__pc_b__overall": "3.37"}),
        ("2.4.order", {"t3__ac_b__peri": "3.05"}),
        ("2.4.monotone", {"t3__ac_b__overall": "3.40", "t3__ac_a__overall": "3.34"}),
        ("2.1.p", {"2__1__p": "0.99"}),
        ("4.5.latent_side", {"4__5__latent_side": "32×32"}),
        ("4.5.head", {"4__5__base": "200"}),
        ("2.5.generated", {"2__5__generated": "12,000"}),
        ("t5.ours", {}),
    ],
)
def test_what_agrees_would_not_with_other_numbers(numbers, verdicts, name, edits):
    if not edits:
        assert verdicts.loc[name, "verdict"] == ledger.NOT_CHECKABLE and "not public" in verdicts.loc[name, "because"]
        return
    assert verdicts.loc[name, "verdict"] in (ledger.AGREES, ledger.RESTATED, ledger.POSSIBLE)
    assert changed(numbers, name, **edits) == ledger.DISAGREES


def test_findings_are_told_once_and_contradictions_first(verdicts):
    told = ledger.findings(verdicts.reset_index())
    assert told["verdict"].tolist() == sorted(told["verdict"], key=[ledger.DISAGREES, ledger.DOUBT].index)
    assert not told["because"].duplicated().any()
    assert told["place"].eq("§2.2 and §2.3").sum() == 1, "the same claim in two places"
    assert told["quantity"].eq("terms of the autoencoder’s loss").sum() == 1, (
        "Eq. 2 against §4.5, not §4.5 against Eq. 2 again"
    )
    assert set(told["because"]) <= set(verdicts["because"])


def test_every_row_is_tallied_and_every_number_that_cannot_be_checked_says_why(verdicts):
    table = ledger.tally(verdicts.reset_index())
    assert table["numbers"].sum() + table["statements"].sum() == len(verdicts)
    unchecked = verdicts[verdicts["verdict"].eq(ledger.NOT_CHECKABLE)]
    assert (unchecked["because"].str.len() > 5).all()


def test_settings_are_those_of_profile_paper(numbers, verdicts):
    settings = [number for number in numbers.values() if any(name == "setting" for name, *_ in number.checks)]
    assert len(settings) > 25
    assert (
        not verdicts.loc[[number.id for number in settings], "because"]
        .str.contains("profile `paper` has [a-z]+\\.")
        .any()
    )
    assert numbers["4.5.lr"].value == PAPER.diffusion.learning_rate
    assert changed(numbers, "4.5.patience", **{"4__5__patience": "12"}) == ledger.DISAGREES


# --- what was fitted ----------------------------------------------------------------------------------------------------------------------------


def test_a_simulation_reproduces_or_misses(tmp_path, numbers):
    file = tmp_path / "paper_scale_cohort.csv"
    rows = [("SD of age (years)", 15.32), ("youngest", 19)]
    table = [{"row": name, "column": "Value", "published": 0, "fitted": value, "source": "s"} for name, value in rows]
    pd.DataFrame(table).to_csv(file, index=False)
    values = ledger.fitted_values({"cohort": file}, ratings=tmp_path)
    assert values == {"cohort/SD of age (years)/Value": 15.32, "cohort/youngest/Value": 19.0}
    found = ledger.verdicts(numbers, values, only=["2.1.age_sd", "2.1.youngest", "2.1.oldest"]).set_index("id")
    assert found.loc["2.1.age_sd", "verdict"] == ledger.REPRODUCED
    assert found.loc["2.1.youngest", "verdict"] == ledger.NOT_CHECKABLE and "19" in found.loc["2.1.youngest", "because"]
    assert "notebook 01 has not run" in found.loc["2.1.oldest", "because"]


def test_reconstructed_ratings_are_tabulated_as_real_ones_are(tmp_path):
    cells = [("anterior", "A"), ("posterior", "A"), ("anterior", "B"), ("posterior", "B")]
    names = [(f"{c[0]}{c[1]}{i}", *c) for c in cells for i in range(3)]
    screening = pd.DataFrame([{"image_id": n, "circulation": c, "plane": p, "kept": True} for n, c, p in names])
    rng = np.random.default_rng(3)
    ratings = pd.DataFrame(
        [
            {"image_id": n, "rater": r, "role": role, "segment": s, "rating": int(rng.integers(1, 6)), "flag": ""}
            for n, *_ in names
            for r, role in (("r1", "NR"), ("r2", "NR"), ("r3", "NS"), ("r4", "IM"))
            for s in ("proximal", "medium", "peripheral")
        ]
    )
    screening.to_csv(tmp_path / "screening.csv", index=False)
    ratings.to_csv(tmp_path / "ratings.csv", index=False)
    values = ledger.fitted_values({}, ratings=tmp_path)
    cell = ratings[ratings["image_id"].str.startswith("anteriorA") & ratings["segment"].eq("medium")]
    assert values["table3/AC A/Med. mean"] == pytest.approx(cell["rating"].mean())
    assert values["table2/PC B/N_keep"] == 3
    assert {name for name in ledger.cells() if name.startswith(("table2", "table3", "table4"))} <= set(values)


# --- the checks themselves ----------------------------------------------------------------------------------------------------------------------


def test_a_rounded_number_stands_for_all_that_prints_so():
    assert compare(made("59.8", "rounded"), "f", *[59.75] * 3).outcome == "agrees"
    assert compare(made("59.8", "rounded"), "f", *[59.7499] * 3).outcome == "disagrees"
    assert compare(made("239"), "f", *[238.6] * 3).outcome == "disagrees", "a count is exact"
    low, middle, high = spread(lambda a, b: a / b, [made("1.0", "rounded"), made("2.00", "rounded")])
    assert (low, middle, high) == pytest.approx((0.95 / 2.005, 0.5, 1.05 / 1.995))
    loose = compare(made("0.80", "rounded"), "f", 0.7902, 0.7935, 0.7968)
    assert loose.outcome == "agrees" and "0.7902 to 0.7968" in loose.text


def test_spearman_brown_is_that_of_the_analysis(numbers):
    for k, single in itertools.product((3, 4), ("0.49", "0.723")):
        known = paper(single=single, k=str(k))
        right = made(f"{spearman_brown(float(single), k):.3f}", "rounded")
        assert CHECKS["spearman_brown"](known, right, "single", "k").outcome == "agrees"
    published = paper(s="0.723", a="0.887")
    assert CHECKS["implied_raters"](published, made("3"), "s", "a").outcome == "agrees"
    assert CHECKS["implied_raters"](published, made("4"), "s", "a").outcome == "disagrees"


def test_grim_on_the_textbook_case_and_where_it_has_no_power():
    """28 whole numbers cannot have a mean of 5.19 (Brown and Heathers 2017): 145/28 = 5.18, 146/28 = 5.21."""
    known = paper(n="28", few="7", many="200")
    assert CHECKS["grim"](known, made("5.19", "rounded"), "n", "whole").outcome == "disagrees"
    assert CHECKS["grim"](known, made("5.18", "rounded"), "n", "whole").outcome == "possible"
    assert CHECKS["grim"](known, made("5.19", "rounded"), "many", "whole").outcome == "no power"
    assert CHECKS["grim"](known, made("3.19", "rounded"), "n", "segment").outcome == "no power"
    sevenths = {
        CHECKS["grim"](known, made(f"{m / 100:.2f}", "rounded"), "few", "segment").outcome for m in range(300, 400)
    }
    assert sevenths == {"possible", "disagrees"}, "84 steps cannot fill 100 printed values"


def test_grimmer_never_rejects_what_exists():
    seen = set()
    for sample in itertools.combinations_with_replacement(range(1, 6), 5):
        mean, sd = statistics.mean(sample), statistics.stdev(sample)
        known = paper(mean=f"{mean:.2f}", n="5")
        outcome = CHECKS["grimmer"](known, made(f"{sd:.2f}", "rounded"), "mean", "n", "whole").outcome
        assert outcome == "no power", (sample, outcome)
        seen.add(outcome)
    known = paper(mean="3.00", n="5")
    # Five whole numbers with the sum 15 have an odd sum of squares 45 + 4 SD²: an SD of √(1/4) is impossible, √(2/4) is not.
    assert CHECKS["grimmer"](known, made("0.50", "rounded"), "mean", "n", "whole").outcome == "in doubt"
    assert CHECKS["grimmer"](known, made("0.71", "rounded"), "mean", "n", "whole").outcome == "no power"
    assert CHECKS["grimmer"](known, made("2.50", "rounded"), "mean", "n", "whole").outcome == "disagrees"


def test_bounds_of_the_overall_mean_by_hand():
    """Two images, one without medium: proximal mean 3, medium 5, peripheral 3. Overall 1 (complete): (p1 + 5 + r1)/3; overall 2: (p2 + r2)/2, with
    p1 + p2 = r1 + r2 = 6. The sum is 5/3 + (p1 + r1)/3 + (12 − p1 − r1)/2, so that p1 + r1 from 2 to 10 gives means from 2.667 to 3.333."""
    known = paper(keep="2", scored="2", p="3.00", m="5.00", r="3.00", pn="0", mn="1", rn="0")
    low, high = bounds(known, "keep", "scored", ("p", "pn", "m", "mn", "r", "rn"), target=None)
    assert low == pytest.approx((5 / 3 + 10 / 3 + 1) / 2, abs=0.02)
    assert high == pytest.approx((5 / 3 + 2 / 3 + 5) / 2, abs=0.02)
    complete = paper(keep="9", scored="9", p="3.00", m="4.00", r="2.00", n="0")
    both = bounds(complete, "keep", "scored", ("p", "n", "m", "n", "r", "n"), target=None)
    assert both == pytest.approx((2.995, 3.005), abs=1e-6), "without missing segments it is the mean of the means"
    impossible = paper(keep="2", scored="2", p="5.50", m="5.00", r="3.00", n="0")
    assert math.isnan(bounds(impossible, "keep", "scored", ("p", "n", "m", "n", "r", "n"), target=None)[0])


def test_bounds_hold_for_scores_that_exist():
    """Random scores with missing segments: their overall mean lies within the bounds that their own printed table gives."""
    rng = np.random.default_rng(1)
    for _ in range(12):
        scores = rng.integers(12, 61, (20, 3)) / 12
        scores[rng.random((20, 3)) < 0.25] = np.nan
        scores = scores[~np.isnan(scores).all(axis=1)]
        cells = {"keep": str(len(scores)), "scored": str(len(scores))}
        for name, column in zip("pmr", scores.T, strict=True):
            cells |= {name: f"{np.nanmean(column):.2f}", f"{name}n": str(int(np.isnan(column).sum()))}
        overall = np.nanmean(scores, axis=1).mean()
        columns = ("p", "pn", "m", "mn", "r", "rn")
        low, high = bounds(paper(**cells), "keep", "scored", columns, target=None)
        assert low - 1e-6 <= overall <= high + 1e-6
        known = paper(**cells, o=f"{overall:.2f}")
        low, high = bounds(known, "keep", "scored", columns, target=1, overall="o")
        assert low - 1e-6 <= np.nanmean(scores[:, 1]) <= high + 1e-6


def test_the_implied_share_of_arterial_frames():
    """1000 frames, 300 arterial: 270 found, 30 false alarms give precision 0.90, recall 0.90, accuracy 0.94."""
    known = paper(p="0.900", r="0.900", a="0.940")
    found = CHECKS["prevalence"](known, made("0.900", "rounded"), "p", "r", "a")
    assert found.outcome == "possible" and found.computed == "30.0 %"
    absurd = paper(p="0.990", r="0.990", a="0.500")
    assert CHECKS["prevalence"](absurd, made("0.99", "rounded"), "p", "r", "a").outcome == "disagrees"


def test_the_noise_schedule_against_its_own_logarithms(numbers, verdicts):
    betas = [0.0015 + (0.0195 - 0.0015) * t / 999 for t in range(1000)]
    left = 100 * math.exp(0.5 * math.fsum(math.log1p(-beta) for beta in betas))
    assert verdicts.loc["4.5.steps", "computed"] == f"{left:.2g} %"
    assert changed(numbers, "4.5.steps", **{"4__5__beta_end": "0.0020"}) == ledger.DOUBT
