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
# # 06 · Reader analysis
#
# **Purpose.** Analyse the reader study (§2.4): screening, image quality and inter-rater agreement. Tables 2, 3 and 4, Figures 3 and 4.
#
# **Inputs.** `samples/reader/` of notebook 05 and the arterial frames of notebook 02 (Figure 4e). Optionally `screening.csv` and `ratings.csv` of real readers, given as
# parameters.
#
# **Outputs.** `readers/screening.csv`, `readers/ratings.csv` and the manifest of their origin; `tables/table2.csv` … `table4.csv`; `readers/icc.csv`, `conditions.csv`,
# `condition_pairs.csv`, `segments.csv`, `leniency.csv`, `kappa.csv`, `pilot.csv`; `figures/figure3.png`, `figure4.png` and its panels (also as PDF).
#
# Without reader files, the ratings are simulated by a model of readers with stated parameters. All results derived from them are labelled *simulated ratings*. They test
# the analysis and do not predict what clinicians would answer.
#
# **Time.** Seconds in every profile. The last cell prints it.

# %% tags=["parameters"]
run: str = "smoke"  # folder of this run under runs/
profile: str = "smoke"  # smoke, phantom or paper
archive: str = ""  # taken by every notebook from 01 on; this one needs only what they wrote
overrides: dict = {}  # e.g. {"readers.bootstrap": 10000}
screening: str = ""  # path of real readers' screening.csv; empty: simulated
ratings: str = ""  # path of real readers' ratings.csv; goes together with `screening`
expert_roles: str = "NR,NS"  # domain experts of Table 4 (the paper: neuroradiologists and the neurosurgeon)

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import display

from dsa_lib.core import published
from dsa_lib.core.images import read_images
from dsa_lib.figures import flow, reader_study, style
from dsa_lib.readers import comparisons as reader_comparisons
from dsa_lib.readers import planning as reader_planning
from dsa_lib.readers import rater_model, rating_files, rating_origin
from dsa_lib.readers import tables as reader_tables
from dsa_lib.readers.comparisons import readable
from dsa_lib.readers.reliability import icc2
from dsa_lib.run.session import begin

study = begin("06_reader_analysis", globals())
style.apply()

# %% [markdown]
# ## Ratings
#
# A senior reader first keeps or rejects each image. Each rater then grades three arterial segments of every kept image from 1 (very poor) to 5 (excellent). A segment
# without a grade is marked *not present* or *not applicable*, or the whole image is marked *external circulation*.
#
# The simulated readers use measurable image properties: the distance of the vessels, at three calibres, from those of real arterial frames of the same condition. All other
# effects (image, segment, reader, noise, flags) are drawn from distributions whose parameters are printed below. None is fitted to the published tables.

# %%
targets = study.write("readers/screening.csv"), study.write("readers/ratings.csv")
study.write("readers/ratings.origin.json")  # written with the ratings: who gave them
if screening or ratings:
    rating_files.collect(screening, ratings, *targets)
elif why := study.skipped_upstream("samples/reader"):
    study.skip(f"{why.rstrip('.')}; there is nothing to rate, unless `screening` and `ratings` name readers' files.")
else:
    folder = study.read("samples/reader")
    manifest = pd.read_parquet(folder / "manifest.parquet")
    frames, arterial = np.load(study.read("frames.npy"), mmap_mode="r"), pd.read_parquet(study.read("arterial.parquet"))
    real, real_cells = rater_model.real_reference(frames, arterial, study.profile.seed)
    quality = rater_model.measured_quality(
        read_images(folder, manifest["file"].tolist()), manifest["cell"], real, real_cells
    )
    model = rater_model.RaterModel()
    rating_files.write_study(
        *rater_model.simulate(manifest, quality, study.profile.seed, model), *targets, rating_origin.SIMULATED
    )
    study.note("rater_model", vars(model))
    display(pd.Series(vars(model), name="rater model").to_frame())
    measured = pd.DataFrame(quality, columns=reader_tables.SEGMENTS).groupby(manifest["cell"].to_numpy()).mean()
    display(measured.round(2).rename_axis("measured quality (0: like a typical real frame)"))

# %% [markdown]
# Both files are checked row by row, whatever their origin. The checks find grades outside 1–5, a grade together with a flag, a segment that a rater graded twice, an
# external mark on part of an image, and images that were never screened. Unusual but valid entries are reported below. The origin of the ratings is read from the files and
# their manifest. Simulated ratings that are given back as parameters remain labelled as simulated.

# %%
data = rating_files.open_reader_study(*targets, rating_files.expert_roles(expert_roles))
source = rating_origin.SOURCES[data.origin]
study.note("source", source)
study.note("reader_notes", data.notes)
print(f"{len(data.screening)} images screened, {len(data.kept)} kept; raters {', '.join(data.raters) or 'none'}")
print(published.RATING_SOURCES[source], *data.notes, sep="\n")

# %% [markdown]
# ## Retention and unscored images (Table 2)
#
# A segment counts as NA if every rater who judged it marked it not present or not applicable. An image counts as external circulation if every rater marked it so. An image
# with different exclusion marks belongs to neither column and is not scored.

# %%
table2 = published.contract(2, reader_tables.table2(data), source)
published.write_table(study.write("tables/table2.csv"), table2)
published.as_printed(2, table2)

# %% [markdown]
# ## Image-wise quality (Table 3)
#
# Scores are aggregated as in §2.4. The segment score of an image is the mean grade over the raters. Its overall score is the mean of the available segment scores. Mean and
# standard deviation (ddof = 1) are computed over images. The columns *n*, which the paper does not have, count the images with a score of the segment. N_images is this
# count for *Overall*.

# %%
table3 = published.contract(3, reader_tables.table3(data) | reader_tables.entered(data)[3], source)
published.write_table(study.write("tables/table3.csv"), table3)
published.as_printed(3, table3)

# %% [markdown]
# ## Figure 3
#
# From the conditions to the outcome: the images of each condition through screening and ratings, with the mean and SD of the overall score.

# %%
figure3 = flow.figure3(reader_tables.outcomes(data), source)
style.save(figure3, study.write("figures/figure3.png"), study.write("figures/figure3.pdf"))

# %% [markdown]
# ## Agreement (Table 4)
#
# ICC(2,1) and ICC(2,k): two-way random effects, absolute agreement, over the images that all raters of the set graded. For the overall region, the value of a rater and
# image is the mean of the graded segments. The first cell checks the implementation on the matrix of Shrout and Fleiss (1979), with ICC(2,1) = 0.29 and ICC(2,4) = 0.62.

# %% tags=["nbval-check-output"]
judges = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]])
check = icc2(judges)
print(f"ICC(2,1) {check.single:.2f} · ICC(2,4) {check.average:.2f}")

# %%
resamples, seed = study.profile.readers.bootstrap, study.profile.seed
complete = reader_tables.reliability(data, resamples, seed)
mixed = reader_tables.mixed_reliability(data, min(resamples, 1000), seed)
values, details = reader_tables.table4(complete, mixed)
table4 = published.contract(4, values | reader_tables.entered(data, complete)[4], source)
published.write_table(study.write("tables/table4.csv"), table4)
published.as_printed(4, table4)

# %% [markdown]
# The table contains 95 % intervals and the number of images. `f_low`–`f_high` use the F method (random raters). `boot_low`–`boot_high` use resampled images (fixed raters).
# These estimates require complete cases: an image that one rater could not grade is lost. `mixed_icc` estimates the same model by REML from all available ratings, with an
# interval from resampled images. If few ratings are missing, the two estimates agree. A difference shows that the incomplete images are not like the others. REML does not
# allow negative variances, so the estimates can also differ if agreement is very low.


# %%
def keep(name: str, table: pd.DataFrame) -> pd.DataFrame:
    """Write one table of results under readers/, with what it was computed from."""
    table.assign(source=source).to_csv(study.write(f"readers/{name}.csv"), index=False)
    return table


keep("icc", details).drop(columns=["f_value", "p_value"]).round(3)

# %% [markdown]
# ## Comparison of conditions and segments
#
# §2.4 compares conditions and segments in words. Here, the unit of analysis is the image, with one score per image, and all tests are rank tests. Kruskal–Wallis tests
# compare all conditions, with Holm's correction over the four regions. Mann–Whitney tests then compare all pairs, corrected over the pairs of a region. `rank_biserial` and
# `superiority` (the probability that an image of *a* scores higher than one of *b*) are effect sizes, which p-values are not.

# %%
comparisons = reader_comparisons.all_comparisons(data)
for name, table in comparisons.items():
    keep(name, table)
display(readable(comparisons["conditions"]))
readable(comparisons["condition_pairs"].query("region == 'overall'"))

# %% [markdown]
# Segments are compared within images that have all three: by Friedman's test, then by Wilcoxon's test for each pair.

# %%
readable(comparisons["segments"])

# %% [markdown]
# ## Raters
#
# Leniency is the difference, in points, between a rater and the average of all raters on the same images. It is estimated by a mixed model with fixed raters and random
# images from all available ratings. `p_equal` tests the hypothesis that all raters are equally lenient.

# %%
readable(comparisons["leniency"])

# %% [markdown]
# Cohen's kappa with quadratic weights for every pair of raters, over the images that both graded. `equal` is the fraction of identical grades.

# %%
readable(comparisons["kappa"])

# %% [markdown]
# ## Figure 4
#
# a individual grades · b image-wise scores · c their means · d raters · e amount of real data of a condition against the quality of its images ([of the phantom
# run](../figures/figure4.png)).

# %%
richness = None
if study.has("arterial.parquet"):
    arterial = pd.read_parquet(study.read("arterial.parquet"), columns=["cell"])
    richness = reader_tables.richness(data, arterial["cell"].value_counts())
parts = dict(
    shares=reader_tables.rating_shares(data),
    scores=reader_tables.image_scores(data),
    rater_means=reader_tables.rater_means(data),
    richness=richness,
    raters=data.raters,
    cells=data.cells,
    source=source,
)
figure = reader_study.figure4(**parts)
style.save(figure, study.write("figures/figure4.png"), study.write("figures/figure4.pdf"), dpi=300)
for letter, panel in reader_study.panels(**parts).items():
    style.save(panel, study.write(f"figures/figure4{letter}.png"), dpi=300)
    plt.close(panel)  # only the combined figure is shown here

# %% [markdown]
# ## Planning the next study
#
# The variation between images and between raters determines how many of both the next study needs. Notebook 31 uses these standard deviations, in points of the scale.
# `yield_share` is the fraction of generated images that could be rated.

# %%
pilot = reader_planning.pilot_table(mixed["Overall", "All raters"], source, parts["scores"], len(data.screening))
pilot.to_csv(study.write("readers/pilot.csv"), index=False)
pilot.round(2)

# %%
study.finish()
