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
# **Purpose.** Measure the distance between the distributions of generated and real frames (§2.5, Table 5), overall and for each condition.
#
# **Inputs.** `samples/fid/` of notebook 05; `arterial.parquet`, `phases.parquet` and `classifier/` of notebook 02; `frames.npy`, `frames.parquet` of notebook 01.
#
# **Outputs.** `fidelity.csv`, `fidelity_intervals.csv`, `fidelity_resampled.csv`, `fidelity_sensitivity.csv`, `tables/table5.csv`, `tables/table5_context.csv`, the network
# `dsa_network/`, the vectors `features/`, and figures of the same names. Notebooks 11 to 14 use them to test condition adherence, vessel plausibility, memorisation and
# utility.
#
# “Real” frames are the frames of the given archive. For the phantom archive, they are simulated as well.
#
# **Time.** Training the network takes most of it. The last cell prints the time of this run.

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
# ## Compared sets
#
# Generated frames of the four canonical conditions are compared with arterial frames of held-out patients. No network of this run was trained on them, but validation
# patients selected the weights. §2.5 draws 5,000 held-out frames that “approximately match” the distribution over conditions, which has two readings.
# `fidelity.reference_mix` is either `as-is` (the mix of the archive; profile `paper`) or `balanced` (equal numbers, like the generated set). In a small archive, `balanced`
# prevents rare conditions from appearing as a difference between images. Taken literally, neither fits the numbers of the paper: a balanced reference needs more frames of
# the rarest condition than Table 1 contains. A condition with too few frames contributes all it has, and the counts are shown. All image files are checked here (8-bit
# grey, one size) and decoded later in batches.

# %%
if why := study.skipped_upstream("samples/fid", "arterial.parquet", "classifier"):
    study.skip(why)
features.check_weights(settings.features, settings.weights_sha256)
images = image_sets.of_run(study)
images.counts(origin)

# %% [markdown]
# ## A network for angiograms
#
# A ResNet-18 of the family of §4.2 is trained on real frames of the training patients, independently of the autoencoder and the diffusion model. Separate heads predict the
# phase (arterial or not), the circulation, the plane and both positioner angles:
#
# $$\mathcal{L} = \sum_{h \in \{\mathrm{phase,\,circulation,\,plane}\}} \mathrm{BCE}\bigl(y_h, \hat y_h\bigr)
# + \sum_{h \in \{\mathrm{primary,\,secondary}\}} \mathrm{smooth}_{L_1}\!\left(\frac{\hat\alpha_h - \alpha_h}{10^\circ}\right),$$
#
# Each term is a mean over the frames with a known label. Each angle has one output per plane. The features of the inner stages define the distances of this notebook, and
# notebook 11 uses the predictions to evaluate generated frames. The training images are not flipped, because a flip would change planes, sides and angles. They are
# blurred, rescaled, and changed in noise and contrast. Decoded images are smoother than acquired ones, and the network should judge their anatomy. Oblique frames are
# included. The phase labels are the predictions of notebook 02; circulation, plane and angles are those of the archive. Validation patients select the weights, so the
# error is measured on test patients only.

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
# The paper uses pool3 of an Inception-V3 trained on photographs (`inception`). Profiles `smoke` and `phantom` never download weights. They use the network above
# (`dsa-network`), and the distance is called *DSA-feature distance*. It is not an FID: features and scale differ. `phase-network` uses the classifier of notebook 02. If
# that classifier contributed to the loss of the autoencoder, it measures what it taught. `dinov2` and `radimagenet` use public networks whose weights you provide.
#
# The feature vector of the run's own networks consists of the channel means of their first three stages (calibre, contrast, texture, local branching). Each stage is scaled
# so that the mean channel variance of real training frames is 1. The last stage is omitted. It responds to the overall layout of a frame and little to contrast or noise,
# and it would more than double the dimension. The ratio of the dimension to the number of images determines the bias of a Fréchet distance. The network sees frames at its
# own input size and does not judge finer detail. `benchmarks/dsa_features.py` measures the response of the distance to deliberate changes of the frames.
#
# An interrupted computation resumes from `checkpoints/features` of the run. The vectors are stored in `features/` for the memorisation audit (notebook 13).

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
# The distance is computed in float64, as the median over draws of the reference. The *floor* is the same distance with real frames of the training patients instead of
# generated ones, in equal numbers. A generator that reproduced its training patients perfectly would score the floor, not zero, because patients differ and because the
# Fréchet distance of finite samples is biased upwards. If a set is no larger than the feature dimension (`rank_deficient`, * in the figure), only the comparison with the
# floor is meaningful. With Inception features, this applies to every set of 2,048 images or fewer. With `as-is`, *generated* contains all generated frames, as in §2.5, and
# *generated, sizes of the floor* contains as many as the floor: compare this row with the floor. The kernel distance (the unbiased estimator of KID) does not have this
# bias. Precision and density measure the plausibility of generated frames, recall and coverage the fraction of the real variety that they cover.

# %%
three = (sets["generated"], sets["held-out"], sets["training"])
results = fidelity_table5.evaluate(*three, settings, seed)
results.insert(0, "measure", extractor.distance)
results.insert(1, "features", extractor.name)
results.to_csv(study.write("fidelity.csv"), index=False)
display(results.drop(columns=["measure", "features", "dimension"]).round(3))
print("\n".join(fidelity_table5.gaps(results, settings.neighbours)))

# %% [markdown]
# ## Uncertainty
#
# Frames of one patient are similar, so the number of held-out *patients* limits the accuracy. Subsets of the patients are drawn without replacement. The spread of a metric
# over subsets of $m$ of $n$ patients gives its standard error,
# $$\widehat{\mathrm{se}} = \sqrt{\tfrac{m}{n-m}}\;\mathrm{sd}(d_m).$$
# Drawing with replacement would duplicate patients and remove the variation of those left out, which a Fréchet distance interprets as a difference: its values would be
# centred too high. Generated images are subsampled at random by the same fraction, and the floor by whole patients.
#
# A Fréchet distance of finite samples is too large by approximately $c/N$. A line through the distances of subsets of increasing size, extrapolated to $1/N = 0$, estimates
# the distance of infinite samples (FID∞ of Chong & Forsyth, in the features named above). Both sets are reduced together, so the extrapolation also removes the bias of the
# reference. The extrapolated floor should include zero. *Excess* is the distance minus the floor, with the same reference patients in both. If it includes zero, the
# generated frames cannot be distinguished from frames of other patients *by this distance and this number of patients*. This does not show that they are alike. The
# intervals apply to samples of this size, and not to another archive, other features, or other choices in the pipeline (next section). Results of the phantom run:
# [docs/results.md](../docs/results.md).

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
# ## Sensitivity to image processing
#
# §2.5 warns that the distance depends on image scaling and intensity normalisation. Each row is a choice of resizing or windowing in which pipelines differ, from hardly
# visible to obvious. *both* is the distance if the whole pipeline uses this choice, *generated only* if the two sets were processed differently, and *same frames* compares
# the processed held-out frames with the unchanged ones. Distances are only comparable if all of these choices agree, which publications rarely report. The sets are smaller
# than those of the tables above (`fidelity.sensitivity_images`), so that even the unchanged row is higher. Compare values within this table only.

# %%
made = (images.generated, images.asked["cell"].to_numpy())
real = (images.frames, *(images.held_out[column].to_numpy() for column in ("frame_id", "cell")))
sensitivity = fidelity_sensitivity.sensitivity(extractor, made, real, settings, seed)
sensitivity.to_csv(study.write("fidelity_sensitivity.csv"), index=False)
sensitivity.round(2)

# %% [markdown]
# ## Table 5
#
# The published rows are context: §2.5 states that they are not comparable across works. A distance in the features of the run's own networks has a separate row and column.
# The cell *Ours, FID* stays empty unless Inception features were used. The second table is the one to read. It shows each value of this run with its interval, floor and
# features (* marks sets no larger than the feature dimension), and each published value with its reference.

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
# ## Interpretation
#
# A distance measures how far apart two sets are for one network. It depends on the number of images and patients and on resizing and windowing, and says nothing about a
# single image. Compare it with its floor. The network was trained on the training frames, which also form the floor. The floor may therefore be slightly too high and the
# excess slightly too low. No distance can tell whether a single vessel is anatomically correct, which the readers of notebook 06 judge. For the phantom archive, it
# describes how well the pipeline learns simulated angiograms, not clinical ones.

# %%
value = results.set_index(["scope", "set"])["distance"]
weights = extractor.weights_sha256 or None
study.note("distance", {"name": extractor.distance, "features": extractor.name, "weights_sha256": weights})
study.note("distance_overall", {name: round(float(value["overall", name]), 4) for name in results["set"].unique()})
study.finish()
