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
# the condition that was asked for; and whether they lie suspiciously near to training frames.
#
# **Inputs.** `samples/fid/` of notebook 05, `arterial.parquet` and `classifier/` of notebook 02, `frames.npy` of notebook 01, `vae/` of notebook 03.
#
# **Outputs.** `fidelity.csv` and `fidelity_intervals.csv`, `fidelity_resampled.csv`, `fidelity_sensitivity.csv`, `faithfulness.csv`, `privacy.csv`, `judge/`,
# `tables/table5.csv` and `table5_context.csv`, `figures/fidelity.png`, `figures/fidelity_patients.png`, `figures/faithfulness.png`, `figures/privacy.png`.
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
    fidelity_intervals,
    fidelity_sensitivity,
    fidelity_table,
    images,
    phase,
    privacy,
    tables,
    training,
)
from dsa_lib.conditions import CELLS
from dsa_lib.figures import distances as distance_figures
from dsa_lib.figures import fidelity as figures
from dsa_lib.figures import style
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
# like the generated set; a small archive's scarce conditions then do not read as a difference of the images). Taken literally, neither fits the paper's own
# numbers: a balanced reference needs more frames of the rarest condition than Table 1 has. A condition with fewer frames gives all it has, and the counts are
# shown.
#
# Image files are checked here, all of them (8-bit grey, one size), and decoded later, a batch at a time.

# %%
if why := study.skipped_upstream("samples/fid", "arterial.parquet", "classifier"):
    study.skip(why)
folder = study.read("samples/fid")
manifest = pd.read_parquet(folder / "manifest.parquet")
arterial = pd.read_parquet(study.read("arterial.parquet"))
frames = np.load(study.read("frames.npy"), mmap_mode="r")
part = {split: arterial[arterial["split"] == split].reset_index(drop=True) for split in ("train", "val", "test")}
generated = images.ImageFiles(folder, manifest["file"].tolist())
held_out = pd.concat([part["val"], part["test"]], ignore_index=True)
shapes = {"generated": generated.shape, "real": frames.shape}
fidelity.check_sets(manifest["cell"], held_out, part["train"], shapes)
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
#
# Features are computed once, for all that follows, and kept in the run's `checkpoints/features`, named by the network's weights and the content of the images:
# after an interruption, or with the same images again, they are read.

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
extractor = features.cached(extractor, study.ws.checkpoints("features"))
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
# only the comparison with the floor means anything: with Inception features that is every set of 2,048 or fewer. With `as-is`, *generated* is all generated frames, as in §2.5, and *generated, sizes of the floor* as
# many of them as the floor has: that row is to be read beside it. The kernel distance (KID's unbiased estimator) does not have that bias.
# Precision and density say how plausible the generated frames are, recall and coverage how much of the real variety they reach.

# %%
results = fidelity.evaluate(sets["generated"], sets["held-out"], sets["training"], settings, study.profile.seed)
results.insert(0, "measure", extractor.distance)
results.insert(1, "features", extractor.name)
results.to_csv(study.write("fidelity.csv"), index=False)
display(results.drop(columns=["measure", "features", "dimension"]).round(3))
print("\n".join(fidelity.gaps(results, settings.neighbours)))

# %% [markdown]
# ## How sure are they?
#
# Frames of one patient are alike: what limits these numbers is how many *patients* are held out. So parts of the patients are drawn, without replacement,
# and the spread of a metric among parts of $m$ of $n$ patients gives its standard error,
# $$\widehat{\mathrm{se}} = \sqrt{\tfrac{m}{n-m}}\;\mathrm{sd}(d_m).$$
# Drawing with replacement would hold patients twice and lose the variation of those left out, which a Fréchet distance reads as a difference: its
# values would be centred too high. Generated images are thinned at random by the same share, the floor's by whole patients.
#
# A Fréchet distance of finite samples is too large by nearly $c/N$. The line through distances of growing parts, continued to $1/N = 0$, estimates the distance
# of endless samples (FID∞ of Chong & Forsyth, in the features named above). Both sets shrink together, so the bias of the reference goes too. Of the floor it
# should include zero. *Excess* is the distance less the floor's, with the same reference patients in both. Where it includes zero, the
# generated frames cannot be told from other patients' frames *by this distance and these many patients*; that is not the same as being alike.
# Intervals of the distance and the scores are for samples of this size; they say nothing of another archive, another network's features, or other choices in
# the pipeline (next section).

# %%
compared = fidelity.comparisons(sets["generated"], sets["held-out"], sets["training"], settings, study.profile.seed)
follow = settings.reference_mix == "balanced"
resampled = pd.concat(
    [fidelity_intervals.resample(each, settings, study.profile.seed, follow) for each in compared], ignore_index=True
)
intervals = fidelity_intervals.intervals(results, resampled, settings.subsamples)
resampled.to_csv(study.write("fidelity_resampled.csv"), index=False)
intervals.to_csv(study.write("fidelity_intervals.csv"), index=False)
display(fidelity_table.intervals_shown(intervals, ["distance", "infinity", "excess", "kid", *fidelity.METRICS[2:]]))
style.save(
    distance_figures.distances(results, intervals, extractor.distance, origin), study.write("figures/fidelity.png")
)
if (resampled["scope"] == fidelity.OVERALL).any():
    style.save(
        distance_figures.patients(results, intervals, resampled, extractor.distance, origin),
        study.write("figures/fidelity_patients.png"),
    )
print("\n".join(fidelity_intervals.gaps(intervals)))

# %% [markdown]
# ## How much is the pipeline's?
#
# §2.5 warns that the number answers to image scaling and intensity normalisation. Each row changes the frames in a way that hardly shows: *both* is the distance
# when the whole pipeline does so, *generated only* when the two sets took different ways, *same frames* the held-out frames against themselves unchanged. A distance
# is comparable with another only where all of this was alike, which published tables rarely tell.

# %%
sensitivity = fidelity_sensitivity.sensitivity(
    extractor,
    (generated, manifest["cell"].to_numpy()),
    (frames, held_out["frame_id"].to_numpy(), held_out["cell"].to_numpy()),
    settings,
    study.profile.seed,
)
sensitivity.to_csv(study.write("fidelity_sensitivity.csv"), index=False)
sensitivity.round(2)

# %% [markdown]
# ## Table 5
#
# The published rows are context: §2.5 says itself that they are not comparable across works. A distance in features of the run's own networks has a row and a
# column of its own name, and the cell *Ours, FID* stays empty unless Inception features were used. The second table is the one to read: with each value of this
# run stand its interval, its floor and its features (* marks sets no larger than the feature dimension); with each published one, the work it was taken from.

# %%
table5 = tables.contract(5, fidelity_table.cells(results, extractor.name, extractor.distance), origin)
tables.write_table(study.write("tables/table5.csv"), table5)
display(tables.side_by_side(table5).round(2))
context = fidelity_table.context(results, intervals, extractor.name, extractor.distance, origin)
context.to_csv(study.write("tables/table5_context.csv"), index=False)
fidelity_table.shown(context)

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
study.finish()
