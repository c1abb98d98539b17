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
# # 03 · Latent autoencoder
#
# **Purpose.** Train the KL autoencoder of §4.3 and §4.5 on arterial frames, measure what it preserves, and encode all frames for the diffusion model.
#
# **Reads** `frames.npy`, `arterial.parquet` and `classifier/`. The features of the classifier serve as the perceptual loss if LPIPS is not used. The ground truth of the
# phantom is used only for measurements.
#
# **Writes** `vae/`, `latents/` (mean and standard deviation of every posterior), `vae_quality.csv` and two figures.
#
# **Measured time**: printed by the last cell, and in the report of the run.

# %% tags=["parameters"]
run: str = "smoke"  # folder under runs/
profile: str = "smoke"  # smoke, phantom or paper
archive: str = ""  # "" is the phantom archive of notebook 00
overrides: dict = {}  # dotted profile names, e.g. {"autoencoder.steps": 3000}, from shipped weights {"autoencoder.steps_continued": 500}
processes: int = 1  # that train together, one a GPU; a batch is split over them
from_scratch: bool = False  # True: no shipped weights, which profile phantom would go on from

# %%
import numpy as np
import pandas as pd
import torch
from IPython.display import display

from dsa_lib.core import published
from dsa_lib.curation import annotations, cohort, phase
from dsa_lib.figures import samples, style
from dsa_lib.ldm import autoencoder as ae
from dsa_lib.ldm import decoder_quality, latents
from dsa_lib.nn import discriminator, shipped, training
from dsa_lib.nn.curve import training_curve
from dsa_lib.run.progress import track
from dsa_lib.run.session import begin

study = begin("03_vae", globals())
style.apply()
config = study.profile.autoencoder

# %% [markdown]
# ## Frames
# The split by patient is that of notebook 01. The model is trained on the training patients, and the validation patients select the weights. The figures below show test
# patients, or validation patients if there are no test frames.

# %%
if why := study.skipped_upstream("arterial.parquet", "classifier"):
    study.skip(why)
arterial = pd.read_parquet(study.read("arterial.parquet"))
frames = np.load(study.read("frames.npy"), mmap_mode="r")
rows = {split: arterial.loc[arterial["split"] == split, "frame_id"].to_numpy() for split in ("train", "val", "test")}
if why := cohort.cannot_train(arterial, config.batch_size):
    study.skip(why)
pd.Series({split: len(chosen) for split, chosen in rows.items()}, name="arterial frames").to_frame()

# %% [markdown]
# ## Architecture (§4.3, §4.5)
# The encoder maps an image to a diagonal Gaussian distribution. The decoder maps a latent to an image:
# $$q(z|x) = \mathcal{N}\big(z;\, \mu(x),\, \operatorname{diag}\sigma^2(x)\big) = \mathcal{E}(x), \qquad \hat x = \mathcal{D}(z), \quad
# z = \mu + \sigma\epsilon,\ \epsilon \sim \mathcal{N}(0, I)$$
# The networks consist of residual blocks without attention (§4.5). The latent has `latent_channels` channels and a side length of $H / 2^{L-1}$ for $L$ levels.

# %%
torch.manual_seed(study.profile.seed)
model = ae.build_autoencoder(config)
ae.summary(model, config).to_frame(study.profile.name)

# %% [markdown]
# ## Loss (Eq. 2, §4.5)
# $$\mathcal{L}_{\text{VAE}} = \lambda_{p}\,\mathcal{L}_{\text{perceptual}}(x, \hat x) + \lambda_{1}\,\lVert x - \hat x \rVert_1 + \lambda_{\text{KL}}\, D_{\text{KL}}\big(q(z|x) \,\Vert\, \mathcal{N}(0, I)\big),
# \qquad D_{\text{KL}} = \tfrac12 \sum_i \big(\mu_i^2 + \sigma_i^2 - 1 - \ln \sigma_i^2\big)$$
# §4.5 contains the first and the last term. Eq. 2 contains only $\lVert x - \mathcal{D}(\mathcal{E}(x)) \rVert_1$.
# $$\mathcal{L}_{\text{perceptual}} = \frac1L\sum_{l=1}^{L} \frac{1}{H_l W_l} \sum_{h,w} \big\lVert w_l \odot \big(\hat\phi_l(x) - \hat\phi_l(\hat x)\big)_{hw} \big\rVert_2^2$$
# The features $\hat\phi_l$ are normalised to unit length over the channels. In `paper`, they are those of VGG-16 with the LPIPS weights $w_l$, and LPIPS sums over the
# layers instead of averaging. `smoke` and `phantom` use the features of the run's own phase classifier with $w_l = 1$. This distance has the same form but is not LPIPS. No
# weights are downloaded.
#
# The optional patch discriminator $D$ adds the term $-\lambda_D\,\mathbb{E}[D(\hat x)]$. The loss of $D$ itself is $\tfrac12\mathbb{E}[\max(0, 1 - D(x))] +
# \tfrac12\mathbb{E}[\max(0, 1 + D(\hat x))]$. Each network is updated only by its own loss.
#
# The choices that the paper leaves open or describes inconsistently are parameters. The table gives their values in each profile and the reasons:

# %% tags=["nbval-check-output"]
reasons = {
    "perceptual": "§4.5 names LPIPS; the others need no download (phase-network) or measure speed alone (random: nothing is kept)",
    "l1_weight": "§4.5, which states the training in full, has LPIPS and KL; Eq. 2 has L1. On phantoms L1 is on: a phase network's features are coarse",
    "crop": "none mentioned: whole frames; on phantoms crops at vessels give four times the steps for the same computing",
    "kl_reduction": "the sum over an image's latents is the divergence itself, of which 1e-6 is the usual share; a mean would make it vanish",
    "kl_weight": "§4.5; beside a mean over pixels as on phantoms it would leave the latents half noise, so it is smaller there",
    "discriminator_weight": "none in §4.5; usual beside LPIPS elsewhere, where sharpness counts more than fidelity. It can invent vessels",
    "discriminator_start": "step from which its loss reaches the autoencoder; it learns from the first step on",
    "ema_decay": "none mentioned; early stopping chooses the weights already",
    "warmup_steps": "none mentioned; at a learning rate of 2e-5 the first steps are small anyhow",
    "clip_norm": "none mentioned",
    "accumulate": "1 is the published batch of 20; more where a GPU is too small for it, with a smaller batch_size",
}  # fmt: skip
with pd.option_context("display.max_colwidth", None):
    display(published.left_open({f"autoencoder.{name}": why for name, why in reasons.items()}))

# %% [markdown]
# ## Training
# Profile `phantom` continues the training from the shipped weights, at their final learning rate. The figure shows their training on other phantom patients, followed by
# the steps of this run. The shipped weights are evaluated before the first step and are kept if no later weights are better. With `from_scratch`, and always in `smoke` and
# `paper`, training starts from random weights.

# %%
perceptual = ae.open_perceptual(study)
start = shipped.start(study, from_scratch)
if start:
    shipped.load(model, start / "vae")
trained = discriminator.WithDiscriminator(model) if config.discriminator_weight else model
loss = ae.Timed(ae.training_loss(frames, rows["train"], config, perceptual))
log = ae.fit_weights(
    trained,
    frames,
    rows,
    config,
    perceptual,
    study.profile,
    loss=loss,
    start=start,
    sample=ae.samples(frames, rows["val"]),
    processes=processes,
    folder=study.ws.checkpoints("vae"),
    digest=study.digest("autoencoder", code=[ae, discriminator, phase, training]) + shipped.digest(start),
    what="autoencoder",
)
figure = training_curve(log, "Autoencoder", shipped.log("vae") if start else None)
style.save(figure, study.write("figures/vae_training.png"))

# %% [markdown]
# With random perceptual weights, this training is only a benchmark. The result is discarded, and all later notebooks that would write tables are skipped.

# %%
if config.perceptual == "random":
    step_s = loss.seconds() * config.accumulate
    study.note("benchmark", {"seconds_per_step": step_s, "peak_memory_gb": ae.peak_memory_gb()})
    print(
        f"{step_s:.3f} s a step of {config.batch_size * config.accumulate} frames, {ae.peak_memory_gb():.1f} GB at the most."
    )
    study.skip("random perceptual weights are for benchmarks alone: nothing trained with them is kept")

# %% [markdown]
# ## Latents
# The posterior of every arterial frame is stored as mean and standard deviation, in half precision. The latent scale is the inverse standard deviation over a fixed subset
# of the training frames, so that the inputs of the diffusion model have unit variance. It is stored in the configuration of the autoencoder:
# $$s = \big(\operatorname{Var}[\mu] + \overline{\sigma^2}\big)^{-1/2}$$
# Frames that this or another run has already encoded with the same autoencoder are copied. An interrupted encoding resumes.

# %%
device = "cuda" if torch.cuda.is_available() else "cpu"
model = model.to(device).eval()
for name in ("mean.npy", "std.npy", "digests.npy", "latents.json"):
    study.write(f"latents/{name}")
folder = study.ws.path("latents")
counts = latents.encode(
    model, frames, arterial["frame_id"].to_numpy(), ae.latent_shape(config), folder, study.ws.checkpoints("latents"),
    latents.stores(latents.weights_digest(model)), lambda items: track(items, what="batches encoded"),
)  # fmt: skip
mean, std = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in latents.PARTS)
subset = ae.scale_rows(np.flatnonzero(arterial["split"] == "train"), config.scale_images)
scale = ae.latent_scale(mean, std, subset)
model.register_to_config(scaling_factor=scale)
model.save_pretrained(study.write("vae"), safe_serialization=True)
arterial.to_parquet(study.write("latents/index.parquet"), index=False)
print(", ".join(f"{count} {how}" for how, count in counts.items()) + f" of {len(arterial)} latents")
print(
    f"latent scale {scale:.4f}, mean posterior SD {std[subset].astype(np.float32).mean() * scale:.3f} of the scaled latent"
)

# %% [markdown]
# ## What the autoencoder preserves
# The measurements use test patients. An archive without test frames uses validation patients, who selected the weights. PSNR over all pixels is dominated by the background
# and says little about vessels. Vessel contrast is therefore measured separately, by calibre: the depth of a decoded vessel below its surroundings, as a fraction of the
# original depth. *ridge* uses only the darkest line of each vessel and is the stricter measure. *area* uses all vessel pixels (`decoder_quality.contrast_kept`). The
# calibre is determined in the original frame (`vessels.filters.calibres`), so that the measure applies to any archive.

# %%
held_out = arterial[arterial["split"] == ("test" if len(rows["test"]) else "val")]
held_out = held_out.iloc[np.linspace(0, len(held_out) - 1, min(256, len(held_out))).astype(int)].sort_values("frame_id")
original = frames[held_out["frame_id"].to_numpy()]
decoded = ae.reconstruct(model, original)
distance = {"lpips": "LPIPS (VGG)", "phase-network": "phase-network distance (not LPIPS)"}[config.perceptual]
quality = decoder_quality.reconstruction_quality(original, decoded, study.profile.curation.background_grey)
quality |= {distance: ae.perceptual_distance(perceptual, original, decoded, device)}
quality |= decoder_quality.contrast_kept(decoded, original, decoder_quality.calibre_maps(original))
measured = {f"against {len(original)} held-out frames": quality}

# %% [markdown]
# For the phantom, noise-free versions of the same frames are known, as is the artery of each pixel. They are rendered again with the same random draws and infinitely many
# quanta, and curated in the same way (`phantom.truth`).

# %%
if study.archive is None and study.has("archive_truth.parquet"):
    from dsa_lib.phantom import truth

    study.read("archive"), study.read("archive_truth_masks.npz")  # as notebook 00 left them
    some = held_out["series"].isin(
        held_out["series"].drop_duplicates().iloc[:: max(1, held_out["series"].nunique() // 60)]
    )
    key = annotations.read_key(study.ws.private("series_key.parquet"))
    known = study.profile.archive, study.profile.seed, study.profile.curation
    noise_free, masks = truth.of_run(held_out[some], key, study.ws.root, *known, lambda runs, n: track(runs, n, "runs"))
    against_truth = decoder_quality.truth_quality(decoded[some], noise_free, masks)
    study.note("against_truth", against_truth)
    measured[f"against the truth of {some.sum()} of them"] = against_truth
study.note("reconstruction", quality)
table = pd.DataFrame(measured)
table.rename_axis("measure").to_csv(study.write("vae_quality.csv"))
table.round(3).astype(object).where(table.notna(), "")

# %%
picked = np.linspace(0, len(original) - 1, min(6, len(original))).astype(int)
difference = np.clip(128 + decoded[picked].astype(int) - original[picked], 0, 255).astype(np.uint8)
figure = samples.image_grid(
    [original[picked], decoded[picked], difference], ["original", "decoded", "difference + 128"]
)
style.save(figure, study.write("figures/vae_reconstructions.png"))

# %% [markdown]
# ## Interpretation
# Later models cannot restore what the autoencoder loses. Its results are the upper limit for all frames generated in notebooks 04 to 07. They describe a single training of
# one network. Without the LPIPS weights, they say nothing about the autoencoder of the paper. PSNR and contrast measure the accuracy of grey levels, not whether a reader
# would miss the lost detail. Reconstructions of the phantom run: [figures/vae_reconstructions.png](../figures/vae_reconstructions.png).

# %%
study.finish()
