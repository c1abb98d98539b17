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
# **Inputs.** `samples/fid/` of notebook 05, `arterial.parquet` and `classifier/` of notebook 02, `frames.npy` of notebook 01, `vae/` and `latents/` of notebook 03.
#
# **Outputs.** `fidelity.csv`, `faithfulness.csv`, `privacy.csv`, `memorisation_pairs.csv`, `privacy_controls.csv`, `judge/`, `tables/table5.csv`, `figures/fidelity.png`,
# `figures/faithfulness.png`, `figures/privacy*.png`.
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
    copy_search,
    diffusion,
    faithfulness,
    features,
    fidelity,
    images,
    phase,
    pipeline,
    planted_copies,
    privacy,
    tables,
    training,
)
from dsa_lib.conditions import CELLS
from dsa_lib.figures import fidelity as figures
from dsa_lib.figures import memorisation, samples, style
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
held_out_set = privacy.Images(
    frames,
    held_out["frame_id"].to_numpy(),
    held_out["cell"].to_numpy(),
    held_out["patient"].to_numpy(),
    sets["held-out"].features,
)
training_set = privacy.Images(
    frames, train_rows, part["train"]["cell"].to_numpy(), part["train"]["patient"].to_numpy(), sets["training"].features
)
generated_set = privacy.Images(
    generated, np.arange(len(generated)), manifest["cell"].to_numpy(), vectors=sets["generated"].features
)
spaces = [
    copy_search.pixel_space(),
    copy_search.map_space(study.read("classifier"), facts["input_size"]),
    copy_search.feature_space(extractor.name),
]
no_audit = privacy.cannot_audit(training_set.patients)
verdict = f"Not audited: {no_audit}."
if no_audit is None:
    audit = privacy.audit(spaces, generated_set, held_out_set, training_set, study.profile.privacy, study.profile.seed)
    audit.table.to_csv(study.write("privacy.csv"), index=False)
    audit.pairs.to_csv(study.write("memorisation_pairs.csv"), index=False)
    style.save(memorisation.nearest(audit.distances(), origin), study.write("figures/privacy.png"))
    with pd.option_context("display.float_format", "{:.3g}".format):
        display(audit.table.set_index("space").T)
    verdict = privacy.statement(audit)
print(verdict, privacy.scope(study))

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
# A model that does copy: the run's unconditional model, trained on alone a few training frames by the same code. Its samples go through the same audit. Beside it
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
    planted["model made to copy"] = planted_copies.sampled(copying, study.profile)
    figure = samples.image_grid([learnt, planted["model made to copy"][: len(learnt)]], ["trained on", "its samples"])
    style.save(figure, study.write("figures/privacy_planted.png"))
else:
    print(f"No model is made to copy: {no_plant}.")

# %%
if no_audit is None:
    decode = (lambda some: autoencoder.reconstruct(vae, some)) if study.has("vae") else None
    copied = planted_copies.chosen(
        training_set.cells, training_set.patients, len(generated) // 10, study.profile.seed + 1
    )
    planted |= planted_copies.by_hand(frames[train_rows[copied]], decode, study.profile.seed)
    controls = planted_copies.controls(
        audit, spaces, generated_set, held_out_set, training_set, planted, extractor, study.profile.seed
    )
    controls.to_csv(study.write("privacy_controls.csv"), index=False)
    display(controls.round(4))
    print(planted_told := planted_copies.statement(controls))

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
study.note("memorisation", verdict)
study.note("planted copies", planted_told)
study.finish()
