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
# # 00 · Phantom archive
#
# **Purpose.** The clinical archive of the study is not public. This notebook simulates an archive of biplane cerebral angiography. It is stored as raw, unsubtracted
# multi-frame XA DICOM. Notebook 01 and all later notebooks read it like a clinical archive. All images and metadata are **simulated**: no patient was examined.
#
# **Inputs.** The section `archive` of the profile and its seed.
#
# **Outputs.** `archive/` (DICOM). The ground truth is stored outside the archive: `archive_truth.parquet` and `archive_truth_masks.npz` contain the phase of every frame
# and the artery masks. `annotations.csv` contains one representative arterial frame for some of the series, as an expert would annotate them.
#
# **Time.** The last cell measures and prints it.

# %% tags=["parameters"]
run: str = "smoke"  # the run's folder under runs/
profile: str = "smoke"  # smoke: seconds; phantom: half an hour for the whole study; paper: the published size
overrides: dict = {}  # dotted names of the profile, e.g. {"archive.patients": 8}
workers: int = 2  # processes that render

# %%
import functools

import pandas as pd

from dsa_lib.figures import style
from dsa_lib.phantom.archive import write_archive
from dsa_lib.phantom.figures import draw_conditions, draw_run
from dsa_lib.phantom.plan import plan_archive
from dsa_lib.run.progress import track
from dsa_lib.run.session import begin

study = begin("00_phantom_archive", globals())
style.apply()

# %% [markdown]
# ## Plan (§2.1, §2.2)
#
# The numbers of patients, studies, series and excluded series have the proportions of the study. Sex and age follow §2.1. A biplane run consists of two series, one per
# plane. The plan is drawn from the seed before any image is rendered. A small archive could lack posterior plane A series, so each canonical condition has a minimum number
# of series (`plan.minimum_per_cell`).

# %%
plan = plan_archive(study.profile.archive, study.profile.seed)
people = plan.drop_duplicates("patient_id")
summary = pd.Series({
    "patients": plan["patient_id"].nunique(),
    "studies": plan["study_instance_uid"].nunique(),
    "series": len(plan),
    "excluded series": int((plan["kind"] != "kept").sum()),
    "annotated series": int(plan["annotated"].sum()),
    "women %": round(100 * (people["sex"] == "F").mean(), 1),
    "mean age": round(people["age"].mean(), 1),
})  # fmt: skip
summary.to_frame("this archive")

# %% tags=["nbval-check-output"]
print(plan.groupby(["kind", "circulation", "plane"]).size().rename("series").reset_index().to_string(index=False))

# %% [markdown]
# ## Rendering
#
# Each patient has one arterial tree per injected vessel, which both planes of a run project. The simulation models a bolus that travels through the tree and lingers along
# the vessel walls, the capillary blush, the veins, the skull, scatter, quantum noise, slight motion, swallowing and collimation. After an interruption, this cell renders
# only the missing series.

# %%
truth = write_archive(
    study.profile.archive,
    study.profile.seed,
    study.write("archive"),
    study.ws.root,
    workers=workers,
    progress=functools.partial(track, what="series"),
)

# %% [markdown]
# ## True phases
#
# The phase of a frame is computed from the simulated contrast volumes in arteries, capillary bed and veins, each relative to its peak (`bolus.phases`). The arterial phase
# lasts from the first visible filling (`bolus.VISIBLE`) until the capillary fraction exceeds the arterial fraction. The venous phase starts when the venous fraction
# exceeds the capillary fraction.

# %%
kept = truth[truth["kind"] == "kept"]
per_series = kept.groupby("phase").size() / kept["series_instance_uid"].nunique()
per_series.round(2).rename("frames per kept series").to_frame()

# %% [markdown]
# ## Example frames
#
# The first figure shows simulated frames of the four conditions over time. They are subtracted only for display: notebook 01 applies the subtraction rules of DICOM. The
# second figure shows a raw run with its artery mask.
#
# `python -m dsa_lib.phantom.realism --real FOLDER --picture OUT.png` compares the phantom with real angiography. It curates both in the same way, shows them side by side
# and prints grey levels, noise, vessel area by calibre, contrast and phases. The last result is `benchmarks/phantom_realism.csv`. Frames of the phantom run:
# [figures/phantom_conditions.png](../figures/phantom_conditions.png).

# %%
figure = draw_conditions(plan, truth, study.ws.root / "archive")
style.save(figure, study.write("figures/phantom_conditions.png"))

# %%
figure = draw_run(plan, truth, study.ws.root / "archive", study.ws.root / "archive_truth_masks.npz")
style.save(figure, study.write("figures/phantom_run.png"))

# %% [markdown]
# ## Interpretation
#
# The archive tests every step of the method, from the DICOM header to the tables, against a known ground truth. Results on it are results about simulated vessels. They say
# nothing about patients.

# %%
for name in ("archive_truth.parquet", "archive_truth_masks.npz", "annotations.csv"):
    study.write(name)
study.finish()
