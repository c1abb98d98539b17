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
# # 23 · Lesion-aware post-training
#
# **Purpose.** Encoding an image into a latent loses small structures, and lesions are small. Lee et al. (*Lesion-Aware Post-Training of Latent Diffusion Models for Synthesizing Diffusion
# MRI from CT Perfusion*) train a finished image-to-image model further with losses in image space, over the whole image and inside the lesion (their Fig. 2). Does this help on
# angiograms? The task here is to translate an unsubtracted frame into a subtracted frame with a lesion. Post-training is compared with the same amount of training without these losses,
# and with pix2pix.
#
# **Inputs.** `vae/` of notebook 03; `latents/index.parquet`, `frames.npy`, `classifier/` and `dsa_network/` for the feature distance. The pairs are rendered here. With `ct_perfusion`
# instead: a folder of CT-perfusion and diffusion volumes, the task of Lee et al. (`data_manifests/schemas/ct_perfusion.md`).
#
# **Outputs.** `lesions/` (pairs, models, scores), tables `lesions_scores.csv`, `lesions_differences.csv`, `lesions_by_kind.csv`, and six figures `lesion_*`. Translations of the phantom
# run: [figures/lesion_translations.png](../figures/lesion_translations.png).
#
# **Time.** Training and sampling take most of it. The last cell prints the time of this run.

# %% tags=["parameters"]
run: str = "smoke"  # folder of this run under runs/
profile: str = "smoke"  # smoke, phantom or paper
archive: str = ""  # empty: the phantom archive of notebook 00, and lesions of the phantom; lesions of a real archive are known to nobody
overrides: dict = {}  # e.g. {"post_training.lesion_weight": 2.0, "post_training.latest": 0.3}
ct_perfusion: str = ""  # folder of CT-perfusion and diffusion volumes: the source's own task instead of the angiograms
from_scratch: bool = False  # True: no shipped weights, which profile phantom would go on from

# %%
import functools
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import display

from dsa_lib.core import published
from dsa_lib.fidelity import features
from dsa_lib.figures import lesions as figures
from dsa_lib.figures import style
from dsa_lib.ldm import autoencoder, diffusion
from dsa_lib.lesions import comparison, lesion_scores, lesion_weights, pix2pix, post_training, translation
from dsa_lib.lesions import ct_perfusion as volumes
from dsa_lib.lesions.lesion_scores import BASE, CONTROL, PIX2PIX, POST
from dsa_lib.nn.curve import training_curve
from dsa_lib.nn.processes import default_device
from dsa_lib.run.progress import track
from dsa_lib.run.session import begin
from dsa_lib.run.workspace import sha256

study = begin("23_lesion_post_training", globals())
style.apply()
config, post, seed = study.profile.lesions, study.profile.post_training, study.profile.seed

# %% [markdown]
# ## Pairs
# The source is the frame as acquired, including bone. The target is the subtracted frame at the same time. The model must distinguish contrast medium from bone without a mask frame. The
# patients are simulated and are not those of the run. An aneurysm, stenosis, occlusion or malformation is added to their arteries before injection, projection, DICOM export and curation,
# which are the same as for all other patients. One injection in five has no lesion. The frame is the arterial one in which the lesion is darkest. The lesion mask is derived from the
# simulated anatomy.

# %%
if ct_perfusion:
    read = volumes.read(Path(ct_perfusion), study.profile.curation.image_size, seed, study.profile.ct_perfusion)
    pairs, origin = read.pairs, f"CT perfusion to {study.profile.ct_perfusion.target.upper()}"
    print(f"source channels: {', '.join(read.channels)}; patients left out: {len(read.quarantine)}")
    display(read.quarantine)
elif study.archive is None:
    from dsa_lib.phantom import lesion_archive

    if why := study.skipped_upstream("latents/index.parquet", "vae", "ldm", "dsa_network"):
        study.skip(why)
    progress = functools.partial(track, what="series of lesion pairs")
    pairs, found = lesion_archive.pairs(study.profile, study.ws.checkpoints("lesion_pairs"), progress=progress)
    origin = "phantom"
    print(f"{len(pairs)} pairs; {found.left_out} planned ones show no lesion inside the field and are left out")
else:
    study.skip("no lesion masks are known for a real archive: give ct_perfusion, or run this notebook on the phantom")
pairs.save(study.write("lesions/pairs.npz"))
given = sha256(study.ws.path("lesions/pairs.npz"))
style.save(figures.pairs(pairs, lesion_scores.panel_rows(pairs)), study.write("figures/lesion_pairs.png"))

# %% tags=["nbval-check-output"]
lesion_scores.counts(pairs)

# %% [markdown]
# ## Latent space
# Lee et al. use the latent space of a VQGAN. Here it is that of the run's KL autoencoder (§4.3), which stays frozen. It was trained neither on the patients of the pairs nor on lesions.
# With `ct_perfusion`, an autoencoder is first trained on the targets, because that of the run has not seen such images.
#
# The reconstruction error of the autoencoder inside a lesion is the lower limit for all models below: no latent model can be closer to the truth than $\mathcal D(\mathcal E(x))$.

# %%
vae, given = comparison.latent_space(study, pairs, given, own=bool(ct_perfusion))
test_rows = lesion_scores.sampled_rows(pairs, "test", config.evaluated)
test = pairs.at(test_rows)
floor = lesion_scores.of_images(test, {"autoencoder alone": autoencoder.reconstruct(vae, test.targets)})
lesion_scores.shown(lesion_scores.table(floor))

# %% [markdown]
# ## Base model: conditional latent diffusion
# $$\mathcal{L}_{\text{latent}} = \mathbb{E}_{z_0,\epsilon,t}\,\bigl\lVert v - v_\theta(z_t, t, y)\bigr\rVert^2,\qquad
# z_t = \sqrt{\bar\alpha_t}\,z_0 + \sqrt{1-\bar\alpha_t}\,\epsilon,\qquad z_0 = \mathcal{E}(x)$$
# The target is $v$ or $\epsilon$ (`diffusion.prediction`). `lesions.min_snr_gamma` weights the timesteps, which have equal weights by default. The source image $y$ is concatenated with
# $z_t$ at latent resolution (`lesions.source_as`). `unshuffle` rearranges each block of pixels into channels, which preserves vessels one pixel wide. `latent` encodes $y$ like $x$, with
# an encoder that was not trained on bone.
#
# Profile `phantom` continues from shipped weights, which were trained on other phantom patients. `from_scratch` trains from random weights.

# %%
schedule = diffusion.noise_schedule(study.profile.diffusion)
data = comparison.training_data(pairs, vae, config.source_as)
start = None if ct_perfusion else lesion_weights.start(study, set(pairs.patients), from_scratch)
given += lesion_weights.digest(start)
base = comparison.base(study, data, schedule, vae, given, start)
translation.save(base.model, study.write("lesions/base"))
shipped_log = lesion_weights.log(lesion_weights.BASE) if start else None
figure = training_curve(base.log, "Image-to-image diffusion", shipped_log)
style.save(figure, study.write("figures/lesion_training.png"))

# %% [markdown]
# ## One-step estimate
# Image losses need an image. The network output for a single noisy $z_t$ gives a closed-form estimate of the clean latent,
# $$\hat z_0(z_t,t) = \frac{z_t - \sqrt{1-\bar\alpha_t}\,\hat\epsilon}{\sqrt{\bar\alpha_t}} = \sqrt{\bar\alpha_t}\,z_t - \sqrt{1-\bar\alpha_t}\,\hat v ,$$
# (Eq. 3 of the DSA paper, solved for $z_0$), which the decoder converts to an image $\hat x=\mathcal D(\hat z_0)$. At high noise, the estimate is the mean over all images that are
# compatible with $z_t$ and $y$. This mean is blurred, and a pixel loss rewards the blur. Image losses are therefore only used for $t < \tau T$ with $\tau$ = `post_training.latest`. The
# figure shows the error as a function of $t$ on validation patients.

# %%
when = translation.times(schedule.config.num_train_timesteps)
curve = translation.curve(base.model, data["val"], vae, schedule, when, seed)
shown = translation.examples(base.model, data["val"], vae, schedule, curve["t"], seed)
style.save(figures.timesteps(curve, post.latest, shown), study.write("figures/lesion_timesteps.png"))
curve.round(2)

# %% [markdown]
# ## Post-training
# $$\mathcal{L} = \mathcal{L}_{\text{latent}} + \lambda_{\text{image}}\,\mathbb{E}\bigl[\,[t<\tau T]\;\tfrac1{|\Omega|}\lVert x-\hat x\rVert_1\bigr]
# + \lambda_{\text{lesion}}\,\mathbb{E}\bigl[\,[t<\tau T]\;\tfrac1{|M|}\lVert M\odot(x-\hat x)\rVert_1\bigr]$$
# over the image $\Omega$ and its lesion $M$ (zero if there is none). The decoder is frozen and only propagates gradients. It decodes `post_training.decoded_at_once` images at a time and
# recomputes its activations in the backward pass, so that its memory does not grow with the batch (measured in `benchmarks/post_training.py`). The memory of the denoising network does.
#
# Longer training alone also helps. The control is therefore the same base model, trained for the same number of further steps on the same batches with the same noise and learning rates,
# with both $\lambda$ set to 0. Neither arm selects its weights by a held-out loss.

# %%
arms = {BASE: base}
for name, settings in ((CONTROL, post_training.without_images(post)), (POST, post)):
    arms[name] = comparison.further(study, base, data, schedule, settings, given, what=name)
translation.save(arms[POST].model, study.write("lesions/post_trained"), {"settings": str(post)})
if arms[POST].decoder is not vae:  # it was trained along
    arms[POST].decoder.save_pretrained(study.write("lesions/post_trained_vae"))
translation.save(arms[CONTROL].model, study.write("lesions/trained_on"))
comparison.loss_parts({name: arms[name] for name in (CONTROL, POST)}).round(4)

# %% [markdown]
# ## pix2pix
# $$\min_G\max_D\;\mathbb{E}\,[\log D(y,x)] + \mathbb{E}\,[\log(1-D(y,G(y)))] + \lambda\,\mathbb{E}\,\lVert x-G(y)\rVert_1$$
# This common baseline of image-to-image translation (Isola et al., CVPR 2017) minimises the error that the table below reports, with a discriminator that penalises blur.

# %%
gan, log = comparison.baseline(study, pairs, given, start)
pix2pix.save(gan, study.write("lesions/pix2pix"), study.profile.pix2pix, pairs.targets.shape[-1])
drawn = training_curve(log, "pix2pix", None, ("train_l1", "val_loss"), "mean absolute error")
style.save(drawn, study.write("figures/lesion_pix2pix_training.png"))

# %% [markdown]
# ## Held-out patients
# One image per model and test pair, with the same seed for all models.

# %%
made = {PIX2PIX: pix2pix.generate(gan.to(default_device()), test.sources, seeds=test_rows)}
made |= comparison.translations(arms, schedule, test.sources, test_rows, config)
scores = lesion_scores.of_images(test, made)
scores.to_csv(study.write("lesions/scores.csv"), index=False)
rows = lesion_scores.panel_rows(test)
errors = {name: of["lesion_mae"].to_numpy()[rows] for name, of in scores.groupby("model", sort=False)}
figure = figures.translations(test, rows, {name: images[rows] for name, images in made.items()}, errors)
style.save(figure, study.write("figures/lesion_translations.png"))

# %% [markdown]
# ## Results
# The measures of Lee et al.: MAE (grey levels), PSNR (dB), MS-SSIM, a Fréchet distance, and MAE inside the lesion, as means over patients. The text of their paper that was available
# contains the ranking but no values, so the published cells are empty:

# %% tags=["nbval-check-output"]
published.published(published.LESIONS).pivot(index="row", columns="column", values="ranking")

# %% [markdown]
# The distance uses the features of the run's own network. It is not an FID. With few images, it is too large for all models.

# %%
extractor = None
if not ct_perfusion:
    frames = np.load(study.read("frames.npy"), mmap_mode="r")
    index = pd.read_parquet(study.read("latents/index.parquet"))
    extractor = features.of_run(
        study, frames, index.loc[index["split"] == "train", "frame_id"].to_numpy(), study.read("dsa_network")
    )
elif study.profile.fidelity.features == "inception":
    extractor = features.inception_extractor(study.profile.fidelity.batch_size)
distance_name = extractor.distance if extractor else "feature distance (none: this network knows angiograms alone)"
distance = lesion_scores.distances(test, made, extractor) if extractor else {}
table = lesion_scores.table(scores)
contract = lesion_scores.contract(table, distance, distance_name, origin)
lesion_scores.write(study.write("tables/lesions_scores.csv"), contract)
display(lesion_scores.shown(table))
contract.pivot(index="row", columns="column", values="this_run").reindex(list(made)).round(4)

# %% [markdown]
# ## Significance
# Differences are paired by patient, with 95 % bootstrap intervals over patients and Wilcoxon's signed-rank test with Holm's correction over the table. Two targets were set in advance: an
# error inside the lesion at least 10 % lower, and an error over the whole image at most 2 % higher. Both refer to the control, which accounts for longer training. The base model and
# pix2pix are shown as well.

# %%
differences = lesion_scores.paired_each(scores, lesion_scores.AGAINST, seed=seed)
lesion_scores.write(study.write("tables/lesions_differences.csv"), differences)
verdicts = lesion_scores.verdicts(table, differences)
print(*verdicts, sep="\n")
# Without pix2pix, whose distance would set the scale.
of_control = differences[(differences["reference"] == CONTROL) & (differences["model"] != PIX2PIX)]
style.save(figures.scores(table, of_control), study.write("figures/lesion_scores.png"))
by_kind = lesion_scores.by_kind(scores, CONTROL, POST, seed=seed)
lesion_scores.write(study.write("tables/lesions_by_kind.csv"), by_kind)
display(differences.round(4))
by_kind.round(4)

# %% [markdown]
# ## Interpretation
# The settings of profile `phantom` (loss weights, learning rate, sampler, longer training of the base model) were chosen on validation patients, but after an earlier run had shown the
# scores of the test patients. Only the selected settings are kept. Unless `ct_perfusion` was given, all results are from the phantom: simulated lesions on simulated vessels, and
# unsubtracted frames without air, teeth or motion between mask and contrast frames beyond that of the phantom. They show how the *method* behaves when the truth is known, not how well it
# represents lesions of patients. A frame that is subtracted without a mask frame is an estimate and must not be used to look for lesions.

# %%
study.note("lesions", verdicts)
study.finish()
