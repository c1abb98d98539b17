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
# # 01 · Curation
#
# **Purpose.** Convert an archive of X-ray angiography files into the frames of the study (§2.1–2.2): subtract the mask, determine plane, angles and circulation, exclude
# unsuitable series, and split by patient. The archive is the phantom archive of notebook 00 or your own folder. The code is the same for both.
#
# **Reads** a folder of DICOM files. File names and folder depth do not matter.
#
# **Writes** `series.parquet` (all series, with the reason for each exclusion), `quarantine.csv` (unreadable files), `frames.npy`, `frames.parquet`, `flow.json` and Figure
# 1. The mapping to the archive is stored in the folder `private/` of the run. Never share it.
#
# **Measured time**: printed by the last cell. After an interruption, only unfinished files are processed.

# %% tags=["parameters"]
run: str = "smoke"  # folder under runs/
profile: str = "smoke"  # smoke, phantom or paper
archive: str = ""  # folder of DICOM files; "" is the phantom archive of notebook 00
overrides: dict = {}  # dotted profile names, e.g. {"curation.image_size": 256}
workers: int = 0  # processes that read; 0 takes the profile's number
vessel_terms: str = ""  # CSV of vessel names in place of data_manifests/vessel_terms.csv
most_files: int = 0  # only the first so many files of the archive, in the order of their paths; 0 takes all
circulations: str = ""  # an expert's answers: private/circulation_by_hand.csv of a run, its last column filled in

# %%
from pathlib import Path

import pandas as pd
from IPython.display import display

from dsa_lib.curation import cohort
from dsa_lib.curation.circulation import VOCABULARY
from dsa_lib.dicom import series as dicom_series
from dsa_lib.figures import flow as figures
from dsa_lib.figures import style
from dsa_lib.run.session import begin

study = begin("01_curation", globals())
style.apply()
folder = study.archive or study.read("archive")
counted_in = "the archive given" if study.archive else "phantom archive (simulated)"

# %% [markdown]
# ## Reading
#
# Every file is either read or quarantined. Every series is either kept or excluded, with a reason. A series is one multi-frame run of one plane. Patients, studies, series
# and file names are replaced by keyed hashes.

# %%
for name in ("series.parquet", "quarantine.csv", "frames.npy", "frames.parquet", "flow.json"):
    study.write(name)
found = cohort.curate(
    folder,
    study.ws,
    study.profile.curation,
    study.profile.seed,
    workers=workers,
    vocabulary=Path(vessel_terms).expanduser() if vessel_terms else VOCABULARY,
    by_hand=Path(circulations).expanduser() if circulations else None,
    simulated=study.archive is None,
    most_files=most_files,
)
series, flow, kept = found.series, found.flow, found.series[found.series["kept"]]
study.note("flow", flow)
print(f"{flow['series kept']} of {flow['series read']} series kept, {flow['frames']} frames.")
if flow.get("files left out"):
    print(f"{flow['files left out']} files of the archive were not read (most_files={most_files}).")

# %% [markdown]
# ## Subtraction
#
# Pixel intensities that are linear in exposure (`LIN`) are converted to logarithms. `LOG` and `DISP` are used as stored. The DICOM mask module (PS3.3 C.7.6.10) then
# determines the mask: which frames are averaged, to which frames the mask applies, its sub-pixel shift, the number of averaged contrast frames, and the reference frame of
# time-interval differencing. Frames that the module leaves unsubtracted are excluded.
#
# Without a mask module, a run that is stored subtracted is not changed. For an unsubtracted run, the mask is the brightest of its first frames, because contrast medium
# only reduces the intensity.
#
# Pixels outside the shutter and collimator count as background. The field is padded to a square and resized with antialiasing. One grey-level window applies to all frames
# of a series: `background_grey` means no contrast, and one grey level corresponds to `contrast_per_grey` of log attenuation. `series.parquet` records the processing of
# each series and its constants:

# %%
done = ["relationship", "value_mapping", "mask_source", "mask_frames", "contrast_per_grey"]
kept.groupby(done).size().rename("series").reset_index()

# %%
store, frames = cohort.open_frames(study.ws)
shown = cohort.example_series(kept)
one = frames[frames["series"] == shown["series"]]
fullest = cohort.filled_frame(store[one["frame_id"]])
file = found.key.set_index("series").loc[shown["series"], "file"]
units = "display value" if shown["relationship"] == "DISP" else "log intensity"
planes = dicom_series.example(cohort.path_of(folder, file), int(one["frame"].iloc[fullest]))
figure = figures.draw_subtraction(planes, store[one["frame_id"].iloc[fullest]], units)
style.save(figure, study.write("figures/curation_subtraction.png"))

# %%
title = f"{shown['series']}: {shown['circulation']} circulation, plane {shown['plane']}, {counted_in}"
figure = figures.draw_series(store[one["frame_id"]], one["time_s"].to_numpy(), title)
style.save(figure, study.write("figures/curation_series.png"))

# %% [markdown]
# ## Filter flow (§2.2, Figure 1)
#
# Notebook 02 draws the figure again and adds the arterial frames.

# %%
figure = figures.draw_flow(flow, counted_in)
style.save(figure, study.write("figures/figure1_curation.png"))

# %% [markdown]
# The table lists the excluded series by reason. Series without a recognised vessel name, or with contradictory names, are listed in `private/circulation_by_hand.csv` with
# the text of their headers. Fill in the last column and pass the file as the parameter `circulations`, or extend the vocabulary, and run the notebook again.

# %%
excluded = series[~series["kept"]]
excluded.groupby(["reason", "matched_term"]).size().rename("series").reset_index() if len(
    excluded
) else "nothing excluded"

# %% [markdown]
# One unsubtracted frame for each reason. The figure is drawn only for the phantom archive, because the excluded series of a real archive have not been checked for
# burned-in text.

# %%
if study.archive is None and len(excluded):
    counts = excluded["reason"].value_counts()
    examples = excluded.drop_duplicates("reason").set_index("series")
    files = found.key.set_index("series")["file"]
    planes = {
        row.reason: dicom_series.unsubtracted(cohort.path_of(folder, files[row.Index]), row.frames // 2)
        for row in examples.itertuples()
    }
    figure = figures.draw_excluded(planes, counts, f"excluded series, {counted_in}")
    style.save(figure, study.write("figures/curation_excluded.png"))

# %%
display(found.quarantine if len(found.quarantine) else "nothing quarantined")
print("Paths of quarantined files: private/quarantine_files.csv in the run's folder.")

# %% [markdown]
# ## Circulation and plane
#
# The circulation is determined from German and English vessel names in the series description, the protocol name and the body part. All names must agree. The plane is
# determined from `ImageType`, or else from the C-arm angle.

# %%
kept.groupby(["circulation", "plane", "plane_source"]).agg(
    series=("series", "size"), frames=("frames", "sum")
).reset_index()

# %% [markdown]
# ## Cohort (§2.1)

# %%
facts = cohort.describe(series)
study.note("cohort", facts)
pd.Series(facts, name=counted_in).to_frame()

# %% [markdown]
# ## Split
#
# The paper uses held-out validation data but does not state the fractions. Here, patients are divided into training, validation and test sets, so that all frames of a
# patient belong to one set. Many random allocations are drawn from the seed. The selected allocation contains every condition of Table 1 in the training and test sets, if
# there are enough patients, and has series counts closest to the required fractions. In an archive of one or two patients, all patients belong to the test set. Such an
# archive can be curated and classified, but no model can be trained on it.

# %%
if flow["split_note"]:
    print(flow["split_note"])
cells = kept.assign(cell=[cohort.cell_of(row) for row in kept.itertuples()])
pd.crosstab(cells["split"], cells["cell"], margins=True, margins_name="series").join(
    kept.groupby("split")[["patient"]].nunique().rename(columns={"patient": "patients"})
)

# %% [markdown]
# The counts must add up, or the run stops here.

# %% tags=["nbval-check-output"]
print(cohort.balance(found).to_string())

# %% [markdown]
# ## Interpretation
#
# The flow counts the series that the rules exclude. Whether a header describes its images correctly can only be checked by looking at them. [Figure
# 1](../figures/figure1.png), which notebook 02 completes, shows the counts of the paper and of the phantom run. Notebook 31 tests whether a single set of rules can produce
# all counts of the paper.

# %%
study.finish()
