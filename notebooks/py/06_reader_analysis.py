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
# **Purpose.** The reader study (§2.4): who kept which image, how the readers graded the vessels, and how well they agree.
# Tables 2, 3 and 4 and Figure 4 a–e.
#
# **Inputs.** `samples/reader/` of notebook 05, the arterial frames of notebook 02 (Figure 4e); or, given as parameters,
# `screening.csv` and `ratings.csv` of real readers.
#
# **Outputs.** `readers/screening.csv`, `readers/ratings.csv` and the manifest of their origin; `tables/table2.csv` … `table4.csv`; `readers/icc.csv`,
# `conditions.csv`, `condition_pairs.csv`, `segments.csv`, `leniency.csv`, `kappa.csv`, `pilot.csv`;
# `figures/figure4.png`, `figure4.pdf` and the panels.
#
# Without reader files the ratings come from a model of readers with stated parameters. All that is made from them is named *simulated ratings*: it shows
# that the analysis works, and says nothing about what clinicians would answer.
#
# **Time.** Seconds in every profile; the closing cell states it.

# %% tags=["parameters"]
run: str = "smoke"  # folder of this run under runs/
profile: str = "smoke"  # smoke, phantom or paper
archive: str = ""  # taken by every notebook from 01 on; this one needs only what they wrote
overrides: dict = {}  # e.g. {"readers.bootstrap": 10000}
screening: str = ""  # path of real readers' screening.csv; empty: simulated
ratings: str = ""  # path of real readers' ratings.csv; goes together with `screening`
expert_roles: str = (
    "NR,NS"  # roles that are the domain experts of Table 4 (the paper: neuroradiologists and the neurosurgeon)
)

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import display

from dsa_lib.core import published
from dsa_lib.core.images import read_images
from dsa_lib.figures import reader_study, style
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
# A senior reader first keeps or rejects each image. Every kept image then gets, from each rater and for each of three
# arterial segments, a grade from 1 (very poor) to 5 (excellent), or a mark that there is nothing to grade: *not present*,
# *not applicable*, or *external circulation* for the whole image.
#
# The simulated readers see what can be measured in an image: how far its vessels, at three calibres, lie from those of real
# arterial frames of the same condition. The rest (effects of image, segment and reader, noise, flags) is drawn from
# distributions whose parameters are printed here; none is fitted to the published tables.

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
# Both files are now checked row by row, whoever wrote them: grades outside 1–5, a grade together with a flag, a segment graded twice by one rater, an external
# mark on part of an image, images that were never screened. What is unusual but defined is said in a sentence below.
# Where the ratings come from is read from the files and their manifest: simulated ratings that are given back as parameters remain simulated ones.

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
# A segment counts as NA when every rater who judged it marked it not present or not applicable; an image as external circulation when every rater marked it
# so. An image on which raters chose different exclusions is in neither column, yet not scored.

# %%
table2 = published.contract(2, reader_tables.table2(data), source)
published.write_table(study.write("tables/table2.csv"), table2)
published.as_printed(2, table2)

# %% [markdown]
# ## Image-wise quality (Table 3)
#
# Aggregation of §2.4: the segment score of an image is the mean over raters of what they graded there; its overall score
# is the mean of the segment scores that exist. Mean and standard deviation (ddof = 1) are over images; the columns *n*,
# which the paper does not have, count the images in which the segment has a score (N_images is that number for *Overall*).

# %%
table3 = published.contract(3, reader_tables.table3(data) | reader_tables.entered(data)[3], source)
published.write_table(study.write("tables/table3.csv"), table3)
published.as_printed(3, table3)

# %% [markdown]
# ## Agreement (Table 4)
#
# ICC(2,1) and ICC(2,k): two-way random effects, absolute agreement, over the images that all raters of the set graded. The
# overall region takes, for each rater and image, the mean of the segments that rater graded. First a check on the matrix
# that Shrout and Fleiss published in 1979 with ICC(2,1) = 0.29 and ICC(2,4) = 0.62.

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
# With 95 % intervals: `f_low`–`f_high` by the F method (raters random), `boot_low`–`boot_high` by resampling images (raters
# as they are), and the number of images that entered. An image that one rater could not grade is lost to these complete
# cases. `mixed_icc` is the estimate of the same model, images and raters random, from every available rating (REML), with an
# interval by resampling images. Where few ratings are missing the two agree; where they part, the images left out were not
# like the others. REML keeps variances from falling below zero, so it may also differ where agreement is very low.


# %%
def keep(name: str, table: pd.DataFrame) -> pd.DataFrame:
    """Write one table of results under readers/, with what it was computed from."""
    table.assign(source=source).to_csv(study.write(f"readers/{name}.csv"), index=False)
    return table


keep("icc", details).drop(columns=["f_value", "p_value"]).round(3)

# %% [markdown]
# ## Do conditions differ, and segments?
#
# §2.4 compares conditions and segments in words. Here the images are the units, one score an image, and tests go by ranks.
# Kruskal–Wallis over all conditions, with Holm's correction over the four regions; then every pair by Mann–Whitney, corrected
# over the pairs of a region. `rank_biserial` and `superiority` (the chance that an image of *a* scores higher than one of
# *b*) say how large a difference is, which p values do not.

# %%
comparisons = reader_comparisons.all_comparisons(data)
for name, table in comparisons.items():
    keep(name, table)
display(readable(comparisons["conditions"]))
readable(comparisons["condition_pairs"].query("region == 'overall'"))

# %% [markdown]
# Segments are compared within images that have all three: Friedman's test, then Wilcoxon's of each pair.

# %%
readable(comparisons["segments"])

# %% [markdown]
# ## Raters
#
# Leniency: by how many points a rater lies above (+) or below (−) the average of all raters on the same images, from a mixed
# model with raters fixed and images random over all available ratings. `p_equal` tests whether the raters are alike.

# %%
readable(comparisons["leniency"])

# %% [markdown]
# Every pair of raters by Cohen's kappa with quadratic weights, over the images that both graded; `equal`: share of identical grades.

# %%
readable(comparisons["kappa"])

# %% [markdown]
# ## Figure 4
#
# a raw grades · b image-wise scores · c their means · d raters · e real data of a condition, against the quality of its images ([of the phantom run](../figures/figure4.png)).

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
for suffix in ("png", "pdf"):
    style.save(figure, study.write(f"figures/figure4.{suffix}"), dpi=300)
for letter, panel in reader_study.panels(**parts).items():
    style.save(panel, study.write(f"figures/figure4{letter}.png"), dpi=300)
    plt.close(panel)  # only the combined figure is shown here

# %% [markdown]
# ## For a next study
#
# How much images and raters differ decides how many of both a next study takes; notebook 31 plans with these standard deviations, in points of the scale.
# `yield_share` is the share of generated images that could be rated.

# %%
pilot = reader_planning.pilot_table(mixed["Overall", "All raters"], source, parts["scores"], len(data.screening))
pilot.to_csv(study.write("readers/pilot.csv"), index=False)
pilot.round(2)

# %%
study.finish()
