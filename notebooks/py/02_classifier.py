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
# # 02 · Arterial-phase classifier
#
# **Purpose.** Find the arterial-phase frames of every series (§2.2, §4.2): a ResNet-18 is trained from scratch on series that carry one annotated
# frame each, applied to all frames, and what it finds is counted by condition (Table 1).
#
# **Reads** `frames.npy`, `frames.parquet`, `series.parquet` (notebook 01) and annotations: `annotations.csv` of the phantom archive (notebook 00), or a file
# of your own (`data_manifests/schemas/annotations.md`). The phantom's truth is read only to score.
# **Writes** `labelled.parquet` (what the annotations say), `classifier/`, `phases.parquet` (every frame), `arterial.parquet`, `classifier_metrics.csv`, `tables/table1.csv`, three figures.
#
# **Measured time**: printed by the last cell, and in the report of the run.

# %% tags=["parameters"]
run: str = "smoke"  # folder under runs/
profile: str = "smoke"  # smoke, phantom or paper
archive: str = ""  # "" is the phantom archive of notebook 00
overrides: dict = {}  # dotted profile names, e.g. {"classifier.threshold": 0.6}
annotations: str = ""  # CSV series,frame (from 0): one representative arterial frame a series; "" takes the phantom's
classifier: str = ""  # a run, or a folder, that holds a trained classifier: it is applied, and nothing is trained
from_scratch: bool = False  # True: no shipped weights, which profile phantom would go on from

# %%
import json
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import display

from dsa_lib.core import published as core_published
from dsa_lib.curation import annotations as curation_annotations
from dsa_lib.curation import cohort, filter_flow, phase
from dsa_lib.figures import flow, style
from dsa_lib.figures import phase as figures
from dsa_lib.nn import resnet, shipped, training
from dsa_lib.run.session import begin

study = begin("02_classifier", globals())
style.apply()
settings = study.profile.classifier

# %%
annotations_path = Path(annotations).expanduser() if annotations else None
if not annotations and study.archive is None and study.has("annotations.csv"):
    annotations_path = study.read("annotations.csv")
if annotations_path is None and not classifier:
    study.skip(
        "no frames of this archive are annotated and no trained classifier is named: give `annotations` or `classifier`."
    )
if why := study.skipped_upstream("frames.parquet"):
    study.skip(why)
frames = pd.read_parquet(study.read("frames.parquet"))
store = np.load(study.read("frames.npy"), mmap_mode="r")
series = pd.read_parquet(study.read("series.parquet"))
key = curation_annotations.read_key(study.ws.private("series_key.parquet"))

# %% [markdown]
# ## Labels
#
# An expert marked one representative arterial frame in each annotated series (§2.2). The paper does not say how the other frames of these series were
# labelled. The rule here starts from what an expert marks: the best filled frame, late in the arterial phase. So that phase reaches from the
# injection's arrival, a few seconds earlier, to shortly after the mark, when the capillary blush follows:
#
# - arterial: from `positive_before_s` before the mark to `positive_after_s` after it;
# - not arterial: earlier than `negative_before_s` before, or later than `negative_after_s` after it;
# - in between, where the phase changes at a moment that a mark cannot tell, frames are left out of training.
#
# All are seconds, because frame rates differ between runs. The marks name a series by its pseudonym or its series instance UID; a line that names no
# series of the archive, a frame that the series does not have, or a second mark in a series stops the notebook with the line's number.

# %%
labelled = frames.head(0).assign(label=[], offset_s=[])
if annotations_path is not None:
    marked = curation_annotations.read_annotations(annotations_path, key, series)
    labelled = curation_annotations.window_labels(frames, marked, settings)
    study.note("annotated_series", len(marked))
labelled.to_parquet(study.write("labelled.parquet"), index=False)
split = {name: labelled[labelled["split"] == name] for name in ("train", "val", "test")}
curation_annotations.counts(split) if len(labelled) else "No annotations: a trained classifier is applied."

# %% [markdown]
# What the paper leaves open are parameters, with these defaults. Two of its numbers narrow them down: precision, recall and accuracy together tell
# what share of the validation frames was arterial, and the arterial frames a series tell that a series gave several.

# %% tags=["nbval-check-output"]
reasons = {
    "classifier.positive_before_s": "from first filling to the best filled frame; later than the injection, during which the first arteries alone show",
    "classifier.positive_after_s": "the blush follows within a second; what is kept is to be arterial with high confidence (§4.2)",
    "classifier.negative_before_s": "before the contrast can have arrived; between it and positive_before_s no label is safe",
    "classifier.negative_after_s": "capillaries and veins; close to the mark, for these frames resemble arterial ones most",
    "classifier.threshold": "arterial where that is the likelier call: fewest errors; published precision and recall are nearly equal, as there",
    "classifier.median_frames": "1 judges every frame alone, as the paper; on phantoms a lone call amid others is mended",
    "classifier.contiguous": "False is the paper's; contrast passes the arteries once, so on phantoms only the longest run counts",
    "classifier.frames_per_series": "0 keeps all: §4.2 takes the most probable frames and gives no number; a fixed one would cut long runs alone",
    "curation.train_fraction": "of patients, so that nobody is in two splits; the rest after validation is test, many times the held-out 5,000 of §2.5",
    "curation.val_fraction": "enough to choose weights by; patients are better spent on training",
}  # fmt: skip
with pd.option_context("display.max_colwidth", None):
    display(core_published.left_open(reasons))

# %%
low, central, high = curation_annotations.implied_prevalence(**phase.published_scores())
paper = flow.published_counts()
print(
    f"Published scores: {central:.0%} of the validation frames were arterial (between {low:.0%} and {high:.0%} for what rounds to them)."
)
print(f"Published counts: {paper['arterial'] / paper['series kept']:.1f} arterial frames a series.")
if len(labelled):
    print(f"This run: {labelled['label'].mean():.0%} of the labelled frames are arterial, "
          f"{labelled['label'].sum() / labelled['series'].nunique():.1f} a series.")  # fmt: skip

# %% [markdown]
# ## Training
#
# ResNet-18 from scratch, input in [0, 1], random crop, horizontal flip, intensity jitter, and the binary cross-entropy of Eq. 1:
# $\mathcal{L}_\mathrm{BCE} = -\frac{1}{N}\sum_i \left[y_i \log \hat y_i + (1-y_i)\log(1-\hat y_i)\right]$.
# Patients of the training split train, those of the validation split choose the weights, those of the test split are not looked at. Augmentation
# beyond the paper's three (wider field of view, contrast, gamma, sharpness, noise) is off in `paper`; on phantoms it is what makes the network
# look at vessels instead of at the simulation's exact grey values.
#
# Profile `phantom` goes on from the trained weights that ship with the project: the figure shows their training, on other phantom patients, and the
# short stretch that this run adds. `from_scratch` trains from random weights, as `smoke` and `paper` always do.

# %%
history, start = None, None
if classifier:
    given = phase.find_classifier(classifier)
    shipped.check_given(study, given)
    model, facts = resnet.load_classifier(given, study.profile.curation)
    print(f"Applied, not trained: the classifier of {facts['trained']}.")
else:
    curation_annotations.require_enough(split["train"])
    start = shipped.start(study, from_scratch)
    model, history = phase.train(
        store, split["train"], split["val"], settings, study.profile.curation.background_grey, start, seed=study.profile.seed,
        folder=study.ws.checkpoints("classifier"),
        digest=study.digest("classifier", code=[phase, curation_annotations, training]) + curation_annotations.label_digest(split["train"], split["val"])
        + shipped.digest(start),
        precision=study.profile.precision, log_every_s=study.profile.log_every_s,
        checkpoint_every_s=study.profile.checkpoint_every_s,
    )  # fmt: skip
    facts = phase.facts(study.run, study.profile, split["train"])
resnet.save_classifier(study.write("classifier"), model, facts)
study.note("classifier", facts)

# %%
if history is not None:
    figure = figures.training(history, shipped.log("classifier") if start else None)
    style.save(figure, study.write("figures/classifier_training.png"))

# %% [markdown]
# ## All frames
#
# A frame whose probability reaches `threshold` is arterial. The paper judges every frame alone; `median_frames` and `contiguous` add that contrast passes
# the arteries once. `frames_per_series` can limit a series to its most probable frames (§4.2); by default all are kept.

# %%
phases = frames.drop(columns=["primary_angle_deg", "secondary_angle_deg"])
phases["probability"] = phase.predict(model, store, facts["input_size"])
phases["arterial"] = phase.select_arterial(phases, settings)
phases.to_parquet(study.write("phases.parquet"), index=False)
per_series = phases.groupby("series")["arterial"].sum()
print(f"{phases['arterial'].sum()} of {len(phases)} frames are arterial: median {per_series.median():g} a series, "
      f"{(per_series == 0).sum()} of {len(per_series)} series without any.")  # fmt: skip
spans = phase.arterial_spans(phases) if len(per_series) <= 5 else []
study.note("arterial_spans", spans)
print(*spans, sep="\n")

# %% [markdown]
# ## How often it is right
#
# On the phantom every frame's true phase is known: the reference is *arterial or not* on **all** frames of kept series, the difficult ones at the phase
# borders included. With annotations the labels above are a second reference, which leaves those out: the only one that a clinical archive offers.

# %%
if study.archive is None and study.has("archive_truth.parquet"):
    phases["phase"] = curation_annotations.true_phase(phases, key, pd.read_parquet(study.read("archive_truth.parquet")))
metrics = phase.score_table(phases, labelled)
metrics.to_csv(study.write("classifier_metrics.csv"), index=False)
study.note("metrics", metrics.to_dict("records"))
published = phase.published_scores()
study.note("metrics_published", published)
shown = ["reference", "split", "series", "n", "precision", "recall", "accuracy"]
display(metrics[shown].round(3) if len(metrics) else "Neither truth nor annotations: nothing to score against.")
print("Published, hold-out validation set (§2.2):", published)

# %%
if "phase" in phases:
    held_out = phases[phases["split"] == "test"]
    figure = figures.confusion(phase.confusion(held_out), "Held-out phantom patients, all frames")
    style.save(figure, study.write("figures/classifier_confusion.png"))

# %% [markdown]
# Whole series over time, one a condition where there is one, from held-out patients where there are any.

# %%
if annotations_path is not None:
    representative = set(marked.itertuples(index=False, name=None))
    phases["annotated"] = [pair in representative for pair in zip(phases["series"], phases["frame"], strict=True)]
figure = figures.strips(store, phases, phase.examples(frames, phases), settings.threshold)
style.save(figure, study.write("figures/classifier_strips.png"))

# %% [markdown]
# ## Table 1
#
# Arterial frames by circulation, plane and C-arm angle, in bins of ±5° around the canonical positions. Shares of this run are rounded so that they add up to 100 (largest remainder).

# %%
if not phases["arterial"].any():
    phase.none_arterial(study, applied_only=bool(classifier))
arterial = phase.arterial_frames(frames, phases)
arterial.to_parquet(study.write("arterial.parquet"), index=False)
table = core_published.contract(1, cohort.table1(arterial), "archive" if study.archive else "phantom")
core_published.write_table(study.write("tables/table1.csv"), table)
core_published.as_printed(1, table)

# %% [markdown]
# ## Figure 1
#
# The filter flow of notebook 01, now down to the arterial frames and their split.

# %%
counts = filter_flow.count_arterial(arterial, 0 if annotations_path is None else len(marked))
counted_in = "the archive given" if study.archive else "phantom archive (simulated)"
figure = flow.draw_flow(json.loads(study.read("flow.json").read_text()), counted_in, counts)
style.save(figure, study.write("figures/figure1.png"))

# %% [markdown]
# ## What this can and cannot say
# On the phantom the network is right or wrong about a simulated contrast agent; how it does on clinical frames only annotations of that archive can tell. Errors lie at the
# borders of the phase, where experts differ too ([those of the phantom run](../figures/classifier_confusion.png)). Table 1 counts what the network calls arterial, not what is.

# %%
study.finish()
