# ---
# jupyter:
#   jupytext:
#     cell_metadata_filter: tags,-all
#     formats: ipynb,py:percent
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
# **Reads** `frames.npy`, `arterial.parquet`, `classifier/` (its features serve as perceptual loss where LPIPS is not used).
# **Writes** `vae/`, `latents/` (mean and standard deviation of every posterior).
#
# **Measured time**: shown by the last cell of the executed notebook, and in the report of the run.

# %% tags=["parameters"]
run: str = "smoke"  # folder under runs/
profile: str = "smoke"  # smoke, phantom or paper
archive: str = ""  # "" is the phantom archive of notebook 00
overrides: dict = {}  # dotted profile names, e.g. {"autoencoder.steps": 3000}

# %%
import numpy as np
import pandas as pd
import torch

from dsa_lib import autoencoder as ae
from dsa_lib import cohort, phase, reconstruction, training
from dsa_lib.figures import samples, style
from dsa_lib.progress import track
from dsa_lib.session import begin
from dsa_lib.weights import load

study = begin("03_vae", globals())
style.apply()
config = study.profile.autoencoder

# %% [markdown]
# ## Frames
# Patients are split once (notebook 01). Training patients train, validation patients choose the weights, test patients (validation patients, where there is no test frame) are for the figures below.

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
# ## Architecture
# Encoder $\mathcal{E}$ and decoder $\mathcal{D}$ with residual blocks alone, no attention (§4.5). The latent has `latent_channels` channels at a side of
# $H / 2^{L-1}$ for $L$ levels.

# %%
torch.manual_seed(study.profile.seed)
model = ae.build_autoencoder(config)
pd.Series(
    {
        "image": f"1 × {config.image_size} × {config.image_size}",
        "latent": " × ".join(map(str, ae.latent_shape(config))),
        "channels": ", ".join(map(str, config.block_channels)),
        "perceptual loss": config.perceptual,
    },
    name=study.profile.name,
).to_frame()

# %% [markdown]
# ## Loss
# $$\mathcal{L}_{\text{VAE}} = \mathcal{L}_{\text{perceptual}} + \lambda_{1}\,\lVert x - \mathcal{D}(\mathcal{E}(x)) \rVert_1 + \lambda_{\text{KL}}\, D_{\text{KL}}(q(z|x) \parallel p(z))$$
#
# §4.5 has LPIPS and KL; Eq. 2 has L1 alone. Profile `paper` follows §4.5. `smoke` and `phantom` take the features of the run's own phase network in the
# place of LPIPS (a distance of the same form, and not LPIPS) and add L1: no weights are downloaded.

# %%
device = "cuda" if torch.cuda.is_available() else "cpu"
if config.perceptual == "lpips":
    perceptual = ae.Lpips(load("vgg16")).to(device)
else:
    network, _ = phase.load_classifier(study.read("classifier"))
    network = network.to(device).eval().requires_grad_(False)
    perceptual = ae.FeatureDistance(lambda x: phase.stage_features(network, (x + 1) / 2))

# %% [markdown]
# ## Training

# %%
loss = ae.training_loss(frames, rows["train"], config, perceptual)
log = training.fit(
    model,
    loss,
    size=len(rows["train"]),
    batch_size=config.batch_size,
    learning_rate=config.learning_rate,
    **training.budget(len(rows["train"]), config.batch_size, config.steps, config.epochs),
    patience=config.patience if config.epochs else 0,
    validate=ae.validation_loss(frames, rows["val"], config, perceptual, study.profile.seed),
    cosine=bool(config.steps),
    seed=study.profile.seed,
    precision=study.profile.precision,
    folder=study.ws.checkpoints("vae"),
    digest=study.digest("autoencoder", code=[ae, phase, training]),
    log_every_s=study.profile.log_every_s,
    checkpoint_every_s=study.profile.checkpoint_every_s,
    what="autoencoder",
)
figure = samples.training_curve(log, "Autoencoder")
style.save(figure, study.write("figures/vae_training.png"))

# %% [markdown]
# ## Latents
# The posterior of every arterial frame is kept as mean and standard deviation. The latent scale is 1/std over a fixed subset of the training frames, so
# that the diffusion model sees unit variance; it is stored in the autoencoder's configuration.

# %%
model = model.to(device).eval()
shape = (len(arterial), *ae.latent_shape(config))
store = {name: study.write(f"latents/{name}.npy") for name in ("mean", "std")}
mean, std = (np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape) for path in store.values())
order = arterial["frame_id"].to_numpy()
ae.encode_latents(model, frames, order, mean, std, lambda items: track(items, what="batches encoded"))
train_rows = np.flatnonzero(arterial["split"] == "train")
subset = train_rows[np.linspace(0, len(train_rows) - 1, min(config.scale_images, len(train_rows))).astype(int)]
scale = ae.latent_scale(mean, std, subset)
mean.flush(), std.flush()
model.register_to_config(scaling_factor=scale)
model.save_pretrained(study.write("vae"), safe_serialization=True)
arterial.to_parquet(study.write("latents/index.parquet"), index=False)
print(
    f"latent scale {scale:.4f}, mean posterior standard deviation {std[subset].astype(np.float32).mean() * scale:.3f} of the scaled latent"
)

# %% [markdown]
# ## What the autoencoder keeps
# On test patients, who were used for nothing above; an archive without test frames shows validation patients, who chose the weights. PSNR over all pixels is dominated by background, so vessel pixels are reported apart.

# %%
held_out = rows["test"] if len(rows["test"]) else rows["val"]
shown = np.sort(held_out[np.linspace(0, len(held_out) - 1, min(256, len(held_out))).astype(int)])
original = frames[shown]
decoded = ae.reconstruct(model, original)
quality = reconstruction.reconstruction_quality(original, decoded, study.profile.curation.background_grey)
study.note("reconstruction", quality)
pd.Series(quality, name=f"{len(shown)} held-out frames").round(3).to_frame()

# %%
picked = np.linspace(0, len(shown) - 1, min(6, len(shown))).astype(int)
difference = np.clip(128 + decoded[picked].astype(int) - original[picked], 0, 255).astype(np.uint8)
figure = samples.image_grid(
    [original[picked], decoded[picked], difference], ["original", "decoded", "difference + 128"]
)
style.save(figure, study.write("figures/vae_reconstructions.png"))

# %%
study.finish()
