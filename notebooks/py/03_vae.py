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
# **Purpose.** Train the KL autoencoder of §4.3 and §4.5 on arterial-phase frames, measure what it keeps, and encode every frame for the diffusion model.
#
# **Reads** `frames.npy`, `arterial.parquet`, `classifier/` (its features serve as perceptual loss where LPIPS is not used). The phantom's truth is read
# only to measure.
# **Writes** `vae/`, `latents/` (mean and standard deviation of every posterior), `vae_quality.csv`, two figures.
#
# **Measured time**: shown by the last cell of the executed notebook, and in the report of the run.

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
# Patients are split once (notebook 01). Training patients train, validation patients choose the weights. Test patients are for the figures below, or validation
# patients where there is no test frame.

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
# The encoder gives a diagonal Gaussian for every image, the decoder an image for every latent:
#
# $$q(z|x) = \mathcal{N}\big(z;\, \mu(x),\, \operatorname{diag}\sigma^2(x)\big) = \mathcal{E}(x), \qquad \hat x = \mathcal{D}(z), \quad
# z = \mu + \sigma\epsilon,\ \epsilon \sim \mathcal{N}(0, I)$$
#
# Residual blocks alone, no attention anywhere (§4.5). The latent has `latent_channels` channels at a side of $H / 2^{L-1}$ for $L$ levels.

# %%
torch.manual_seed(study.profile.seed)
model = ae.build_autoencoder(config)
ae.summary(model, config).to_frame(study.profile.name)

# %% [markdown]
# ## Loss (Eq. 2, §4.5)
# $$\mathcal{L}_{\text{VAE}} = \lambda_{p}\,\mathcal{L}_{\text{perceptual}}(x, \hat x) + \lambda_{1}\,\lVert x - \hat x \rVert_1 + \lambda_{\text{KL}}\, D_{\text{KL}}\big(q(z|x) \,\Vert\, \mathcal{N}(0, I)\big),
# \qquad D_{\text{KL}} = \tfrac12 \sum_i \big(\mu_i^2 + \sigma_i^2 - 1 - \ln \sigma_i^2\big)$$
#
# §4.5 has the first and the last term; Eq. 2 is $\lVert x - \mathcal{D}(\mathcal{E}(x)) \rVert_1$ alone.
#
# $$\mathcal{L}_{\text{perceptual}} = \frac1L\sum_{l=1}^{L} \frac{1}{H_l W_l} \sum_{h,w} \big\lVert w_l \odot \big(\hat\phi_l(x) - \hat\phi_l(\hat x)\big)_{hw} \big\rVert_2^2$$
#
# with features $\hat\phi_l$ of unit length over channels. In `paper` these are VGG-16's and the weights $w_l$ those of LPIPS, which sums over layers in the
# place of the mean. `smoke` and `phantom` take the features of the run's own phase network with $w_l = 1$: a distance of the same form, and not LPIPS; no weights
# are downloaded. With the optional patch discriminator $D$ the terms $-\lambda_D\,\mathbb{E}[D(\hat x)]$ and, for $D$ itself,
# $\tfrac12\mathbb{E}[\max(0, 1 - D(x))] + \tfrac12\mathbb{E}[\max(0, 1 + D(\hat x))]$ are added; each network learns from its own alone.
#
# What the paper leaves open or says in two ways is a switch; its value in each profile, and why:

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
# Profile `phantom` goes on from the trained weights that ship with the project: the figure shows their training, on other phantom patients, and the
# short stretch that this run adds at the rate at which they were left. They are judged before its first step, and kept if nothing better follows.
# `from_scratch` trains from random weights, as `smoke` and `paper` always do.

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
# With random perceptual weights this was a benchmark: what was trained is worth nothing, so nothing is kept, and every later notebook, which would write
# tables, is skipped in its turn.

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
# The posterior of every arterial frame is kept as mean and standard deviation, in half precision. The latent scale is 1/std over a fixed subset of the
# training frames, so that the diffusion model sees unit variance; it is stored in the autoencoder's configuration:
#
# $$s = \big(\operatorname{Var}[\mu] + \overline{\sigma^2}\big)^{-1/2}$$
#
# What this run or another one has encoded before with the same autoencoder is copied, and an encoding that was stopped goes on.

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
# ## What the autoencoder keeps
# On test patients, who were used for nothing above; an archive without test frames shows validation patients, who chose the weights. PSNR over all pixels is
# dominated by background and says little of vessels, so their contrast is measured apart, by calibre: how far the decoded vessel lies below its
# surroundings, as a share of the original's. *ridge* is measured on the vessels' darkest lines alone and is the stricter one, *area* over all their
# pixels (`decoder_quality.contrast_kept`). Calibre is found in the original frame itself (`vessels.filters.calibres`), so that any archive can be measured.

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
# On the phantom the same frames are known without noise, and so is the artery that each pixel belongs to: rendered once more with every draw as it was and
# infinitely many quanta, and curated alike (`phantom.truth`).

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
# ## What this can and cannot say
# What the autoencoder loses no later model can bring back: its numbers are the ceiling of everything that notebooks 04 to 07 generate. They are of one training of one
# network, and without LPIPS's weights they are no statement on the paper's autoencoder. PSNR and contrast say how near the grey values come, not whether a reader would miss what is gone.
# What the phantom run keeps: [figures/vae_reconstructions.png](../figures/vae_reconstructions.png).

# %%
study.finish()
