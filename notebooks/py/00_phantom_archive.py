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
# **Purpose.** Nobody outside the hospital has the study's archive. This notebook simulates one: biplane cerebral angiography of made-up patients,
# written as ordinary multi-frame XA DICOM, raw and unsubtracted. Everything from notebook 01 on reads it as it would read a hospital's.
# All images and facts here are **simulated**; no patient was examined.
#
# **Inputs.** The profile's `archive` section and its seed.
#
# **Outputs.** `archive/` (DICOM), `archive_truth.parquet` and `archive_truth_masks.npz` (phase of every frame, artery masks: beside the archive,
# never in it), `annotations.csv` (what an expert would have written: one representative arterial frame for some of the series).
#
# **Time.** Measured and printed by the last cell.

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
# ## The plan (§2.1, §2.2)
#
# Patients, studies, series and excluded series stand in the study's proportions; sex and age follow §2.1. A biplane run is two series, one a plane. The
# plan is drawn from the seed before anything is rendered. Small archives would hold no posterior plane A series at all, so each canonical cell has a
# stated minimum (`plan.minimum_per_cell`).

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
# One tree of arteries per patient and injected vessel, seen by both planes of a run; a bolus that travels down it and lingers along the walls; capillary blush
# and veins; skull, scatter, quantum noise, slight motion, swallowing and collimation on the detector. Stopped and started again, this cell goes on with the series that are missing.

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
# The phase of a frame follows from the simulated contrast volumes in arteries, capillary bed and veins, each relative to its peak: arterial from the first
# visible filling (`bolus.VISIBLE`) until the capillary share exceeds the arterial one, venous when the veins exceed the capillary bed (`bolus.phases`).

# %%
kept = truth[truth["kind"] == "kept"]
per_series = kept.groupby("phase").size() / kept["series_instance_uid"].nunique()
per_series.round(2).rename("frames per kept series").to_frame()

# %% [markdown]
# ## What it looks like
#
# Simulated frames of the four conditions over time, subtracted for show only (notebook 01 does it by the DICOM rules), and one raw run with its artery mask.
# How near this comes to clinical frames is measured, not claimed: `python -m dsa_lib.phantom.realism --real FOLDER --picture OUT.png` curates a folder of real
# angiography and phantom runs alike, draws them side by side and prints grey, noise, vessel area by calibre, contrast and phases of both. Its last result is
# `benchmarks/phantom_realism.csv`. The phantom run's frames: [figures/phantom_conditions.png](../figures/phantom_conditions.png).

# %%
figure = draw_conditions(plan, truth, study.ws.root / "archive")
style.save(figure, study.write("figures/phantom_conditions.png"))

# %%
figure = draw_run(plan, truth, study.ws.root / "archive", study.ws.root / "archive_truth_masks.npz")
style.save(figure, study.write("figures/phantom_run.png"))

# %% [markdown]
# ## What this can and cannot say
# The archive tests every step of the method, from the DICOM header to the table, against a truth that is known. It says nothing of patients: whatever is found on it is a
# finding about simulated vessels.

# %%
for name in ("archive_truth.parquet", "archive_truth_masks.npz", "annotations.csv"):
    study.write(name)
study.finish()
