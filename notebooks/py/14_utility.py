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
# **Purpose.** Are generated frames of use as training data? The paper's motivation: images that can be shared would help where annotated ones are few (§1, §3). It
# does not test that.
#
# **Inputs.** `samples/fid/` and `samples/reader/` of notebook 05, `vae/` of notebook 03, `arterial.parquet` and `labelled.parquet` of notebook 02, `frames.npy` and
# `frames.parquet` of notebook 01; on the phantom `archive_truth.parquet`.
#
# **Outputs.** `utility.csv`; figures `utility.png`, `utility_shortcut.png`.
#
# **Time.** Many small trainings; the closing cell states the time of this run.

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
# ## What is compared
#
# The same network is trained on real frames alone and on real frames together with generated ones, at three shares of the training **patients** (nested subsets,
# drawn anew for every seed), and scored on held-out test patients. Two tasks: the arterial phase, with the labels of notebook 02, and circulation and plane, where
# the sentence is the label.
#
# What the arms differ in is the mixture alone. Weights at the start, steps, batch size, augmentation and number of real patients are the same, and in every batch
# image $i$ of source $o$ (real, decoded or generated) and class $c$ is drawn with probability
#
# $$w_i = \frac{1}{C}\,\frac{\pi_{o \mid c}}{n_{o,c}},$$
#
# so that all $C$ classes are drawn equally often, whatever their counts $n_{o,c}$. No weights are chosen by a score, and the threshold is that of notebook 02.
# The table has $\pi$ for the classes that were generated and for the others; `utility.synthetic_share` is $\pi$ of generated images in *real + synthetic*. They take
# the place of real draws and add no steps.

# %% tags=["nbval-check-output"]
print(utility.mixtures(settings.synthetic_share).to_string())

# %% [markdown]
# **A shortcut.** All generated frames are arterial, and all have gone through the decoder. *Looks decoded* is therefore a sign of the arterial phase that a network
# can learn in the place of the filled vessels. It is measured: the same held-out non-arterial frames are judged as acquired and after a pass through the autoencoder.
# The remedy is the arm *look matched*: as many non-arterial frames are drawn in decoded form as arterial ones are generated, so that the decoder's look says nothing of
# the class. *Synthetic for real* draws no real arterial frame at all. These control arms are trained at the shares `utility.side_shares`.
#
# **What the generator knows.** It was trained on the arterial frames of *all* training patients, which a classifier with all annotations had picked, and where this run went
# on from the weights that ship with the project, on those of further phantom patients (`models/phantom/card.json`). "10 % of the patients with generated frames"
# therefore draws on many more patients than 10 %: it is the case of few *annotated* patients and many others, not that of few patients.
# `benchmarks/utility.py` takes apart how much of a gain is owed to that; no result of it is kept yet.

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
# ## Gain or loss
#
# Differences are paired: two trainings that share the seed share the patients drawn and the initial weights. The interval is Student's over seeds. It says how far
# another draw of patients and weights would move the difference; the held-out patients stay the same throughout, so it does not speak for other
# patients, nor for another generator. Intervals are not corrected for their number. AUC was chosen beforehand as the measure of the sentences; the other measures
# stand in `utility.csv`. What the phantom run gave stands in [docs/results.md](../docs/results.md).

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
# ## The decoder's look
#
# False alarms on decoded frames, against those on the same frames as acquired. `excess` is what an arm adds to the rise that decoding causes in a network
# that saw real frames alone; an interval above 0 means that the arm learnt the decoder's look.

# %%
looks = utility.shortcut_table(rows)
if len(looks):
    count = len(tasks[0].decoys[0])
    style.save(figures.shortcut(looks, count, origin), study.write("figures/utility_shortcut.png"))
    display(looks.round(3))

# %% [markdown]
# ## What these numbers can and cannot say
#
# Few seeds can show a large gain or loss; that none is shown is no proof that there is none. The networks here are small and their tasks easy: what generated frames
# give to a harder task is not answered. On the phantom archive these numbers are about simulated angiograms, not clinical ones.

# %%
study.note("utility", [*verdicts, *(f"Not tried: {why}." for why in not_tried)])
study.finish()
