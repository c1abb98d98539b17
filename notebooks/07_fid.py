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
# **Outputs.** `fidelity.csv`, `faithfulness.csv`, `privacy.csv`, `plausibility.csv`, `judge/`, `tables/table5.csv`, `figures/fidelity.png`, `figures/faithfulness.png`,
# `figures/plausibility.png`, `figures/plausibility_spectra.png`, `figures/plausibility_examples.png`, `figures/privacy.png`.
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
    plausibility,
    privacy,
    tables,
    training,
)
from dsa_lib.conditions import CELLS
from dsa_lib.figures import fidelity as figures
from dsa_lib.figures import plausibility as vessel_figures
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
# ## Are the vessels possible?
#
# An automatic segmentation names the arteries of generated, held-out and training frames in the same way (`plausibility.segmenter`), and each image is
# measured by what it shows: area and length of centre line by calibre, connected pieces and the share of the largest, branchings and loose ends per length (lengths
# in sides of the frame), tortuosity; and its power spectrum. For a measure $m$ with means $\bar m$ and the standard deviation $s$ of held-out frames
#
# $$r = \frac{\bar m_{\text{generated}}}{\bar m_{\text{held-out}}}, \qquad d = \frac{\bar m_{\text{generated}} - \bar m_{\text{held-out}}}{s_{\text{held-out}}},$$
#
# each a mean over the four conditions, with bootstrap intervals that draw patients where frames are real. Effects are given and no p-values: with enough
# images every difference is significant. The floor is the same of training patients: what two sets of real patients differ by.
#
# Which segmenter is better on known vessels stands in `benchmarks/vessel_segmentation.json`. Its errors are in all sets; they cancel only as far as it errs
# alike on real and on generated frames. A centre line cannot tell a branching from two vessels that cross in projection, and none of the measures
# knows anatomy: a vessel may have the right calibre, length and branching and still not exist in any person.

# %%
simulated = None  # identifiers of the phantom patients, of whom the network must have seen none
if study.archive is None and study.has("archive_truth.parquet"):
    simulated = pd.read_parquet(study.read("archive_truth.parquet"), columns=["patient_id"])["patient_id"].unique()
segmenter = plausibility.open_segmenter(study.profile.plausibility.segmenter, simulated)
print(segmenter.says)

# %%
rng = np.random.default_rng(study.profile.seed)
measured, looked_at = {}, {}
for name, table in (("generated", manifest), ("held-out", held_out), ("training", part["train"])):
    chosen = plausibility.draw(table["cell"], study.profile.plausibility.images, rng)
    some = table.iloc[chosen]
    looked_at[name] = generated[chosen] if name == "generated" else frames[some["frame_id"].to_numpy()]
    whose = None if name == "generated" else some["patient"].to_numpy()
    measured[name] = plausibility.measure(looked_at[name], some["cell"].to_numpy(), segmenter.segment, whose, name)
effects = plausibility.compare(
    measured["generated"],
    measured["held-out"],
    measured["training"],
    draws=study.profile.plausibility.bootstrap,
    seed=study.profile.seed,
)
effects.insert(0, "segmenter", segmenter.name)
effects.to_csv(study.write("plausibility.csv"), index=False)

# %% [markdown]
# $r$ and $d$ overall, and by condition as small dots; *wasserstein* in the table is the distance between the two distributions in the same unit as $d$, which sees a
# difference of spread that means hide. It is never below 0, so that it too reads beside its floor.

# %%
style.save(vessel_figures.effects(effects, origin), study.write("figures/plausibility.png"))
overall = effects[effects["scope"] == "overall"].pivot(index="measure", columns="set")
shown = ["mean", "reference_mean", "ratio", "ratio_low", "ratio_high", "difference", "wasserstein"]
display(overall[shown].swaplevel(axis=1)[["generated", "floor"]].reindex(list(plausibility.MEASURES)).round(3))
print(plausibility.verdict(effects))

# %% [markdown]
# The spectrum is that of the grey values under a Hann window, averaged over rings; white noise of variance $\sigma^2$ has power $\sigma^2$ at every frequency.
# An acquired frame holds quantum noise, which a decoder does not make: less power at the right end is to be expected of any generated frame, and
# says nothing about its vessels. Below, the frame of median arterial area of each condition, and what was segmented in it.

# %%
if curves := plausibility.mean_spectra(measured):
    style.save(vessel_figures.spectra(curves, origin), study.write("figures/plausibility_spectra.png"))
pairs = plausibility.examples({name: measured[name] for name in ("held-out", "generated")})
strip = {
    cell: [(name, looked_at[name][index], measured[name].classes[index]) for name, index in of.items()]
    for cell, of in pairs.items()
}
if strip:
    style.save(vessel_figures.overlays(strip), study.write("figures/plausibility_examples.png"))

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
# They compare distributions of features, two labels, and measures of segmented vessels. None of them sees whether a single vessel is where it can be; that is what
# the readers of notebook 06 grade.
# On the phantom archive they describe how well the pipeline learns simulated angiograms, not clinical ones.

# %%
value = results.set_index(["scope", "set"])["distance"]
study.note("distance", {"name": extractor.distance, "features": extractor.name})
study.note("distance_overall", {name: round(float(value["overall", name]), 4) for name in results["set"].unique()})
study.note("faithfulness", faithfulness.verdict(rates) if no_judge is None else f"Not judged: {no_judge}.")
study.note("plausibility", plausibility.verdict(effects))
study.note("memorisation", privacy.statement(audit))
study.finish()
