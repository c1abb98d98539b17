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
# **Purpose.** Find the arterial frames of every series (§2.2, §4.2). A ResNet-18 is trained from scratch on series with one annotated frame each and applied to all frames. Table 1 counts
# the arterial frames by condition.
#
# **Reads** `frames.npy`, `frames.parquet`, `series.parquet` (notebook 01) and annotations: `annotations.csv` of the phantom archive (notebook 00), or your own file
# (`data_manifests/schemas/annotations.md`). The ground truth of the phantom is used only for evaluation.
#
# **Writes** `labelled.parquet` (labels derived from the annotations), `classifier/`, `phases.parquet` (all frames), `arterial.parquet`, `classifier_metrics.csv`, `tables/table1.csv` and
# three figures.
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
# An expert marked one representative arterial frame in each annotated series (§2.2). The paper does not state how the other frames of these series were labelled. Experts mark a
# well-filled frame, which occurs late in the arterial phase. The following rule labels the other frames relative to the mark:
#
# - arterial: from `positive_before_s` before the mark to `positive_after_s` after it;
# - not arterial: more than `negative_before_s` before it, or more than `negative_after_s` after it;
# - the frames in between are not used for training, because the mark does not determine when the phase changes.
#
# The limits are given in seconds, because frame rates differ between runs. Annotations identify a series by its pseudonym or its series instance UID. The notebook stops with the line
# number if a line refers to an unknown series or frame, or if a series is marked twice.

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
# The choices that the paper leaves open are parameters with the following defaults. Two published results constrain them. Precision, recall and accuracy together determine the fraction
# of arterial frames in the validation set. The number of arterial frames per series shows that a series contributed several frames.

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
# The ResNet-18 is trained from scratch on inputs in [0, 1], with random crops, horizontal flips, intensity jitter and the binary cross-entropy of Eq. 1: $\mathcal{L}_\mathrm{BCE} =
# -\frac{1}{N}\sum_i \left[y_i \log \hat y_i + (1-y_i)\log(1-\hat y_i)\right]$.
#
# The network is trained on the training patients. The validation patients select the weights, and the test patients are not used. Profile `paper` uses only the three augmentations of the
# paper. The phantom profiles add field of view, contrast, gamma, sharpness and noise, so that the network learns vessels rather than the exact grey levels of the simulation.
#
# Profile `phantom` continues the training from the shipped weights. The figure shows their training on other phantom patients, followed by the steps of this run. With `from_scratch`, and
# always in `smoke` and `paper`, training starts from random weights.

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
# A frame is arterial if its probability reaches `threshold`. The paper classifies each frame independently. `median_frames` and `contiguous` use the fact that contrast passes through the
# arteries once. `frames_per_series` can limit a series to its most probable frames (§4.2). By default, all arterial frames are kept.

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
# ## Accuracy
# The true phase of every phantom frame is known. The reference on the phantom is therefore *arterial or not* for **all** frames of the kept series, including difficult frames at the
# phase boundaries. The labels derived from the annotations are a second reference, which excludes those frames. A clinical archive offers only the second one.

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
# Complete series over time, one per condition if available, from held-out patients where possible.

# %%
if annotations_path is not None:
    representative = set(marked.itertuples(index=False, name=None))
    phases["annotated"] = [pair in representative for pair in zip(phases["series"], phases["frame"], strict=True)]
figure = figures.strips(store, phases, phase.examples(frames, phases), settings.threshold)
style.save(figure, study.write("figures/classifier_strips.png"))

# %% [markdown]
# ## Table 1
# Arterial frames by circulation, plane and C-arm angle, in bins of ±5° around the canonical positions.
# The percentages of this run are rounded so that they add up to 100 (largest remainder).

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
# The filter flow of notebook 01 with the arterial frames and their split.

# %%
counts = filter_flow.count_arterial(arterial, 0 if annotations_path is None else len(marked))
counted_in = "the archive given" if study.archive else "phantom archive (simulated)"
figure = flow.draw_flow(json.loads(study.read("flow.json").read_text()), counted_in, counts)
style.save(figure, study.write("figures/figure1.png"), study.write("figures/figure1.pdf"))

# %% [markdown]
# ## Interpretation
# Results on the phantom refer to simulated contrast medium. The accuracy on clinical frames can only be measured with annotations of that archive. Errors concentrate at the phase
# boundaries, where experts also disagree ([confusion matrix of the phantom run](../figures/classifier_confusion.png)). Table 1 counts the frames that the network classifies as arterial.

# %%
study.finish()
