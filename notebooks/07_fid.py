# ---
# jupyter:
#   jupytext:
#     cell_metadata_filter: tags,-all
#     formats: ipynb,py:percent
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
# # 07 · Fidelity
#
# **Purpose.** How near the generated frames are to real ones as a distribution (§2.5, Table 5), overall and for each condition; whether they show
# the condition that was asked for; whether they lie suspiciously near to training frames; and whether they are of use as training data.
#
# **Inputs.** `samples/fid/` and `samples/reader/` of notebook 05, `arterial.parquet`, `labelled.parquet` and `classifier/` of notebook 02, `frames.npy` of notebook 01, `vae/` of notebook 03.
#
# **Outputs.** `fidelity.csv`, `faithfulness.csv`, `privacy.csv`, `utility.csv`, `judge/`, `tables/table5.csv`, `figures/fidelity.png`, `figures/faithfulness.png`, `figures/privacy.png`, `figures/utility.png`, `figures/utility_shortcut.png`.
#
# "Real" means here: frames of the archive that was given, as against generated. On the phantom archive those are simulated themselves.
#
# **Time.** The judge's training takes most of it; the closing cell states the time of this run.

# %% tags=["parameters"]
run: str = "smoke"  # folder of this run under runs/
profile: str = "smoke"  # smoke, phantom or paper
archive: str = ""  # empty: the phantom archive of notebook 00
overrides: dict = {}  # e.g. {"fidelity.reference_mix": "as-is", "fidelity.features": "inception"}

# %%
import numpy as np
import pandas as pd
from IPython.display import display

from dsa_lib import (
    autoencoder,
    faithfulness,
    features,
    fidelity,
    images,
    phase,
    privacy,
    tables,
    training,
    utility,
    utility_tasks,
)
from dsa_lib.conditions import CELLS
from dsa_lib.figures import fidelity as figures
from dsa_lib.figures import style
from dsa_lib.figures import utility as utility_figures
from dsa_lib.session import begin

study = begin("07_fid", globals())
style.apply()
settings = study.profile.fidelity
origin = "archive" if study.archive else "phantom"

# %% [markdown]
# ## What is compared with what
#
# Generated frames of the four canonical conditions against real arterial frames of held-out patients: no network of this run was trained on them
# (validation patients only chose which of its weights were kept). §2.5 draws 5,000 such frames, "approximately matching" the distribution over conditions, which
# can be read in two ways; `fidelity.reference_mix` names them: `as-is` (the archive's own mix; profile `paper`) or `balanced` (equally many a condition,
# like the generated set; a small archive's scarce conditions then do not read as a difference of the images). A condition with fewer frames gives all it
# has, and the counts are shown.

# %%
if why := study.skipped_upstream("samples/fid", "arterial.parquet", "classifier"):
    study.skip(why)
folder = study.read("samples/fid")
manifest = pd.read_parquet(folder / "manifest.parquet")
arterial = pd.read_parquet(study.read("arterial.parquet"))
frames = np.load(study.read("frames.npy"), mmap_mode="r")
part = {split: arterial[arterial["split"] == split].reset_index(drop=True) for split in ("train", "val", "test")}
generated = images.read_images(folder, manifest["file"].tolist())
held_out = pd.concat([part["val"], part["test"]], ignore_index=True)
fidelity.check_sets(manifest["cell"], held_out, part["train"])
pd.DataFrame(
    {
        "generated": manifest["cell"].value_counts(),
        **{f"{origin}, {split}": rows["cell"].value_counts() for split, rows in part.items()},
    }
).reindex([*CELLS, "Others"]).fillna(0).astype(int)

# %% [markdown]
# ## Features
#
# The paper takes pool3 of an Inception-V3 trained on photographs (`inception`). Profiles `smoke` and `phantom` never download weights; they take the run's own
# phase network (`phase-network`), and the distance is then called *DSA-feature distance*. It must not be read as an FID: other features, other scale.
#
# Its vector is the channel means of the network's first three stages (calibre, contrast, texture, local branching), each stage scaled so that the mean
# channel variance of real training frames is 1. The last stage is left out: alone it answers to the gross layout of a frame and little to contrast or
# noise, and it would more than double the dimension, whose ratio to the number of images sets the bias of a Fréchet distance. The network sees frames
# at its own input size; detail finer than that is not judged.

# %%
_, facts = phase.load_classifier(study.read("classifier"))
train_rows = part["train"]["frame_id"].to_numpy()
some = np.random.default_rng(study.profile.seed).permutation(train_rows)[:2048]
extractor = features.open_extractor(
    settings.features,
    classifier=study.read("classifier"),
    size=facts["input_size"],
    batch_size=settings.batch_size,
    training_frames=frames[np.sort(some)],
)
sets = {"generated": fidelity.ImageSet(extractor(generated, what="generated"), manifest["cell"].to_numpy())}
for name, rows in (("training", part["train"]), ("held-out", held_out)):
    values = extractor(frames, rows["frame_id"].to_numpy(), f"{origin} {name}")
    sets[name] = fidelity.ImageSet(values, rows["cell"].to_numpy(), rows["patient"].to_numpy())
print(f"{extractor.name}: {values.shape[1]} values an image, reported as {extractor.distance}")

# %% [markdown]
# ## Distances
#
# $$d^2 = \lVert \mu_r - \mu_g \rVert^2 + \operatorname{tr}\bigl(\Sigma_r + \Sigma_g - 2(\Sigma_r \Sigma_g)^{1/2}\bigr)$$
#
# in float64, as the median over draws of the reference. Beside it the *floor*: real frames of the training patients in the place of generated ones, in the
# same numbers. A generator that reproduced its training patients perfectly would score the floor, not zero, because patients differ and because
# a Fréchet distance of finite samples is biased upwards. Where a set is no larger than the feature dimension (`rank_deficient`, * in the figure)
# only the comparison with the floor means anything. With `as-is`, *generated* is all generated frames, as in §2.5, and *generated, sizes of the floor* as
# many of them as the floor has: that row is to be read beside it. The kernel distance (KID's unbiased estimator) does not have that bias.
# Precision and density say how plausible the generated frames are, recall and coverage how much of the real variety they reach.

# %%
results = fidelity.evaluate(sets["generated"], sets["held-out"], sets["training"], settings, study.profile.seed)
results.insert(0, "measure", extractor.distance)
results.insert(1, "features", extractor.name)
results.to_csv(study.write("fidelity.csv"), index=False)
display(results.drop(columns=["measure", "features", "dimension", "repeats"]).round(3))
style.save(figures.distances(results, extractor.distance, origin), study.write("figures/fidelity.png"))

# %% [markdown]
# ## Table 5
#
# The published rows are context: §2.5 says itself that they are not comparable across works. A distance in features of the run's own networks has a row and a
# column of its own name, and the cell *Ours, FID* stays empty unless Inception features were used.

# %%
table5 = tables.contract(5, fidelity.table5_cells(results, extractor.name, extractor.distance), origin)
tables.write_table(study.write("tables/table5.csv"), table5)
display(tables.side_by_side(table5).round(2))

# %% tags=["nbval-check-output"]
print(table5.loc[table5["published"].notna(), ["row", "column", "published"]].to_string(index=False))

# %% [markdown]
# ## Does the image show what was asked for?
#
# A judge, independent of the autoencoder and the diffusion model, is trained here on real training frames to name circulation and plane; oblique frames count
# too. It sees no flips, which would turn planes and sides, but blurred, noisy, rescaled and differently contrasted copies, so that decoded images, smoother
# than acquired ones, are judged by their anatomy. Validation patients choose its weights, so its own error is measured on test patients alone.

# %%
label = {split: faithfulness.classes(rows) for split, rows in part.items()}
known = {
    split: (part[split]["frame_id"].to_numpy()[label[split] >= 0], label[split][label[split] >= 0]) for split in part
}
no_judge = faithfulness.cannot_judge(known["train"][1])
if no_judge is None:
    model, history = faithfulness.train_judge(
        frames,
        *known["train"],
        settings,
        seed=study.profile.seed,
        folder=study.ws.checkpoints("judge"),
        digest=study.digest("fidelity", code=[faithfulness, phase, training]),
        validation=known["val"],
        precision=study.profile.precision,
        log_every_s=study.profile.log_every_s,
        checkpoint_every_s=study.profile.checkpoint_every_s,
    )
    faithfulness.save_judge(model, study.write("judge"))

# %% [markdown]
# The same judge answers for real frames of test patients (its own error) and for their autoencoder reconstructions (what decoding alone costs). The rate on
# generated frames reads only beside those two. A high rate says that circulation and plane are right, and nothing about vessels further out.

# %%
asked = {"generated": (generated, manifest["cell"].to_numpy())}
rng = np.random.default_rng(study.profile.seed)
canonical = part["test"].iloc[fidelity.draw(part["test"]["cell"], settings.real_images, "as-is", rng)]
real = frames[canonical["frame_id"].to_numpy()]
asked["held-out"] = (real, canonical["cell"].to_numpy())
if study.has("vae"):
    vae = autoencoder.AutoencoderKL.from_pretrained(study.read("vae"))
    asked["held-out, reconstructed"] = (autoencoder.reconstruct(vae, real), canonical["cell"].to_numpy())

# %%
if no_judge is None:
    size, batch = settings.judge_size, settings.batch_size
    answers = {name: (faithfulness.judge(model, shown, size, batch), cells) for name, (shown, cells) in asked.items()}
    rates = faithfulness.rates(answers)
    matrices = {name: faithfulness.confusion(*answer) for name, answer in answers.items()}
    style.save(figures.confusions(matrices), study.write("figures/faithfulness.png"))
    display(rates.pivot(index="scope", columns="set", values="rate").loc[["overall", *CELLS], list(asked)].round(3))
    print(faithfulness.verdict(rates))
else:
    rates = faithfulness.rates({})
    print(f"Not judged: {no_judge}.")
rates.to_csv(study.write("faithfulness.csv"), index=False)

# %% [markdown]
# ## Does the model hand out its training frames?
#
# For every generated frame the nearest training frame in feature space, beside the same for held-out real frames. The paper calls its images
# privacy-preserving without a test; this is a first screening, in one feature space, and no proof of anonymity: features that average over the image can miss
# a copied detail, and being no nearer than other patients' frames is not a legal notion.

# %%
training = sets["training"].features
near = {name: privacy.nearest_neighbours(sets[name].scope("overall"), training) for name in ("generated", "held-out")}
audit = privacy.summary(near["generated"], near["held-out"])
audit.to_csv(study.write("privacy.csv"), index=False)
pairs = [
    (generated[pair.generated], frames[train_rows[pair.training]], pair.distance)
    for pair in privacy.closest_pairs(near["generated"]).itertuples()
]
style.save(
    figures.nearest(near["generated"].distance, near["held-out"].distance, pairs, origin),
    study.write("figures/privacy.png"),
)
display(audit.round(3))
print(privacy.statement(audit))

# %% [markdown]
# ## Are the images of use?
#
# The paper's motivation: images that can be shared would help where annotated ones are few (§1, §4.1). It does not test that. Here the same network is trained on
# real frames alone and on real frames together with generated ones, at three shares of the training **patients** (nested subsets, drawn anew for every seed), and
# scored on held-out test patients. Two tasks: the arterial phase, with the labels of notebook 02, and circulation and plane, where the sentence is the label.
#
# What the arms differ in is the mixture alone. Weights at the start, steps, batch size, augmentation and number of real patients are the same, and in every batch
# image $i$ of source $o$ (real, decoded or generated) and class $c$ is drawn with probability
#
# $$w_i = \frac{1}{C}\,\frac{\pi_{o \mid c}}{n_{o,c}},$$
#
# so that all $C$ classes are drawn equally often, whatever their counts $n_{o,c}$. In *real + synthetic* `utility.synthetic_share` is $\pi$ of generated images in
# the classes that were generated; they take the place of real draws and add no steps. No weights are chosen by a score, and the threshold is that of notebook 02.
#
# **A shortcut.** All generated frames are arterial, and all have gone through the decoder. *Looks decoded* is therefore a sign of the arterial phase that a network
# can learn in the place of the filled vessels. It is measured: the same held-out non-arterial frames are judged as acquired and after a pass through the autoencoder.
# The remedy is the arm *look matched*: as many non-arterial frames are drawn in decoded form as arterial ones are generated, so that the decoder's look says nothing of
# the class. *Synthetic for real* draws no real arterial frame at all. These control arms are trained at the shares `utility.side_shares`.
#
# **What the generator knows.** It was trained on the arterial frames of *all* training patients, which a classifier with all annotations had picked, and where this run went
# on from the weights that ship with the project, on those of further phantom patients (`models/phantom/card.json`). "10 % of the patients with generated frames"
# therefore draws on many more patients than 10 %: it is the case of few *annotated* patients and many others, not that of few patients.
# `benchmarks/utility.py` measures how much of a gain is owed to that.

# %%
use = study.profile.utility
library, asked_cells = utility_tasks.library(study)
tasks, not_tried = utility_tasks.tasks_of_run(study, frames, arterial, library, asked_cells, use)
rows = utility.compare(
    tasks,
    use,
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
# Differences are paired: two trainings that share the seed share the patients drawn and the initial weights. The interval is Student's over seeds. It says how far
# another draw of patients and weights would move the difference; the held-out patients stay the same throughout, so it does not speak for other
# patients, nor for another generator. Intervals are not corrected for their number. AUC was chosen beforehand as the measure of the sentences; the other measures
# stand in `utility.csv`.

# %%
verdicts = utility.verdict(rows)
print(*verdicts, sep="\n")
if len(rows):
    titles = {task.name: f"{task.name}\n{len(task.test)} held-out frames against {task.against}" for task in tasks}
    level, gain = utility.levels(rows, "auc"), utility.differences(rows, "auc")
    style.save(utility_figures.gains(level, gain, rows, "auc", titles), study.write("figures/utility.png"))
    display(utility.all_differences(rows).round(3))
    display(level.round(3))

# %% [markdown]
# False alarms on decoded frames, against those on the same frames as acquired. `excess` is what an arm adds to the rise that decoding causes in a network
# that saw real frames alone; an interval above 0 means that the arm learnt the decoder's look.

# %%
looks = utility.shortcut_table(rows)
if len(looks):
    count = len(tasks[0].decoys[0])
    style.save(utility_figures.shortcut(looks, count, origin), study.write("figures/utility_shortcut.png"))
    display(looks.round(3))

# %% [markdown]
# ## What these numbers can and cannot say
#
# They compare distributions of features and two labels. None of them sees whether a single vessel is possible; that is what the readers of notebook 06 grade.
# On the phantom archive they describe how well the pipeline learns simulated angiograms, not clinical ones.

# %%
value = results.set_index(["scope", "set"])["distance"]
study.note("distance", {"name": extractor.distance, "features": extractor.name})
study.note("distance_overall", {name: round(float(value["overall", name]), 4) for name in results["set"].unique()})
study.note("faithfulness", faithfulness.verdict(rates) if no_judge is None else f"Not judged: {no_judge}.")
study.note("memorisation", privacy.statement(audit))
study.note("utility", [*verdicts, *(f"Not tried: {why}." for why in not_tried)])
study.finish()
