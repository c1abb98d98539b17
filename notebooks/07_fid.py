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
# **Inputs.** `samples/fid/` of notebook 05, `arterial.parquet`, `phases.parquet` and `classifier/` of notebook 02, `frames.npy` of notebook 01, `vae/` of
# notebook 03, `ldm/` of notebook 04.
#
# **Outputs.** `dsa_network/`, `fidelity.csv`, `faithfulness.csv`, `angles.csv`, `angle_sweep.csv`, `angle_slopes.csv`, `privacy.csv`, `tables/table5.csv`, `figures/fidelity.png`, `figures/faithfulness.png`,
# `figures/angles.png`, `figures/angle_sweep_*.png`, `figures/angle_following.png`, `figures/privacy.png`.
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

from dsa_lib import (
    angle_sweep,
    angles,
    autoencoder,
    diffusion,
    dsa_network,
    faithfulness,
    features,
    fidelity,
    images,
    phase,
    pipeline,
    privacy,
    sampling,
    tables,
    text,
    training,
)
from dsa_lib.conditions import CELLS, SeenConditions
from dsa_lib.figures import faithfulness as reading_figures
from dsa_lib.figures import fidelity as figures
from dsa_lib.figures import style
from dsa_lib.progress import track
from dsa_lib.session import begin
from dsa_lib.workspace import sha256

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
    network=study.ws.path("dsa_network") if network is not None else None,
    weights_sha256=settings.weights_sha256,
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
not_judged = faithfulness.cannot_judge(absent, dsa_network.classes(part["train"]))
if not_judged is None:
    answers = {name: (found, asked[name]["cell"].to_numpy()) for name, found in read.items()}
    rates = faithfulness.rates(answers)
    matrices = {name: faithfulness.confusion(*answer) for name, answer in answers.items()}
    style.save(reading_figures.confusions(matrices), study.write("figures/faithfulness.png"))
    display(rates.pivot(index="scope", columns="set", values="rate").loc[["overall", *CELLS], list(read)].round(3))
    print(faithfulness.verdict(rates))
else:
    rates = faithfulness.rates({})
    print(f"Not judged: {not_judged}.")
rates.to_csv(study.write("faithfulness.csv"), index=False)

# %% [markdown]
# ### Angles
#
# The angle that the network reads off an image, less the angle that was asked for (generated) or that the DICOM header gives (real). Generated frames are all asked for
# at 0°/0° or −90°/0°; real frames of these four conditions lie within 5° of that, and those of the scope *Others* are oblique. Intervals are cluster-robust,
# over patients for real frames. An error of generated frames that is no larger than that of reconstructed ones is as small as this network can see.

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
    source, config = study.read("ldm"), study.profile.sampling
    dsa = pipeline.DSAPipeline.from_pretrained(source).to(next(network.parameters()).device)
    dsa.set_progress_bar_config(disable=True)
    dsa.scheduler = diffusion.sampler(config.scheduler, dsa.scheduler)
    seen = SeenConditions.of(part["train"]["sentence"])
    seeds = np.random.default_rng([study.profile.seed, 7]).integers(2**31, size=study.profile.sweep.seeds)
    plan = angle_sweep.plan(angle_sweep.positions(study.profile.sweep, seen), seeds.tolist())
    swept_frames = angle_sweep.make(
        dsa,
        plan,
        study.ws.checkpoints("angle_sweep"),
        config,
        model=sha256(source),
        digest=sampling.code_digest([autoencoder, diffusion, pipeline, text]),
        track=lambda batches: track(batches, what="batches of the angle sweep"),
    )
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
        strip = angle_sweep.strip(sweep, angle, int(seeds[0]))
        name = f"figures/angle_sweep_{angle.split('_')[0]}.png"
        style.save(reading_figures.strip(strip, swept_frames, angle), study.write(name))
    compared = list(real_sets)[-1:]  # reconstructions where there are any: decoded images, as the generated ones are
    points = angle_sweep.points(sweep, real_sets[compared[0]] if compared else None, cell_of)
    figure = reading_figures.following(points, slopes, compared[0] if compared else "")
    style.save(figure, study.write("figures/angle_following.png"))

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
study.note(
    "distance",
    {"name": extractor.distance, "features": extractor.name, "weights_sha256": extractor.weights_sha256 or None},
)
study.note("distance_overall", {name: round(float(value["overall", name]), 4) for name in results["set"].unique()})
study.note("faithfulness", faithfulness.verdict(rates) if not_judged is None else f"Not judged: {not_judged}.")
study.note("angles", [angles.statement(angle_errors), *following])
study.note("memorisation", privacy.statement(audit))
study.finish()
