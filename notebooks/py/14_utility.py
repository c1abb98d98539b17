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
# # 14 · Utility
#
# **Purpose.** Are generated frames useful as training data? The paper motivates synthesis by shareable images for tasks with few annotated ones (§1, §3), but does not test
# it.
#
# **Inputs.** `samples/fid/` and `samples/reader/` of notebook 05, `vae/` of notebook 03, `arterial.parquet` and `labelled.parquet` of notebook 02, `frames.npy` and
# `frames.parquet` of notebook 01; for the phantom also `archive_truth.parquet`.
#
# **Outputs.** `utility.csv`; figures `utility.png`, `utility_shortcut.png`.
#
# **Time.** Many small trainings. The last cell prints the time of this run.

# %% tags=["parameters"]
run: str = "smoke"  # folder of this run under runs/
profile: str = "smoke"  # smoke, phantom or paper
archive: str = ""  # empty: the phantom archive of notebook 00
overrides: dict = {}  # e.g. {"utility.seeds": 10, "utility.synthetic_share": 0.5}

# %%
import numpy as np
import pandas as pd
from IPython.display import display

from dsa_lib.audits import utility, utility_tasks
from dsa_lib.figures import style
from dsa_lib.figures import utility as figures
from dsa_lib.run.session import begin

study = begin("14_utility", globals())
style.apply()
settings = study.profile.utility
origin = "archive" if study.archive else "phantom"
if why := study.skipped_upstream("samples/fid", "arterial.parquet"):
    study.skip(why)

# %% [markdown]
# ## Experimental design
#
# The same network is trained on real frames only and on a mixture of real and generated frames, with three fractions of the training **patients** (nested subsets, drawn
# again for every seed). It is evaluated on held-out test patients. There are two tasks: the arterial phase, with the labels of notebook 02, and circulation and plane,
# where the prompt provides the label.
#
# The arms differ only in the mixture. Initial weights, steps, batch size, augmentation and number of real patients are equal. In every batch, image $i$ of source $o$
# (real, decoded or generated) and class $c$ is drawn with probability
#
# $$w_i = \frac{1}{C}\,\frac{\pi_{o \mid c}}{n_{o,c}},$$
#
# so that all $C$ classes are drawn equally often, whatever their counts $n_{o,c}$. No score selects the weights, and the threshold is that of notebook 02. The table shows
# $\pi$ for the generated classes and for the others. `utility.synthetic_share` is $\pi$ of the generated images in *real + synthetic*. Generated images replace real draws
# and add no steps.

# %% tags=["nbval-check-output"]
print(utility.mixtures(settings.synthetic_share).to_string())

# %% [markdown]
# **Shortcut learning.** All generated frames are arterial, and all have passed through the decoder. A network can therefore learn the appearance of decoded images instead
# of the filled vessels. To measure this, the same held-out non-arterial frames are classified as acquired and after a pass through the autoencoder. The remedy is the arm
# *look matched*: it draws as many decoded non-arterial frames as generated arterial ones, so that the appearance is uninformative. *Synthetic for real* uses no real
# arterial frame. These control arms are trained at the fractions `utility.side_shares`.
#
# **Data of the generator.** The generator was trained on the arterial frames of *all* training patients, selected by a classifier with all annotations. If the run started
# from the shipped weights, it was also trained on other phantom patients (`models/phantom/card.json`). “10 % of the patients with generated frames” therefore uses
# information from many more patients. It represents few *annotated* patients among many, not few patients. `benchmarks/utility.py` separates these effects; its results are
# not part of this repository yet.

# %%
frames = np.load(study.read("frames.npy"), mmap_mode="r")
arterial = pd.read_parquet(study.read("arterial.parquet"))
library, asked = utility_tasks.library(study)
tasks, not_tried = utility_tasks.tasks_of_run(study, frames, arterial, library, asked, settings)
rows = utility.compare(
    tasks,
    settings,
    study.profile.classifier,
    background_grey=study.profile.curation.background_grey,
    seed=study.profile.seed,
    folder=study.ws.checkpoints("utility"),
    digest=study.digest("classifier", code=utility.CODE),
    precision=study.profile.precision,
    log_every_s=study.profile.log_every_s,
    checkpoint_every_s=study.profile.checkpoint_every_s,
)
rows.to_csv(study.write("utility.csv"), index=False)
print(*[f"Not tried: {why}." for why in not_tried], sep="\n")

# %% [markdown]
# ## Difference to real frames only
#
# Differences are paired: two trainings with the same seed share the patients and the initial weights. The interval is Student's over seeds. It describes the variation over
# patients drawn and initial weights. The test patients are fixed, so it does not cover other test patients or another generator. The intervals are not corrected for
# multiple comparisons. AUC was chosen in advance as the main measure; the other measures are in `utility.csv`. Results of the phantom run:
# [docs/results.md](../docs/results.md).

# %%
verdicts = utility.verdict(rows)
print(*verdicts, sep="\n")
if len(rows):
    titles = {task.name: f"{task.name}\n{len(task.test)} held-out frames against {task.against}" for task in tasks}
    level, gain = utility.levels(rows, "auc"), utility.differences(rows, "auc")
    style.save(figures.gains(level, gain, rows, "auc", titles), study.write("figures/utility.png"))
    display(utility.all_differences(rows).round(3))
    display(level.round(3))

# %% [markdown]
# ## Appearance of decoded images
#
# The figure compares false alarms on decoded frames with those on the same frames as acquired. `excess` is the increase of an arm beyond the increase for a network trained
# on real frames only. An interval above 0 means that the arm learned the appearance of decoded images.

# %%
looks = utility.shortcut_table(rows)
if len(looks):
    count = len(tasks[0].decoys[0])
    style.save(figures.shortcut(looks, count, origin), study.write("figures/utility_shortcut.png"))
    display(looks.round(3))

# %% [markdown]
# ## Interpretation
#
# A few seeds can detect only a large gain or loss. If none is detected, this does not prove that there is none. The networks are small and the tasks easy. Harder tasks are
# not tested. For the phantom archive, the results describe simulated angiograms, not clinical ones.

# %%
study.note("utility", [*verdicts, *(f"Not tried: {why}." for why in not_tried)])
study.finish()
