# ---
# jupyter:
#   jupytext:
#     cell_metadata_filter: tags,-all
#     formats: ipynb,py//py:percent
#     notebook_metadata_filter: kernelspec,jupytext,-jupytext.text_representation.jupytext_version
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 31 · The paper's numbers
#
# **Purpose.** The paper's own numbers put to the test, apart from this run's results: do they agree with each other, can records and ratings exist that have them all,
# and how many images and raters would a next reader study take?
#
# **Inputs.** `data_manifests/published.csv` (every number of text, tables and captions), `data_manifests/reader_study/` (reconstructed ratings); of notebook 06
# `readers/pilot.csv`, where it was made.
#
# **Outputs.** `ledger.csv`; *fitted to the published values*: `tables/paper_scale_*.csv` and `tables/reconstructed_table*.csv`; `readers/planning.csv` and its figure.
#
# **Time.** Seconds in every profile; the closing cell states it.

# %% tags=["parameters"]
run: str = "smoke"  # folder of this run under runs/
profile: str = "smoke"  # smoke, phantom or paper
archive: str = ""  # as in the notebooks before; nothing here is read from it
overrides: dict = {}  # as in the notebooks before
raters: list = [2, 3, 4, 5, 6, 8]  # numbers of raters to plan a next study for

# %%
import pandas as pd
from IPython.display import display

from dsa_lib.core.published import write_table
from dsa_lib.figures import flow, reader_study, style
from dsa_lib.paper import cohort_at_size, constraints, ledger, rating_reconstruction
from dsa_lib.readers import planning as reader_planning
from dsa_lib.run.session import begin

study = begin("31_paper_numbers", globals())
style.apply()

# %% [markdown]
# ## The cohort at the study's size (§2.1–2.2)
#
# **Fitted to the published values; no result of this run.** Simulated acquisition records, without images, are drawn so that their marginals are the
# paper's, and go through the same filter, split, annotation check and tables as the files of notebook 01. That Figure 1, Table 1 and the cohort of §2.1 come out
# to the last digit shows that the counting is right at the study's size, and nothing about its images.
#
# The paper's numbers do not all agree: its 351 women are 41.15 % of the patients only if the sex of six is not stated, and t = −0.03 goes with
# p = 0.97 in a narrow range alone. The records are drawn so that both hold. What the paper leaves open, such as the reasons of exclusion, is chosen
# and no finding (`dsa_lib/paper/cohort_at_size.py`). The shares of Table 1 are rounded so that they add up to 100 (largest remainder).

# %%
simulated = cohort_at_size.simulate(study.profile.curation, study.profile.seed)
fitted = cohort_at_size.fitted_tables(simulated)
for name, table in fitted.items():
    write_table(study.write(f"tables/paper_scale_{name}.csv"), table)
shown = pd.concat(fitted, names=["simulation"]).droplevel(1)
shown.set_index(["row", "column"], append=True).assign(difference=lambda rows: rows["fitted"] - rows["published"])

# %%
figure = flow.draw_flow(
    simulated.cohort.flow, cohort_at_size.COUNTED_IN, simulated.further, heading=cohort_at_size.HEADING
)
style.save(figure, study.write("figures/paper_scale_figure1.png"))

# %% [markdown]
# ## The ledger of published numbers
# Each number of the paper's text, tables and captions has a row in `data_manifests/published.csv`, with the relations to other numbers that it has to
# meet; statements in words that a number can confirm or contradict have one too. What a number is rounded to is taken into account: it stands for all
# that prints so. A verdict is computed here, never written down. None of this depends on the run's results; the simulated cohort above shows which numbers of
# §2.1–2.2 records can have together.

# %%
simulations = {name: study.ws.root / file for name, file in ledger.SIMULATIONS.items()}
numbers = ledger.verdicts(fitted=ledger.fitted_values(simulations))
numbers.to_csv(study.write("ledger.csv"), index=False)
for finding in ledger.findings(numbers).itertuples():
    print(f"{finding.place}, {finding.quantity} ({finding.verdict.split(': ')[1]})\n  {finding.because}.\n")

# %%
ledger.tally(numbers).set_index("verdict")

# %% [markdown]
# All rows, with how each was checked:

# %%
with pd.option_context("display.max_rows", None, "display.max_colwidth", 200):
    display(numbers.drop(columns=["kind", "times", "against"]).set_index("id"))

# %% [markdown]
# What disagrees or is in doubt does so whatever the run:

# %% tags=["nbval-check-output"]
ledger.findings(numbers)[["place", "quantity", "verdict"]]

# %% [markdown]
# ## Reconstructed ratings
#
# **Reconstructed, fitted to the published values, not the readers' own.** The study's raw ratings are not public. A seeded search found whole-number ratings
# of 239 images by four raters in three segments, with flags, from which Tables 2, 3 and 4 follow under the rules of §2.4; they ship in
# `data_manifests/reader_study/` with the method. They are one of very many such sets, no result of this run, and say nothing about any
# single rating. What they show is whether the three published tables can hold together.
#
# Three conditions must be met before any rating is sought. Single- and k-rater coefficients are tied by Spearman–Brown, so both printed values
# leave an interval for ICC(2,1), or none.

# %%
cells = constraints.published_cells()
constraints.icc_intervals(cells).round(4)

# %% [markdown]
# Table 2 leaves a number of images that are neither scored nor external; with all three segments flagged by all raters they must fit into each NA column,
# and what remains there are single segments of scored images.

# %%
constraints.flag_counts(cells)

# %% [markdown]
# Tables 2 and 3 together fix how the images that lack a segment scored: over a condition, three times the sum of overall scores less the sum of all segment
# scores is the sum of overall scores of these images, each counted once for every segment it lacks. `implied` is their mean, `low`–`high` what the
# rounding of the printed means leaves.

# %%
constraints.implied_scores(cells).round(2)

# %% [markdown]
# Every published cell of Tables 2–4, the value that follows from the reconstructed ratings, and the difference. Nothing is counted by the search
# itself: the files are read and tabulated like those of any readers.

# %%
reconstructed = rating_reconstruction.open_shipped()
for number, table in rating_reconstruction.fitted_tables(reconstructed).items():
    write_table(study.write(f"tables/reconstructed_table{number}.csv"), table)
left = rating_reconstruction.residuals(reconstructed)
print(f"{rating_reconstruction.NAME}: {left['printed_alike'].sum()} of {len(left)} cells print as published")
with pd.option_context("display.max_rows", None):
    display(rating_reconstruction.side_by_side(left))

# %% [markdown]
# The largest difference by table, in units of half the last printed digit (1: as far as rounding allows).

# %% tags=["nbval-check-output"]
print(rating_reconstruction.worst(left).to_string())

# %% [markdown]
# What the tables leave open differs from one reconstruction to the next: rater means and the distribution of ratings (Figures 4a and 4d, printed without
# digits), one line a seed, seeds 1 to 5 with none left out; where a search ended with a cell unmet, `printed_alike` shows it, and the seeds that met it that the tables do not forbid it. Nothing that varies here can be learned from Tables 2–4. Seeds start alike and stop at the first set that fits, so that more is
# open than their spread shows.

# %%
rating_reconstruction.alternatives().round(2)

# %% [markdown]
# ## Planning a new study
#
# How many images and raters does it take? Three standard deviations decide: how much images differ, how much raters differ in
# leniency, and what is left. They are those of the overall scores in notebook 06, where it has run; **change the values below and run the
# cells again**, for instance `components = reader_planning.Components(image_sd=0.7, rater_sd=0.3, error_sd=0.6)`.
#
# An interval for *other raters too* answers whether other readers of the same kind would find the same. Images cannot make up
# for few raters there, which an empty entry (no number of images suffices) says.

# %%
pilot = reader_planning.read_pilot(study.read("readers/pilot.csv") if study.has("readers/pilot.csv") else None)
components = pilot.components
wanted_icc = 0.05  # half width of the 95 % interval of ICC(2,k)
wanted_mean = 0.15  # half width of the 95 % interval of a condition's mean, in points of the scale
wanted_difference = 0.3  # difference of two conditions' means to be found, in points of the scale

# %%
print(f"{pilot.origin}; {100 * pilot.yield_share:.0f} % of the images can be rated")
print(" · ".join(f"{name} {value:.2f}" for name, value in vars(components).items()))
plan = reader_planning.requirements(components, raters, wanted_icc, wanted_mean, wanted_difference, pilot.yield_share)
precision = reader_planning.precision(components, (25, 50, 100, 200, 400), raters[:4], seed=study.profile.seed)
precision.assign(source=pilot.source).to_csv(study.write("readers/planning.csv"), index=False)
figure = reader_study.half_widths(precision, wanted_icc, wanted_mean, f"planned from {pilot.source}")
style.save(figure, study.write("figures/reader_planning.png"), dpi=300)
plan.round(2)

# %% [markdown]
# ## What this can and cannot say
# Numbers that agree can still be wrong, and those that do not may be misprints of right ones. What is fitted to published values shows that records or ratings with these values can exist, and confirms
# no result. What this project's own runs come to stands beside the published tables in [docs/results.md](../docs/results.md).

# %%
study.finish()
