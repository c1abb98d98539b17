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
# **Purpose.** Check the published numbers independently of the results of this run. Are they consistent? Can records and ratings exist that produce all of them? How many
# images and raters would the next reader study need?
#
# **Inputs.** `data_manifests/published.csv` (all numbers in text, tables and captions), `data_manifests/reader_study/` (reconstructed ratings) and, if available,
# `readers/pilot.csv` of notebook 06.
#
# **Outputs.** `ledger.csv`; *fitted to the published values*: `tables/paper_scale_*.csv` and `tables/reconstructed_table*.csv`; `readers/planning.csv` and its figure.
#
# **Time.** Seconds in every profile. The last cell prints it.

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
# ## Cohort of the published size (§2.1–2.2)
#
# **Fitted to the published values; not a result of this run.** Acquisition records without images are simulated with the marginal distributions of the paper. They pass
# through the same filter, split, annotation check and tables as the files of notebook 01. They reproduce Figure 1, Table 1 and the cohort of §2.1 to the last digit. This
# shows that the counting is correct at the size of the study, and says nothing about images.
#
# The published numbers are not fully consistent. 351 women are 41.15 % of the patients only if the sex of six patients is not stated, and t = −0.03 corresponds to p = 0.97
# only in a narrow range. The records are drawn so that both hold. Quantities that the paper leaves open, such as the reasons of exclusion, are assumptions, not findings
# (`dsa_lib/paper/cohort_at_size.py`). The percentages of Table 1 are rounded so that they add up to 100 (largest remainder).

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
# ## Published numbers
#
# `data_manifests/published.csv` contains every number of the text, tables and captions with its relations to other numbers. Verbal statements that a number can confirm or
# contradict are included. The checks account for rounding: a printed number represents all values that round to it. All verdicts are computed here and never stored. They
# do not depend on the results of this run. The simulated cohort above shows which numbers of §2.1–2.2 can hold together.

# %%
simulations = {name: study.ws.root / file for name, file in ledger.SIMULATIONS.items()}
numbers = ledger.verdicts(fitted=ledger.fitted_values(simulations))
numbers.to_csv(study.write("ledger.csv"), index=False)
for finding in ledger.findings(numbers).itertuples():
    print(f"{finding.place}, {finding.quantity} ({finding.verdict.split(': ')[1]})\n  {finding.because}.\n")

# %%
ledger.tally(numbers).set_index("verdict")

# %% [markdown]
# All numbers, with the method of each check:

# %%
with pd.option_context("display.max_rows", None, "display.max_colwidth", 200):
    display(numbers.drop(columns=["kind", "times", "against"]).set_index("id"))

# %% [markdown]
# Numbers that are inconsistent or doubtful. This concerns the paper, not the run:

# %% tags=["nbval-check-output"]
ledger.findings(numbers)[["place", "quantity", "verdict"]]

# %% [markdown]
# ## Reconstructed ratings
#
# **Reconstructed from the published values; not the ratings of the readers.** The raw ratings of the study are not public. A random search with a fixed seed found integer
# ratings of 239 images by four raters in three segments, with flags, that produce Tables 2, 3 and 4 under the rules of §2.4. They are stored in
# `data_manifests/reader_study/` with a description of the method. They are one of many such sets and not a result of this run, and they say nothing about single ratings.
# They show whether the three published tables can hold together.
#
# Three conditions must hold before the search. Single-rater and k-rater coefficients are related by the Spearman–Brown formula, so that both printed values restrict
# ICC(2,1) to an interval, which can be empty.

# %%
cells = constraints.published_cells()
constraints.icc_intervals(cells).round(4)

# %% [markdown]
# According to Table 2, some images are neither scored nor external. If all raters flagged all three segments of these images, they must fit into each NA column. The
# remaining entries of the columns are single segments of scored images.

# %%
constraints.flag_counts(cells)

# %% [markdown]
# Tables 2 and 3 together determine the scores of images that lack a segment. Over a condition, three times the sum of the overall scores minus the sum of all segment
# scores equals the sum of the overall scores of these images, each counted once per missing segment. `implied` is their mean, and `low`–`high` is the range allowed by the
# rounding of the printed means.

# %%
constraints.implied_scores(cells).round(2)

# %% [markdown]
# Every published cell of Tables 2–4, the value derived from the reconstructed ratings, and the difference. The ratings are read and tabulated like those of any readers,
# independently of the search.

# %%
reconstructed = rating_reconstruction.open_shipped()
for number, table in rating_reconstruction.fitted_tables(reconstructed).items():
    write_table(study.write(f"tables/reconstructed_table{number}.csv"), table)
left = rating_reconstruction.residuals(reconstructed)
print(f"{rating_reconstruction.NAME}: {left['printed_alike'].sum()} of {len(left)} cells print as published")
with pd.option_context("display.max_rows", None):
    display(rating_reconstruction.side_by_side(left))

# %% [markdown]
# The largest difference by table, in units of half the last printed digit (1: the maximum that rounding allows).

# %% tags=["nbval-check-output"]
print(rating_reconstruction.worst(left).to_string())

# %% [markdown]
# Reconstructions differ in what the tables leave open: the rater means and the distribution of ratings (Figures 4a and 4d, printed without values). The table has one row
# per seed, for seeds 1 to 5 without omissions. If a search ended with an unmatched cell, `printed_alike` shows it. The other seeds show that the tables do not exclude a
# match. Values that vary here cannot be inferred from Tables 2–4. All seeds start from similar ratings and stop at the first set that fits, so their spread underestimates
# the variation.

# %%
rating_reconstruction.alternatives().round(2)

# %% [markdown]
# ## Planning a new study
#
# The required numbers of images and raters depend on three standard deviations: between images, between the leniency of raters, and residual. The values are those of the
# overall scores in notebook 06, if it has run. **Change the values below and run the cells again**, for instance `components = reader_planning.Components(image_sd=0.7,
# rater_sd=0.3, error_sd=0.6)`.
#
# An interval for *other raters too* states whether other readers of the same kind would find the same result. More images cannot compensate for too few raters: an empty
# entry means that no number of images is sufficient.

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
# ## Interpretation
#
# Consistent numbers can still be wrong, and inconsistent numbers can be misprints of correct ones. Records or ratings that are fitted to the published values show that
# such values can exist. They do not confirm any result. Results of this project's own runs: [docs/results.md](../docs/results.md).

# %%
study.finish()
