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
# # 05 · Sampling
#
# **Purpose.** Generate the reader set (§2.3: ten batches of forty, ten of each condition) and the set for the Fréchet distance (§2.5), and draw Figures 2, 3 and 5.
#
# **Reads** `ldm/`, `arterial.parquet`, `frames.npy`. **Writes** `samples/reader/`, `samples/fid/`, figures.
#
# **Measured time**: shown by the last cell of the executed notebook, and in the report of the run.

# %% tags=["parameters"]
run: str = "smoke"  # folder under runs/
profile: str = "smoke"  # smoke, phantom or paper
archive: str = ""  # "" is the phantom archive of notebook 00
overrides: dict = {}  # dotted profile names, e.g. {"sampling.scheduler": "ddpm", "sampling.steps": 1000}

# %%
import numpy as np
import pandas as pd
import torch

from dsa_lib import autoencoder, diffusion, images, sampling, text
from dsa_lib.conditions import CANONICAL
from dsa_lib.figures import samples, style
from dsa_lib.progress import track
from dsa_lib.session import begin
from dsa_lib.workspace import sha256

study = begin("05_sampling", globals())
style.apply()
config = study.profile.sampling

# %% [markdown]
# ## The four sentences
# The four conditions of the reader study (§2.3), as the text encoder receives them.

# %%
pd.set_option("display.max_colwidth", None)
pd.DataFrame({"sentence": {cell: condition.sentence() for cell, condition in CANONICAL.items()}})

# %% [markdown]
# ## Sampler
# $$z_{t-1} = \tfrac{1}{\sqrt{\alpha_t}}\Bigl(z_t - \tfrac{1-\alpha_t}{\sqrt{1-\bar\alpha_t}}\,\epsilon_\theta(z_t,t)\Bigr) + \sigma_t\,\eta,\qquad \hat x = \mathcal{D}(z_0)\tag{5, 6}$$
# is the ancestral step of DDPM (`sampling.scheduler=ddpm`, the published 1000 steps). `smoke` and `phantom` solve the same reverse process with DPM-Solver++ in few steps.

# %%
if why := study.skipped_upstream("ldm"):
    study.skip(why)
source = study.read("ldm")
pipeline = diffusion.DSAPipeline.from_pretrained(source).to("cuda" if torch.cuda.is_available() else "cpu")
pipeline.scheduler = diffusion.sampler(config.scheduler, pipeline.scheduler)
model = sha256(source)
digest = study.digest("sampling", code=[autoencoder, diffusion, sampling, text])

# %% [markdown]
# ## Reader set and Fréchet set
# Stratified: every batch holds the same number of each condition. Each image has a seed of its own, so that it does not depend on the batch it was made in.
# Image numbers are random: a file name tells a blinded reader nothing.

# %%
plans = {
    "reader": sampling.stratified_plan(study.profile.seed, config.reader_per_condition, config.reader_batches),
    "fid": sampling.stratified_plan(study.profile.seed + 1, config.fid_per_condition),
}
manifests = {}
for name, plan in plans.items():
    manifests[name] = sampling.generate(
        pipeline,
        plan,
        study.write(f"samples/{name}"),
        steps=config.steps,
        batch_size=config.batch_size,
        model=model,
        digest=digest,
        track=lambda items, name=name: track(items, what=f"batches of the {name} set"),
    )

# %% tags=["nbval-check-output"]
pd.DataFrame({name: manifest.groupby("cell").size() for name, manifest in manifests.items()}).loc[list(CANONICAL)]

# %% [markdown]
# ## Figure 2
# Held-out frames of each condition beside generated ones, none selected by eye: at the left the most probably arterial frame of each of the series
# in which the classifier is surest; at the right the generated images in the order of their numbers.

# %%
arterial = pd.read_parquet(study.read("arterial.parquet"))
frames = np.load(study.read("frames.npy"), mmap_mode="r")
real, generated, columns = {}, {}, 4
for cell in CANONICAL:
    held_out = arterial[(arterial["cell"] == cell) & (arterial["split"] != "train")]
    one_each = held_out.sort_values("probability", ascending=False).drop_duplicates("series")["frame_id"].head(columns)
    real[cell] = frames[np.sort(one_each)]
    chosen = manifests["reader"].loc[manifests["reader"]["cell"] == cell, "file"].head(columns)
    generated[cell] = images.read_images(study.ws.path("samples/reader"), chosen.tolist())
origin = "archive" if study.archive else "phantom"
style.save(samples.figure2(real, generated, f"{origin}, held-out patients"), study.write("figures/figure2.png"))

# %% [markdown]
# ## Figure 3
# From the conditions to the evaluation, with the numbers of this run.

# %%
n_reader, n_fid = (len(manifests[name]) for name in ("reader", "fid"))
per_cell = manifests["reader"].groupby("cell").size()
figure3 = samples.flow(
    [
        [
            f"{cell}\n{condition.primary_angle_deg:g}°/{condition.secondary_angle_deg:g}°"
            for cell, condition in CANONICAL.items()
        ],
        ["sentence → BERT → denoising UNet → decoder"],
        [
            f"reader set: {n_reader} images\n({config.reader_batches} batches, {per_cell.iloc[0]} a condition)",
            f"Fréchet set: {n_fid} images",
        ],
        ["screening → ratings → Tables 2–4", "features → distances → Table 5"],
    ]
)
style.save(figure3, study.write("figures/figure3.png"))

# %% [markdown]
# ## Figure 5
# The system, with the sizes of this profile.

# %%
unet, vae, bert = pipeline.unet, pipeline.vae, pipeline.text_encoder
count = {
    name: sum(p.numel() for p in module.parameters()) / 1e6
    for name, module in (("unet", unet), ("vae", vae), ("bert", bert))
}
side = unet.config.sample_size
figure5 = samples.flow(
    [
        ["frame x", "“This is an anterior DSA scan taken in Plane A, …”"],
        [
            f"encoder of the autoencoder ({count['vae']:.1f} M)",
            f"BERT, {bert.config.num_hidden_layers} layers ({count['bert']:.1f} M)",
        ],
        [
            f"latent z₀: {unet.config.in_channels} × {side} × {side}, noised to z_t (Eq. 3)",
            f"context c: {bert.config.hidden_size} channels",
        ],
        [f"UNet with cross-attention ({count['unet']:.1f} M), T = {pipeline.scheduler.config.num_train_timesteps}"],
        ["decoder of the autoencoder → generated frame (Eq. 6)"],
    ]
)
style.save(figure5, study.write("figures/figure5.png"))

# %%
study.finish()
