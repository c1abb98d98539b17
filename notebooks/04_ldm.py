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
# # 04 · Latent diffusion
#
# **Purpose.** Train the unconditional (§4.3) and the text-conditioned (§4.4) latent diffusion model; the sentence encoder is a BERT trained from scratch,
# jointly with the denoising network.
#
# **Reads** `latents/`, `vae/`. **Writes** `ldm/` and `ldm_unconditional/`, pipelines that `DSAPipeline.from_pretrained` opens.
#
# **Measured time**: shown by the last cell of the executed notebook, and in the report of the run.

# %% tags=["parameters"]
run: str = "smoke"  # folder under runs/
profile: str = "smoke"  # smoke, phantom or paper
archive: str = ""  # "" is the phantom archive of notebook 00
overrides: dict = {}  # dotted profile names, e.g. {"diffusion.steps_conditional": 5000}

# %%
import numpy as np
import pandas as pd
import torch

from dsa_lib import autoencoder, diffusion, text, training
from dsa_lib.conditions import CANONICAL
from dsa_lib.figures import samples, style
from dsa_lib.session import begin

study = begin("04_ldm", globals())
style.apply()
config = study.profile.diffusion

# %% [markdown]
# ## Data
# Latents are drawn from the stored posteriors at every use. Each comes with the sentence of its frame (§4.4): circulation, plane, primary and secondary angle.

# %%
if why := study.skipped_upstream("latents/index.parquet", "vae"):
    study.skip(why)
index = pd.read_parquet(study.read("latents/index.parquet"))
mean, std = (np.load(study.read(f"latents/{name}.npy"), mmap_mode="r") for name in ("mean", "std"))
vae = autoencoder.AutoencoderKL.from_pretrained(study.read("vae"))
vae.register_to_config(_name_or_path="vae")  # the pipeline's copy must not name a folder of this machine
tokenizer = text.build_tokenizer(study.profile.text.max_tokens)
part = {split: np.flatnonzero(index["split"] == split) for split in ("train", "val")}


def latent_set(split, with_text):
    sentences = index["sentence"].iloc[part[split]].tolist() if with_text else None
    return diffusion.LatentSet(mean[part[split]], std[part[split]], vae.config.scaling_factor, sentences, tokenizer)


index.iloc[part["train"]].groupby("cell").agg(frames=("frame_id", "size"), sentences=("sentence", "nunique"))

# %% [markdown]
# ## The sentence and its tokens
# The vocabulary is the sentence grammar itself, with single digits, so that an angle which never occurred can still be asked for.

# %%
pd.Series(
    {cell: " ".join(tokenizer(condition.sentence()).tokens()[1:-1]) for cell, condition in CANONICAL.items()},
    name="tokens",
).to_frame()

# %% [markdown]
# ## Forward process
# $$z_t = \sqrt{\bar\alpha_t}\, z_0 + \sqrt{1-\bar\alpha_t}\,\epsilon,\qquad \epsilon\sim\mathcal N(0, I),\qquad \bar\alpha_t=\prod_{s\le t}(1-\beta_s)\tag{3}$$

# %%
schedule = diffusion.noise_schedule(config)
checkpoints = [1, config.timesteps // 4, config.timesteps // 2, 3 * config.timesteps // 4, config.timesteps]
kept = {t: float(schedule.alphas_cumprod[t - 1] ** 0.5) for t in checkpoints}
pd.DataFrame(
    {"√ᾱ_t": pd.Series(kept).round(4), "β_t": [round(float(schedule.betas[t - 1]), 6) for t in checkpoints]}
).rename_axis("t").T

# %% [markdown]
# ## Unconditional model
# $$\mathcal{L}_{\text{DDPM}} = \mathbb{E}_{z,\epsilon,t}\,\lVert \epsilon-\epsilon_\theta(z_t,t)\rVert^2\tag{4}$$
# Profiles `smoke` and `phantom` predict $v=\sqrt{\bar\alpha_t}\,\epsilon-\sqrt{1-\bar\alpha_t}\,z_0$ instead, which learns faster in few steps; `paper` predicts $\epsilon$.

# %%
torch.manual_seed(study.profile.seed)
latent_channels, latent_size = mean.shape[1], mean.shape[2]
unet = diffusion.build_unet(config, latent_channels, latent_size, context=None)
log = diffusion.train(
    diffusion.UnconditionalDenoiser(unet),
    {split: latent_set(split, with_text=False) for split in part},
    schedule,
    study.profile,
    steps=config.steps_unconditional,
    epochs=config.epochs_unconditional,
    patience=config.patience,
    folder=study.ws.checkpoints("ldm_unconditional"),
    digest=study.digest("diffusion", code=[diffusion, training]),
    what="unconditional diffusion",
)
diffusion.DSAPipeline(vae, unet, schedule).save_pretrained(study.write("ldm_unconditional"))
style.save(
    samples.training_curve(log, "Unconditional diffusion"), study.write("figures/ldm_unconditional_training.png")
)

# %% [markdown]
# ## Conditional model
# $$\mathcal{L}_{\text{cond}} = \mathbb{E}_{z,\epsilon,t,c}\,\lVert \epsilon-\epsilon_\theta(z_t,t,c)\rVert^2$$
# The sentence embedding $c$ enters through cross-attention at the attended levels. `diffusion.balance` draws rare cells of Table 1 more often (0, as in the
# paper: frames as they occur).

# %%
torch.manual_seed(study.profile.seed + 1)
encoder = text.build_encoder(study.profile.text, len(tokenizer))
unet = diffusion.build_unet(config, latent_channels, latent_size, context=study.profile.text.width)
log = diffusion.train(
    diffusion.ConditionalDenoiser(unet, encoder),
    {split: latent_set(split, with_text=True) for split in part},
    schedule,
    study.profile,
    steps=config.steps_conditional,
    epochs=config.epochs_conditional,
    patience=config.patience_conditional,
    weights=diffusion.balancing_weights(index["cell"].iloc[part["train"]], config.balance),
    folder=study.ws.checkpoints("ldm"),
    digest=study.digest("diffusion", "text", code=[diffusion, text, training]),
    what="conditional diffusion",
)
pipeline = diffusion.DSAPipeline(vae, unet, schedule, encoder, tokenizer)
pipeline.save_pretrained(study.write("ldm"))
style.save(samples.training_curve(log, "Conditional diffusion"), study.write("figures/ldm_training.png"))
study.note("validation loss", float(log["val_loss"].min()))

# %% [markdown]
# ## A first look
# One sentence, one image: two of each condition, and four without any condition, all from the saved pipelines.

# %%
pipeline = diffusion.DSAPipeline.from_pretrained(study.ws.path("ldm"))
pipeline.scheduler = diffusion.sampler(study.profile.sampling.scheduler, schedule)
steps = study.profile.sampling.steps
asked = [cell for cell in CANONICAL for _ in range(2)]
frames = pipeline([CANONICAL[cell] for cell in asked], seeds=range(len(asked)), num_inference_steps=steps)
unconditional = diffusion.DSAPipeline.from_pretrained(study.ws.path("ldm_unconditional"))
unconditional.scheduler = diffusion.sampler(study.profile.sampling.scheduler, schedule)
free = unconditional(seeds=range(len(asked)), num_inference_steps=steps)
style.save(
    samples.image_grid([frames, free], ["conditional", "unconditional"], titles=asked),
    study.write("figures/ldm_first_look.png"),
)

# %%
study.finish()
