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
# # 07 · Fidelity
#
# **Purpose.** How near the generated frames are to real ones as a distribution (§2.5, Table 5), overall and for each condition.
#
# **Inputs.** `samples/fid/` of notebook 05; `arterial.parquet`, `phases.parquet` and `classifier/` of notebook 02; `frames.npy`, `frames.parquet` of notebook 01.
#
# **Outputs.** `fidelity.csv`, `fidelity_intervals.csv`, `fidelity_resampled.csv`, `fidelity_sensitivity.csv`, `tables/table5.csv`,
# `tables/table5_context.csv`, the network `dsa_network/`, the vectors `features/`, figures of the same names. Notebooks 11 to 14 go on from here:
# does the image show what was asked for, are its vessels possible, is it a copy, is it of use?
#
# "Real" means here: frames of the archive that was given, as against generated. On the phantom archive those are simulated themselves.
#
# **Time.** The network's training takes most of it; the closing cell states the time of this run.

# %% tags=["parameters"]
run: str = "smoke"  # folder of this run under runs/
profile: str = "smoke"  # smoke, phantom or paper
archive: str = ""  # empty: the phantom archive of notebook 00
overrides: dict = {}  # e.g. {"fidelity.reference_mix": "as-is", "fidelity.features": "inception"}

# %%
import numpy as np
import pandas as pd
from IPython.display import display

from dsa_lib.core import published
from dsa_lib.fidelity import distances, dsa_network, features, image_sets
from dsa_lib.fidelity import intervals as fidelity_intervals
from dsa_lib.fidelity import sensitivity as fidelity_sensitivity
from dsa_lib.fidelity import table5 as fidelity_table5
from dsa_lib.figures import fidelity as figures
from dsa_lib.figures import style
from dsa_lib.run.session import begin

study = begin("07_fid", globals())
style.apply()
settings, seed = study.profile.fidelity, study.profile.seed
origin = "archive" if study.archive else "phantom"

# %% [markdown]
# ## What is compared with what
#
# Generated frames of the four canonical conditions against real arterial frames of held-out patients: no network of this run was trained on them
# (validation patients only chose which of its weights were kept). §2.5 draws 5,000 such frames, "approximately matching" the distribution over conditions, which
# can be read in two ways. `fidelity.reference_mix` names them: `as-is` (the archive's own mix; profile `paper`) or `balanced` (equally many a condition,
# like the generated set; a small archive's scarce conditions then do not read as a difference of the images). Taken literally, neither fits the paper's own
# numbers: a balanced reference needs more frames of the rarest condition than Table 1 has. A condition with fewer frames gives all it has, and the counts are
# shown. Image files are checked here, all of them (8-bit grey, one size), and decoded later, a batch at a time.

# %%
if why := study.skipped_upstream("samples/fid", "arterial.parquet", "classifier"):
    study.skip(why)
features.check_weights(settings.features, settings.weights_sha256)
images = image_sets.of_run(study)
images.counts(origin)

# %% [markdown]
# ## A network that reads angiograms
#
# One ResNet-18 of the family of §4.2 is trained here on real frames of the training patients, apart from the autoencoder and the diffusion model. A head each
# learns the phase (arterial or not), the circulation, the plane and both positioner angles:
#
# $$\mathcal{L} = \sum_{h \in \{\mathrm{phase,\,circulation,\,plane}\}} \mathrm{BCE}\bigl(y_h, \hat y_h\bigr)
# + \sum_{h \in \{\mathrm{primary,\,secondary}\}} \mathrm{smooth}_{L_1}\!\left(\frac{\hat\alpha_h - \alpha_h}{10^\circ}\right),$$
#
# each term a mean over the frames whose label is known, an angle with one output for each plane. Its inner stages are the features in which distances are measured
# here; in notebook 11 its answers judge the generated frames. It sees no flips, which would turn planes, sides and angles, but blurred, noisy, rescaled and
# differently contrasted copies, so that decoded images, smoother than acquired ones, are judged by their anatomy. Oblique frames count too. The phase labels
# are what notebook 02's classifier called the frames; circulation, plane and angles are the archive's own. Validation patients choose the weights, so its
# error is measured on test patients alone.

# %%
labelled = dsa_network.labelled_parts(study)
absent = dsa_network.cannot_learn(dsa_network.targets(labelled["train"]))
for name, why in absent.items():
    print(f"No head for {name}: {why}.")
if trained := len(absent) < len(dsa_network.HEADS):
    network, reads, _ = dsa_network.train(
        images.frames,
        labelled["train"],
        labelled["val"],
        study.profile.network,
        seed=seed,
        folder=study.ws.checkpoints("dsa_network"),
        digest=study.digest("network", code=dsa_network.CODE),
        precision=study.profile.precision,
        log_every_s=study.profile.log_every_s,
        checkpoint_every_s=study.profile.checkpoint_every_s,
    )
    dsa_network.save(network, reads, study.write("dsa_network"))
    test = labelled["test"]
    found = dsa_network.answers(network, reads, images.frames, test["frame_id"].to_numpy(), "test patients")
    network_scores = dsa_network.scores(found, dsa_network.targets(test))
    study.note("dsa_network", network_scores.to_dict("records"))
    display(network_scores.round(3))

# %% [markdown]
# ## Features
#
# The paper takes pool3 of an Inception-V3 trained on photographs (`inception`). Profiles `smoke` and `phantom` never download weights; they take the network
# above (`dsa-network`), and the distance is then called *DSA-feature distance*. It must not be read as an FID: other features, other scale. `phase-network`
# takes the classifier of notebook 02 instead; where that one has a part in the autoencoder's loss, it measures what it has taught. `dinov2` and `radimagenet` take
# public networks whose weights you put at hand.
#
# The vector of the run's own networks is the channel means of their first three stages (calibre, contrast, texture, local branching), each stage scaled so that the
# mean channel variance of real training frames is 1. The last stage is left out: alone it answers to the gross layout of a frame and little to contrast or
# noise, and it would more than double the dimension, whose ratio to the number of images sets the bias of a Fréchet distance. The network sees frames
# at its own input size; detail finer than that is not judged. `benchmarks/dsa_features.py` measures how the distance answers to frames altered on purpose.
#
# An interrupted computation goes on from the run's `checkpoints/features`. The vectors are kept in `features/`, since the memorisation audit (notebook 13) compares
# the same ones.

# %%
folder = study.ws.path("dsa_network") if trained else None
extractor = features.of_run(study, images.frames, images.training_rows, folder)
sets = images.features(extractor, origin)
for name, one in sets.items():
    np.save(study.write(f"features/{name}.npy"), one.features)
print(f"{extractor.name}: {one.features.shape[1]} values an image, reported as {extractor.distance}")

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
three = (sets["generated"], sets["held-out"], sets["training"])
results = fidelity_table5.evaluate(*three, settings, seed)
results.insert(0, "measure", extractor.distance)
results.insert(1, "features", extractor.name)
results.to_csv(study.write("fidelity.csv"), index=False)
display(results.drop(columns=["measure", "features", "dimension"]).round(3))
print("\n".join(fidelity_table5.gaps(results, settings.neighbours)))

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
# the pipeline (next section). What the phantom run gave stands in [docs/results.md](../docs/results.md).

# %%
follow = settings.reference_mix == "balanced"
compared = distances.comparisons(*three, settings, seed)
resampled = pd.concat(
    [fidelity_intervals.resample(each, settings, seed, follow) for each in compared], ignore_index=True
)
intervals = fidelity_intervals.intervals(results, resampled, settings.subsamples)
resampled.to_csv(study.write("fidelity_resampled.csv"), index=False)
intervals.to_csv(study.write("fidelity_intervals.csv"), index=False)
measures = ["distance", "infinity", "excess", "kid", *distances.METRICS[2:]]
display(fidelity_table5.intervals_shown(intervals, measures))
figure = figures.distances(results, intervals, extractor.distance, origin)
style.save(figure, study.write("figures/fidelity.png"))
if (resampled["scope"] == distances.OVERALL).any():
    figure = figures.patients(results, intervals, resampled, extractor.distance, origin)
    style.save(figure, study.write("figures/fidelity_patients.png"))
print("\n".join(fidelity_intervals.gaps(intervals)))

# %% [markdown]
# ## How much is the pipeline's?
#
# §2.5 warns that the number answers to image scaling and intensity normalisation. Each row is a resizing or windowing that pipelines do differ in, some hardly to
# be seen, some plain: *both* is the distance when the whole pipeline does so, *generated only* when the two sets took different ways, *same frames* the held-out frames against themselves unchanged. A distance
# is comparable with another only where all of this was alike, which published tables rarely tell. These sets are smaller than those of the tables above
# (`fidelity.sensitivity_images`), so that even the unchanged row reads higher: compare within this table alone.

# %%
made = (images.generated, images.asked["cell"].to_numpy())
real = (images.frames, *(images.held_out[column].to_numpy() for column in ("frame_id", "cell")))
sensitivity = fidelity_sensitivity.sensitivity(extractor, made, real, settings, seed)
sensitivity.to_csv(study.write("fidelity_sensitivity.csv"), index=False)
sensitivity.round(2)

# %% [markdown]
# ## Table 5
#
# The published rows are context: §2.5 says itself that they are not comparable across works. A distance in features of the run's own networks has a row and a
# column of its own name, and the cell *Ours, FID* stays empty unless Inception features were used. The second table is the one to read: with each value of this
# run stand its interval, its floor and its features (* marks sets no larger than the feature dimension); with each published one, the work it was taken from.

# %%
table5 = published.contract(5, fidelity_table5.cells(results, extractor.name, extractor.distance), origin)
published.write_table(study.write("tables/table5.csv"), table5)
display(published.as_printed(5, table5))
context = fidelity_table5.context(results, intervals, extractor.name, extractor.distance, origin)
context.to_csv(study.write("tables/table5_context.csv"), index=False)
fidelity_table5.shown(context)

# %% tags=["nbval-check-output"]
print(table5.loc[table5["published"].notna(), ["row", "column", "published"]].to_string(index=False))

# %% [markdown]
# ## What these numbers can and cannot say
#
# A distance says how far two sets lie apart in the eyes of one network. It depends on the number of images and patients, on resizing and windowing, and says
# nothing of a single image. Read it beside its floor. The network of this run was trained on the training frames, of which the floor is made, so that the
# floor may be somewhat high and the excess somewhat low. No distance sees whether a single vessel is where it can be; that is what the readers of notebook 06
# grade. On the phantom archive it describes how well the pipeline learns simulated angiograms, not clinical ones.

# %%
value = results.set_index(["scope", "set"])["distance"]
weights = extractor.weights_sha256 or None
study.note("distance", {"name": extractor.distance, "features": extractor.name, "weights_sha256": weights})
study.note("distance_overall", {name: round(float(value["overall", name]), 4) for name in results["set"].unique()})
study.finish()
