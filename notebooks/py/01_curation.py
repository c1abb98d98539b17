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
# **Purpose.** From an archive of X-ray angiography files to the frames of the study (§2.1–2.2): subtract, find plane, angles and circulation, leave out
# what does not belong, split by patient. The archive is the phantom's of notebook 00 or a folder of your own; the code is the same.
#
# **Reads** a folder of DICOM files, any names, any depth.
# **Writes** `series.parquet` (every series, kept or not and why), `quarantine.csv` (every file that could not be read), `frames.npy` + `frames.parquet`,
# `flow.json`, Figure 1. The mapping back to the archive lies in the run's `private/` folder, which is not to be shared.
#
# **Measured time**: printed by the last cell. Stopped and started again, it goes on with the files that are not finished.

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
# Every file ends as *read* or *quarantined*, every series as *kept* or *excluded*, each with its reason. A series is one multi-frame run of one plane.
# Patients, studies, series and file names are replaced by keyed hashes.

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
# Intensities that are linear in exposure (`LIN`) are logged first, `LOG` and `DISP` are not. Then the header's mask module is followed (PS3.3 C.7.6.10):
# which frames are averaged into the mask, which frames each mask serves, by how much it is shifted, how many contrast frames are averaged, or which
# earlier frame serves in time-interval differencing. Frames that the module leaves unsubtracted are left out. Without a module a run stored subtracted is
# left as it is, and a native one takes the brightest of its first frames, since contrast medium only ever takes intensity away.
#
# What lies outside shutter and collimator counts as background; the field is squared without cutting and resized with antialiasing. One fixed window
# serves all frames of a series: `background_grey` is no contrast, and one grey level is `contrast_per_grey` of log attenuation. What was done to each
# series, with its constants, stands in `series.parquet`:

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
# Notebook 02 draws it again with the arterial frames at its foot.

# %%
figure = figures.draw_flow(flow, counted_in)
style.save(figure, study.write("figures/figure1_curation.png"))

# %% [markdown]
# What was excluded and why. Series in which no vessel, or a contradiction, was found are listed in `private/circulation_by_hand.csv`, with the words
# their acquisition was named with: fill in its last column and pass the file as the parameter `circulations`, or complete the vocabulary, and run again.

# %%
excluded = series[~series["kept"]]
excluded.groupby(["reason", "matched_term"]).size().rename("series").reset_index() if len(
    excluded
) else "nothing excluded"

# %% [markdown]
# One unsubtracted frame for each reason. Shown for the phantom archive alone: what was excluded from a real one has not been looked at for burned-in text.

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
# Circulation follows from German and English vessel names in series description, protocol and body part, all of which must agree. Plane follows from
# `ImageType`, else from the C-arm angle.

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
# The paper speaks of held-out validation data and gives no fractions. Here patients, never frames or series, are divided into training, validation and test; of many seeded
# allocations the one is taken that has every cell of Table 1 in training and test, as far as there are patients enough, with series counts nearest
# the fractions. An archive of one or two patients is all test: it can be looked at and classified, and nothing can be trained on it.

# %%
if flow["split_note"]:
    print(flow["split_note"])
cells = kept.assign(cell=[cohort.cell_of(row) for row in kept.itertuples()])
pd.crosstab(cells["split"], cells["cell"], margins=True, margins_name="series").join(
    kept.groupby("split")[["patient"]].nunique().rename(columns={"patient": "patients"})
)

# %% [markdown]
# The books balance, or the run stops here.

# %% tags=["nbval-check-output"]
print(cohort.balance(found).to_string())

# %% [markdown]
# ## What this can and cannot say
# The flow counts what the rules leave out, not what a person would have left out: whether a header tells the truth about its images only a look at them can say. The paper's counts and those of the phantom
# run stand side by side in [Figure 1](../figures/figure1.png), which notebook 02 completes; whether one set of rules can give all of the paper's counts is asked in notebook 31.

# %%
study.finish()
