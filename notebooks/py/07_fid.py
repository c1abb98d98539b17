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
# **Purpose.** How near the generated frames are to real ones as a distribution (§2.5, Table 5), overall and for each condition; whether they show
# the condition that was asked for; whether they lie suspiciously near to training frames; and whether they are of use as training data.
#
# **Inputs.** `samples/fid/` and `samples/reader/` of notebook 05, `ldm/` and `ldm_unconditional/` of notebook 04, `vae/` and `latents/` of notebook 03,
# `arterial.parquet`, `phases.parquet`, `labelled.parquet` and `classifier/` of notebook 02, `frames.npy` of notebook 01.
#
# **Outputs.** Tables `fidelity*.csv` (and `_intervals`, `_resampled`, `_sensitivity`), `faithfulness.csv`, `angles.csv`, `angle_sweep.csv`, `angle_slopes.csv`,
# `plausibility.csv`, `privacy.csv`, `privacy_controls.csv`, `memorisation_pairs.csv`, `utility.csv`, `tables/table5.csv`, `tables/table5_context.csv`; the network
# `dsa_network/`; figures of the same names.
#
# "Real" means here: frames of the archive that was given, as against generated. On the phantom archive those are simulated themselves.
#
# **Time.** The DSA network's training takes most of it; the closing cell states the time of this run.

# %% tags=["parameters"]
run: str = "smoke"  # folder of this run under runs/
profile: str = "smoke"  # smoke, phantom or paper
archive: str = ""  # empty: the phantom archive of notebook 00
overrides: dict = {}  # e.g. {"fidelity.reference_mix": "as-is", "fidelity.features": "inception"}

# %%
import numpy as np
import pandas as pd
from IPython.display import display

from dsa_lib.audits import (
    adherence,
    angle_sweep,
    angles,
    copy_search,
    planted_copies,
    plausibility,
    utility,
    utility_tasks,
)
from dsa_lib.audits import memorisation as audits_memorisation
from dsa_lib.core import images, published
from dsa_lib.core.conditions import CELLS
from dsa_lib.curation import phase
from dsa_lib.fidelity import distances as fidelity_distances
from dsa_lib.fidelity import dsa_network, features
from dsa_lib.fidelity import extractor as fidelity_extractor
from dsa_lib.fidelity import intervals as fidelity_intervals
from dsa_lib.fidelity import sensitivity as fidelity_sensitivity
from dsa_lib.fidelity import table5 as fidelity_table5
from dsa_lib.figures import adherence as reading_figures
from dsa_lib.figures import fidelity as distance_figures
from dsa_lib.figures import memorisation, samples, style
from dsa_lib.figures import plausibility as vessel_figures
from dsa_lib.figures import utility as utility_figures
from dsa_lib.ldm import autoencoder, diffusion, pipeline
from dsa_lib.nn import resnet, training
from dsa_lib.run.session import begin

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
features.check_weights(settings.features, settings.weights_sha256)
folder = study.read("samples/fid")
manifest = pd.read_parquet(folder / "manifest.parquet")
arterial = pd.read_parquet(study.read("arterial.parquet"))
frames = np.load(study.read("frames.npy"), mmap_mode="r")
part = {split: arterial[arterial["split"] == split].reset_index(drop=True) for split in ("train", "val", "test")}
generated = images.ImageFiles(folder, manifest["file"].tolist())
held_out = pd.concat([part["val"], part["test"]], ignore_index=True)
shapes = {"generated": generated.shape, "real": frames.shape}
fidelity_distances.check_sets(manifest["cell"], held_out, part["train"], shapes)
pd.DataFrame(
    {
        "generated": manifest["cell"].value_counts(),
        **{f"{origin}, {split}": rows["cell"].value_counts() for split, rows in part.items()},
    }
).reindex([*CELLS, "Others"]).fillna(0).astype(int)

# %% [markdown]
# ## A network that reads angiograms
#
# One ResNet-18 of the family of §4.2 is trained here on real frames of the training patients, apart from the autoencoder and the diffusion model. A head each
# learns the phase (arterial or not), the circulation, the plane and both positioner angles:
#
# $$\mathcal{L} = \sum_{h \in \{\mathrm{phase,\,circulation,\,plane}\}} \mathrm{BCE}\bigl(y_h, \hat y_h\bigr)
# + \sum_{h \in \{\mathrm{primary,\,secondary}\}} \mathrm{smooth}_{L_1}\!\left(\frac{\hat\alpha_h - \alpha_h}{10^\circ}\right),$$
#
# each term a mean over the frames whose label is known, an angle with one output for each plane. It serves twice: its answers judge the generated frames, and its inner stages are the features in which
# distances are measured. It sees no flips, which would turn planes, sides and angles, but blurred, noisy, rescaled and differently contrasted copies, so that decoded
# images, smoother than acquired ones, are judged by their anatomy. Oblique frames count too. The phase labels are what notebook 02's classifier called
# the frames; circulation, plane and angles are the archive's own. Validation patients choose the weights, so its error is measured on test patients alone.

# %%
every = dsa_network.labelled_frames(
    pd.read_parquet(study.read("frames.parquet")), pd.read_parquet(study.read("phases.parquet"))
)
labelled = {split: every[every["split"] == split].reset_index(drop=True) for split in part}
absent = dsa_network.cannot_learn(dsa_network.targets(labelled["train"]))
for name, why in absent.items():
    print(f"No head for {name}: {why}.")
network = None
if len(absent) < len(dsa_network.HEADS):
    network, reads, history = dsa_network.train(
        frames,
        labelled["train"],
        labelled["val"],
        study.profile.network,
        seed=study.profile.seed,
        folder=study.ws.checkpoints("dsa_network"),
        digest=study.digest("network", code=[dsa_network, phase, training]),
        precision=study.profile.precision,
        log_every_s=study.profile.log_every_s,
        checkpoint_every_s=study.profile.checkpoint_every_s,
    )
    dsa_network.save(network, reads, study.write("dsa_network"))
    found = dsa_network.answers(network, reads, frames, labelled["test"]["frame_id"].to_numpy(), "test patients")
    network_scores = dsa_network.scores(found, dsa_network.targets(labelled["test"]))
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
# Features are computed once, for all that follows, and kept in the run's `checkpoints/features`, named by the network's weights and the content of the images:
# after an interruption, or with the same images again, they are read.

# %%
_, facts = resnet.load_classifier(study.read("classifier"))
train_rows = part["train"]["frame_id"].to_numpy()
some = np.random.default_rng(study.profile.seed).permutation(train_rows)[:2048]
extractor = features.open_extractor(
    settings.features,
    classifier=study.read("classifier"),
    size=facts["input_size"],
    batch_size=settings.batch_size,
    training_frames=frames[np.sort(some)],
    network=study.ws.path("dsa_network") if network is not None else None,
    weights_sha256=settings.weights_sha256,
)
extractor = fidelity_extractor.cached(extractor, study.ws.checkpoints("features"))
sets = {"generated": fidelity_distances.ImageSet(extractor(generated, what="generated"), manifest["cell"].to_numpy())}
for name, rows in (("training", part["train"]), ("held-out", held_out)):
    values = extractor(frames, rows["frame_id"].to_numpy(), f"{origin} {name}")
    sets[name] = fidelity_distances.ImageSet(values, rows["cell"].to_numpy(), rows["patient"].to_numpy())
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
results = fidelity_distances.evaluate(
    sets["generated"], sets["held-out"], sets["training"], settings, study.profile.seed
)
results.insert(0, "measure", extractor.distance)
results.insert(1, "features", extractor.name)
results.to_csv(study.write("fidelity.csv"), index=False)
display(results.drop(columns=["measure", "features", "dimension"]).round(3))
print("\n".join(fidelity_distances.gaps(results, settings.neighbours)))

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
compared = fidelity_distances.comparisons(
    sets["generated"], sets["held-out"], sets["training"], settings, study.profile.seed
)
follow = settings.reference_mix == "balanced"
resampled = pd.concat(
    [fidelity_intervals.resample(each, settings, study.profile.seed, follow) for each in compared], ignore_index=True
)
intervals = fidelity_intervals.intervals(results, resampled, settings.subsamples)
resampled.to_csv(study.write("fidelity_resampled.csv"), index=False)
intervals.to_csv(study.write("fidelity_intervals.csv"), index=False)
display(
    fidelity_table5.intervals_shown(
        intervals, ["distance", "infinity", "excess", "kid", *fidelity_distances.METRICS[2:]]
    )
)
style.save(
    distance_figures.distances(results, intervals, extractor.distance, origin), study.write("figures/fidelity.png")
)
if (resampled["scope"] == fidelity_distances.OVERALL).any():
    style.save(
        distance_figures.patients(results, intervals, resampled, extractor.distance, origin),
        study.write("figures/fidelity_patients.png"),
    )
print("\n".join(fidelity_intervals.gaps(intervals)))

# %% [markdown]
# ## How much is the pipeline's?
#
# §2.5 warns that the number answers to image scaling and intensity normalisation. Each row is a resizing or windowing that pipelines do differ in, some hardly to
# be seen, some plain: *both* is the distance when the whole pipeline does so, *generated only* when the two sets took different ways, *same frames* the held-out frames against themselves unchanged. A distance
# is comparable with another only where all of this was alike, which published tables rarely tell. These sets are smaller than those of the tables above
# (`fidelity.sensitivity_images`), so that even the unchanged row reads higher: compare within this table alone.

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
table5 = published.contract(5, fidelity_table5.cells(results, extractor.name, extractor.distance), origin)
published.write_table(study.write("tables/table5.csv"), table5)
display(published.side_by_side(table5).round(2))
context = fidelity_table5.context(results, intervals, extractor.name, extractor.distance, origin)
context.to_csv(study.write("tables/table5_context.csv"), index=False)
fidelity_table5.shown(context)

# %% tags=["nbval-check-output"]
print(table5.loc[table5["published"].notna(), ["row", "column", "published"]].to_string(index=False))

# %% [markdown]
# ## Does the image show what was asked for?
#
# The network answers for generated frames, for real frames of test patients (its own error) and for their autoencoder reconstructions (what decoding alone costs). A
# rate on generated frames reads only beside those two. A high rate says that circulation and plane are right, and nothing about vessels further out. The
# intervals of rates are Wilson's, over images.

# %%
shown = part["test"].sample(min(len(part["test"]), settings.real_images), random_state=study.profile.seed % 2**32)
shown = shown.sort_values("frame_id", ignore_index=True)
real = frames[shown["frame_id"].to_numpy()]
asked, read = {"generated": manifest}, {}
pictures = {"generated": generated}
if len(shown):
    asked |= {"held-out": shown}
    pictures |= {"held-out": real}
if len(shown) and study.has("vae"):
    asked |= {"held-out, reconstructed": shown}
    vae = autoencoder.AutoencoderKL.from_pretrained(study.read("vae"))
    pictures |= {"held-out, reconstructed": autoencoder.reconstruct(vae, real)}
if network is not None:
    read = {name: dsa_network.answers(network, reads, stack, what=name) for name, stack in pictures.items()}

# %%
not_judged = adherence.cannot_judge(absent, dsa_network.classes(part["train"]))
if not_judged is None:
    answers = {name: (found, asked[name]["cell"].to_numpy()) for name, found in read.items()}
    rates = adherence.rates(answers)
    matrices = {name: adherence.confusion(*answer) for name, answer in answers.items()}
    style.save(reading_figures.confusions(matrices), study.write("figures/faithfulness.png"))
    display(rates.pivot(index="scope", columns="set", values="rate").loc[["overall", *CELLS], list(read)].round(3))
    print(adherence.verdict(rates))
else:
    rates = adherence.rates({})
    print(f"Not judged: {not_judged}.")
rates.to_csv(study.write("faithfulness.csv"), index=False)

# %% [markdown]
# ### Angles
#
# The angle that the network reads off an image, less the angle that was asked for (generated) or that the DICOM header gives (real). Generated frames are all asked for
# at 0°/0° or −90°/0°; real frames of these four conditions lie within 5° of that, and those of the scope *Others* are oblique. Intervals are cluster-robust,
# over patients for real frames. Angles of the four conditions hardly vary: an answer that is always the same (`constant`: each condition's own
# angles) would be off by about a degree, less than the network is, so that a small error here shows the right projection and no more; the sweep below asks whether
# angles are followed. A frame whose plane is mistaken is off by some 90° and weighs on the mean; the 90th percentile stands beside it.

# %%
judged = {
    name: angles.Judged(
        found,
        asked[name][list(dsa_network.ANGLE_HEADS)],
        asked[name]["cell"].to_numpy(),
        asked[name]["image_id" if name == "generated" else "patient"].to_numpy(),
    )
    for name, found in read.items()
}
angle_errors = angles.errors(judged)
angle_errors.to_csv(study.write("angles.csv"), index=False)
if len(angle_errors):
    style.save(reading_figures.angle_errors(angle_errors), study.write("figures/angles.png"))
    overall = angle_errors[angle_errors["scope"] == "overall"]
    display(overall.drop(columns="scope").set_index(["angle", "set"]).round(1))
print(angles.statement(angle_errors))

# %% [markdown]
# ### Angles that no sentence had
#
# One angle at a time is moved away from each canonical position, with the same noise for each seed, to angles between those of the training sentences and beyond them.
# If the model had learned the geometry and not a list of sentences, the image would turn along. The network reads the angle off each image:
#
# $$\hat\alpha(\text{image}) = a + b\,\alpha_\text{asked},$$
#
# with $b = 1$ for a model that follows and a network that reads without error. Neither holds, so $b$ stands beside the slope that the same regression has on
# held-out frames of that circulation and plane. Only asked angles among the training angles enter the sweep's slope: beyond them the network, trained on the
# same frames as the model, extrapolates too, and its reading there (open dots) is no measurement.

# %%
sweepable = not_judged is None and bool(set(dsa_network.ANGLE_HEADS) & set(reads.heads)) and study.has("ldm")
slopes, following = (
    pd.DataFrame(),
    ["The angle sweep was not made: it needs judged angles and the model of notebook 04."],
)
if sweepable:
    plan, swept_frames = angle_sweep.make(study, part["train"]["sentence"], next(network.parameters()).device)
    sweep = angle_sweep.judged(plan, swept_frames, network, reads)
    sweep.to_csv(study.write("angle_sweep.csv"), index=False)
    real_sets = {name: images for name, images in judged.items() if name != "generated"}
    cell_of = np.array([*CELLS, ""])[dsa_network.classes(shown)]  # by circulation and plane, oblique or not
    slopes = angle_sweep.following(sweep, real_sets, cell_of)
    following = angle_sweep.statements(slopes)
slopes.to_csv(study.write("angle_slopes.csv"), index=False)
print(*following, sep="\n")

# %%
if sweepable:
    for angle in dsa_network.ANGLE_HEADS:
        strip = angle_sweep.strip(sweep, angle, int(plan["seed"].iloc[0]))
        name = f"figures/angle_sweep_{angle.split('_')[0]}.png"
        style.save(reading_figures.strip(strip, swept_frames, angle), study.write(name))
    compared = list(real_sets)[-1:]  # reconstructions where there are any: decoded images, as the generated ones are
    points = angle_sweep.points(sweep, real_sets[compared[0]] if compared else None, cell_of)
    figure = reading_figures.following(points, slopes, compared[0] if compared else "")
    style.save(figure, study.write("figures/angle_following.png"))

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
# The paper calls its images privacy-preserving without a test. Here every generated frame, and every held-out frame of the four conditions, is looked up
# among all training frames in three spaces: *pixels* (blurred greys of mean 0 and length 1, so that brightness and contrast do not count; mirrored and
# shifted too), *network maps* (what lies where, for the run's phase network; mirrored too), and the features of the distances above. Two questions are tested in each.
#
# 1. Are generated frames nearer to training frames than held-out ones are? $C_T$ (Meehan, Chaudhuri & Dasgupta 2020) asks it with Mann and Whitney's $U$ in
#    cells of a partition, here the conditions, $C_T = \sum_\pi P_n(\pi)\, Z_\pi / \sum_\pi P_n(\pi)$, and takes all frames as independent. Frames of one patient are not:
#    `held_out_worth` is how many independent ones they amount to. So `p_nearer` takes the variance between patients (Obuchowski 1997).
# 2. Are there single near copies? For every frame $\rho = d_{(1)} / d_{(2)}$, distance to the nearest training *patient* over that to the second nearest: 0 for a copy, near 1
#    where no patient stands out. `near_copies` of the generated frames have a $\rho$ below that of every real frame looked up among other patients;
#    `p_near_copies` is the chance of so many, again with frames counted at their worth.
#
# **The rule, fixed beforehand.** A space's $p$ is twice the smaller of the two; Holm's correction over the spaces; *flagged* below `privacy.level`, the
# share of honest models that may be flagged by chance; `benchmarks/memorisation.py` measures that share. AuthPct (Alaa et al. 2022) is shown and does not decide: the next
# frame of the same run lies so near a training frame that a near copy can pass as authentic, unless neighbours of other patients are asked for.
#
# Held-out frames are of other patients, so they set a scale for images of *new* patients. `median_same_patient` is the distance from a training frame to the nearest other
# frame of its own patient, `median_other_patients` to that of any other patient. Where the first is clearly smaller, a generated frame that shows a training
# patient at a moment of its own counts as near too, though it copies no frame; where it is not, these spaces do not recognise a patient, and the audit
# speaks of copied frames alone.

# %%
held_out_set = audits_memorisation.Images(
    frames,
    held_out["frame_id"].to_numpy(),
    held_out["cell"].to_numpy(),
    held_out["patient"].to_numpy(),
    sets["held-out"].features,
)
training_set = audits_memorisation.Images(
    frames, train_rows, part["train"]["cell"].to_numpy(), part["train"]["patient"].to_numpy(), sets["training"].features
)
generated_set = audits_memorisation.Images(
    generated, np.arange(len(generated)), manifest["cell"].to_numpy(), vectors=sets["generated"].features
)
spaces = [
    copy_search.pixel_space(),
    copy_search.map_space(study.read("classifier"), facts["input_size"]),
    copy_search.feature_space(extractor.name),
]
no_audit = audits_memorisation.cannot_audit(training_set.patients)
verdict = f"Not audited: {no_audit}."
if no_audit is None:
    audit = audits_memorisation.audit(
        spaces, generated_set, held_out_set, training_set, study.profile.privacy, study.profile.seed
    )
    audit.table.to_csv(study.write("privacy.csv"), index=False)
    audit.pairs.to_csv(study.write("memorisation_pairs.csv"), index=False)
    style.save(memorisation.nearest(audit.distances(), origin), study.write("figures/privacy.png"))
    with pd.option_context("display.float_format", "{:.3g}".format):
        display(audit.table.set_index("space").T)
    verdict = f"{audits_memorisation.statement(audit)} {audits_memorisation.scope(study)}".strip()
print(verdict, audits_memorisation.false_alarms(), sep="\n")

# %% [markdown]
# The closest pairs by $\rho$, each image above its nearest training frame. The held-out pairs are the floor for the eye: frames of different patients
# can look this much alike.

# %%
shown_sets = {"generated": generated_set, "held-out": held_out_set}
for space in spaces if no_audit is None else []:
    figure = memorisation.gallery(audit.shown(space.name, shown_sets, training_set), audit.pairs, space.name)
    style.save(figure, study.write(f"figures/privacy_pairs_{space.name.replace(' ', '_')}.png"))

# %% [markdown]
# ### Would the audit notice?
#
# A model that is made to copy: the run's unconditional model, trained on alone a few training frames by the same code (the picture shows how far it
# got; `benchmarks/planted_model.json` has it for longer, with the likeness of its samples measured). Its samples go through the same audit. Beside it
# stand copies by hand of other training frames, as they are and altered; each kind alone, and as a tenth of the generated images above. What is not
# flagged says how much copying the audit can miss on this archive.

# %%
planted, planted_told = {}, "Not planted."
if (no_plant := no_audit or planted_copies.cannot_plant(study)) is None:
    index = pd.read_parquet(study.read("latents/index.parquet"))
    posterior = [np.load(study.read(f"latents/{name}.npy"), mmap_mode="r") for name in ("mean", "std")]
    known_by_heart = planted_copies.frames_to_learn(index, study.profile.privacy.planted_frames, study.profile.seed)
    copying = planted_copies.train_to_copy(
        pipeline.DSAPipeline.from_pretrained(study.read("ldm_unconditional")),
        diffusion.LatentSet(*posterior, vae.config.scaling_factor, rows=known_by_heart),
        study.profile,
        folder=study.ws.checkpoints("planted_copies"),
        digest=study.digest("privacy", "diffusion", code=[planted_copies, diffusion, training]),
    )
    learnt = frames[index["frame_id"].to_numpy()[known_by_heart]]
    kind = f"model trained on {len(learnt)} frames alone"
    planted[kind] = planted_copies.sampled(copying, study.profile)
    figure = samples.image_grid([learnt, planted[kind][: len(learnt)]], ["trained on", "its samples"])
    style.save(figure, study.write("figures/privacy_planted.png"))
else:
    print(f"No model is planted: {no_plant}.")

# %%
if no_audit is None:
    decode = (lambda some: autoencoder.reconstruct(vae, some)) if study.has("vae") else None
    copied = planted_copies.chosen(
        training_set.cells, training_set.patients, max(len(generated) // 10, 1), study.profile.seed + 1
    )
    planted |= planted_copies.by_hand(frames[train_rows[copied]], decode, study.profile.seed)
    controls = planted_copies.controls(
        audit, spaces, generated_set, held_out_set, training_set, planted, extractor, study.profile.seed
    )
    controls.to_csv(study.write("privacy_controls.csv"), index=False)
    display(controls.round(4))
    print(planted_told := planted_copies.statement(controls))

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
# `benchmarks/utility.py` takes apart how much of a gain is owed to that; no result of it is kept yet.

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
# - A **distance** says how far two sets lie apart in the eyes of one network. It hangs on the number of images and patients, on resizing and windowing, and says
#   nothing of a single image. Read it beside its floor; the network of this run was trained on the training frames, of which the floor is made, so that the
#   floor may be somewhat high and the excess somewhat low.
# - A **rate of named conditions** says that circulation and projection are right, nothing about vessels further out. Angles in plane B can hardly be judged here at all.
# - **Measures of vessels** are as good as the segmentation, and know calibre and shape but no anatomy.
# - *Not flagged* by the **memorisation audit** means that this test, with these patients and spaces, saw no copying; the planted controls say what it would have seen.
# - **Utility** with few seeds can show a large gain or loss; that none is shown is no proof that there is none.
#
# None of them sees whether a single vessel is where it can be; that is what the readers of notebook 06 grade.
# On the phantom archive they describe how well the pipeline learns simulated angiograms, not clinical ones.

# %%
value = results.set_index(["scope", "set"])["distance"]
study.note(
    "distance",
    {"name": extractor.distance, "features": extractor.name, "weights_sha256": extractor.weights_sha256 or None},
)
study.note("distance_overall", {name: round(float(value["overall", name]), 4) for name in results["set"].unique()})
study.note("faithfulness", adherence.verdict(rates) if not_judged is None else f"Not judged: {not_judged}.")
study.note("angles", [angles.statement(angle_errors), *following])
study.note("plausibility", plausibility.verdict(effects))
study.note("memorisation", verdict)
study.note("planted copies", planted_told)
study.note("utility", [*verdicts, *(f"Not tried: {why}." for why in not_tried)])
study.finish()
