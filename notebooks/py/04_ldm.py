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
# # 04 · Latent diffusion
#
# **Purpose.** Train the unconditional (§4.3) and the text-conditioned (§4.4) latent diffusion model. The text encoder is a BERT that is trained from scratch, jointly with
# the denoising network.
#
# **Reads** `latents/`, `vae/`.
#
# **Writes** `ldm/` and `ldm_unconditional/`. `DSAPipeline.from_pretrained` loads these pipelines, and so does `DiffusionPipeline.from_pretrained(folder,
# trust_remote_code=True)` of diffusers.
#
# **Measured time**: printed by the last cell, and in the report of the run.

# %% tags=["parameters"]
run: str = "smoke"  # folder under runs/
profile: str = "smoke"  # smoke, phantom or paper
archive: str = ""  # "" is the phantom archive of notebook 00
overrides: dict = {}  # dotted profile names, e.g. {"diffusion.steps_conditional": 5000}, from shipped weights {"diffusion.steps_continued": 500}
processes: int = 1  # that train together, one a GPU; a batch is split over them
from_scratch: bool = False  # True: no shipped weights, which profile phantom would go on from

# %%
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from IPython.display import display

from dsa_lib.core import published
from dsa_lib.core.condition_sentences import CANONICAL, SeenConditions
from dsa_lib.figures import samples, style
from dsa_lib.ldm import autoencoder, diffusion, pipeline, sampler, sampling, text
from dsa_lib.nn import shipped, training
from dsa_lib.nn.curve import training_curve
from dsa_lib.run.session import begin

study = begin("04_ldm", globals())
style.apply()
config = study.profile.diffusion

# %% [markdown]
# ## What the paper leaves open
# §4.3–4.5 state the network, the ends of the noise schedule, the batch size, the learning rate and the number of epochs. All other choices are parameters. Profile `paper`
# follows the text and adds nothing where the text is silent.

# %% tags=["nbval-check-output"]
reasons = {
    "diffusion.beta_schedule": "§4.5: “β_t linearly increasing” is linear in β; what the reference code calls linear is linear in √β (scaled_linear)",
    "diffusion.prediction": "Eq. 4 predicts ε; v learns faster in few steps, as the phantom profiles have",
    "diffusion.min_snr_gamma": "Eq. 4 weighs all timesteps alike; 5 (Hang et al. 2023) takes weight off nearly clean latents",
    "diffusion.condition_dropout": "no empty sentences in §4.4, hence no guidance; 0.1 is usual where guidance is wanted",
    "diffusion.balance": "frames as they occur; PC A is rare in Table 1, and on phantoms it is drawn more often",
    "diffusion.patience": "§4.5 names early stopping for the unconditional model without a number; taken from the autoencoder's, whose sentence gives 10",
    "diffusion.patience_conditional": "§4.5 does not name it here: 50 epochs are trained to the end",
    "diffusion.ema_decay": "not mentioned, and none is what the text then describes; averaging takes the sampled image off the last steps' noise",
    "diffusion.warmup_steps": "not mentioned; at the published rate of 5e-5 Adam needs none, at the phantom's it does",
    "diffusion.clip_norm": "not mentioned; likewise",
    "text.dropout": "not mentioned; BERT's own. Without it two processes draw no other masks than one",
    "text.pooled": "§4.4 speaks of one vector, §4.5 of cross-attention with context 512: over one vector that has nothing to choose from",
}  # fmt: skip
with pd.option_context("display.max_colwidth", None):
    display(published.left_open(reasons))

# %% [markdown]
# ## Latents (§4.3)
# Each use of a frame draws $z=\mathcal E(x)$ from its stored posterior. The prompt of a frame states circulation, plane, primary and secondary angle.

# %%
if why := study.skipped_upstream("latents/index.parquet", "vae"):
    study.skip(why)
index = pd.read_parquet(study.read("latents/index.parquet"))
mean, std = (np.load(study.read(f"latents/{name}.npy"), mmap_mode="r") for name in ("mean", "std"))
vae = autoencoder.AutoencoderKL.from_pretrained(study.read("vae"))
tokenizer = text.build_tokenizer(study.profile.text.max_tokens)
part = {split: np.flatnonzero(index["split"] == split) for split in ("train", "val")}
latent_channels, latent_size = mean.shape[1:3]


def latent_sets(sentences=None):
    stored = mean, std, vae.config.scaling_factor, sentences, tokenizer
    return {split: diffusion.LatentSet(*stored, rows) for split, rows in part.items()}


index.iloc[part["train"]].groupby("cell").agg(frames=("frame_id", "size"), sentences=("sentence", "nunique"))

# %% [markdown]
# ## Prompts and tokens (§4.4)
# The vocabulary is derived from the sentence grammar. Numbers are split into digits, so that angles outside the training set can be written. The pipeline stores the
# conditions of the training set and refuses others unless `allow_unseen=True`. A condition counts as seen if the training set contains frames of the same circulation and
# plane within ±5° of both angles, the tolerance of Table 1.

# %%
seen = SeenConditions.of(index["sentence"].iloc[part["train"]])
asked = [condition for condition in CANONICAL.values() if seen.covers(condition)]
asked = asked or seen.nearest(CANONICAL["AC A"], len(CANONICAL))  # an archive may hold none of the four
tokens = {cell: " ".join(tokenizer(condition.sentence()).tokens()) for cell, condition in CANONICAL.items()}
with pd.option_context("display.max_colwidth", None):
    display(pd.DataFrame({"tokens": tokens, "seen": {cell: seen.covers(CANONICAL[cell]) for cell in CANONICAL}}))

# %% [markdown]
# ## Forward process
# $$z_t = \sqrt{\bar\alpha_t}\, z_0 + \sqrt{1-\bar\alpha_t}\,\epsilon,\qquad \epsilon\sim\mathcal N(0, I),\qquad \bar\alpha_t=\prod_{s\le t}(1-\beta_s)\tag{3}$$
# The figure shows both readings of the linear schedule, with the end points of §4.5. The last step must be pure noise, because sampling starts from noise.

# %%
schedule = diffusion.noise_schedule(config)
readings = {
    name: diffusion.noise_schedule(replace(config, beta_schedule=name)).alphas_cumprod
    for name in ("linear", "scaled_linear")
}
style.save(samples.schedule_curves(readings, chosen=config.beta_schedule), study.write("figures/ldm_schedule.png"))
pd.DataFrame(
    {
        name: {t: float(values[t - 1]) ** 0.5 for t in (1, *(config.timesteps * k // 4 for k in range(1, 5)))}
        for name, values in readings.items()
    }
).rename_axis("√ᾱ_t at t =").T.round(4)

# %% [markdown]
# ## Objective
# $$\mathcal{L}_{\text{DDPM}} = \mathbb{E}_{z,\epsilon,t}\,\lVert \epsilon-\epsilon_\theta(z_t,t)\rVert^2\tag{4}$$
# $$\mathcal{L}_{\text{cond}} = \mathbb{E}_{z,\epsilon,t,c}\,\lVert \epsilon-\epsilon_\theta(z_t,t,c)\rVert^2$$
# With `v_prediction`, the network predicts $v=\sqrt{\bar\alpha_t}\,\epsilon-\sqrt{1-\bar\alpha_t}\,z_0$ instead, which determines $\epsilon$ and $z_0$.
#
# ## Unconditional model (§4.3, §4.5)
# Profile `phantom` continues the training of both models from the shipped weights. The figures show their training on other phantom patients, followed by the steps of this
# run. With `from_scratch`, and always in `smoke` and `paper`, training starts from random weights. Each evaluation samples a few images from fixed noise and stores them
# with the checkpoint (`checkpoints/ldm*/samples`).

# %%
shown = sampling.FAST_SAMPLER, sampling.FAST_STEPS
start = shipped.start(study, from_scratch)
torch.manual_seed(study.profile.seed)
unet = diffusion.build_unet(config, latent_channels, latent_size, context=None)
if start:
    shipped.load(unet, start / "unet_unconditional")
log = diffusion.train(
    diffusion.UnconditionalDenoiser(unet),
    latent_sets(),
    schedule,
    study.profile,
    steps=config.steps_unconditional,
    epochs=config.epochs_unconditional,
    patience=config.patience,
    folder=study.ws.checkpoints("ldm_unconditional"),
    start=start,
    processes=processes,
    sample=diffusion.fixed_samples(vae, schedule, *shown, conditions=8),
    digest=study.digest("diffusion", code=[diffusion, training]) + shipped.digest(start),
    what="unconditional diffusion",
)
pipeline.DSAPipeline(vae, unet, schedule).save_pretrained(study.write("ldm_unconditional"))
figure = training_curve(log, "Unconditional diffusion", shipped.log("ldm_unconditional") if start else None)
style.save(figure, study.write("figures/ldm_unconditional_training.png"))

# %% [markdown]
# ## Conditional model (§4.4, §4.5)
# A BERT encodes the prompt. It is trained from scratch, jointly with the denoising network. Its hidden states $c$ enter the attention levels through cross-attention.

# %%
torch.manual_seed(study.profile.seed + 1)
encoder = text.build_encoder(study.profile.text, len(tokenizer))
unet = diffusion.build_unet(config, latent_channels, latent_size, context=study.profile.text.width)
if start:
    shipped.load(unet, start / "unet")
    shipped.load(encoder, start / "text_encoder")
log = diffusion.train(
    diffusion.ConditionalDenoiser(unet, encoder),
    latent_sets(index["sentence"].tolist()),
    schedule,
    study.profile,
    steps=config.steps_conditional,
    epochs=config.epochs_conditional,
    patience=config.patience_conditional,
    weights=diffusion.balancing_weights(index["cell"].iloc[part["train"]], config.balance),
    folder=study.ws.checkpoints("ldm"),
    start=start,
    processes=processes,
    sample=diffusion.fixed_samples(
        vae, schedule, *shown, [each for each in asked for _ in range(2)], tokenizer, study.profile.sampling.guidance
    ),
    digest=study.digest("diffusion", "text", code=[diffusion, text, training]) + shipped.digest(start),
    what="conditional diffusion",
)
facts = {"seen": seen.to_config(), "condition_dropout": config.condition_dropout}
pipeline.DSAPipeline(vae, unet, schedule, encoder, tokenizer, **facts).save_pretrained(study.write("ldm"))
figure = training_curve(log, "Conditional diffusion", shipped.log("ldm") if start else None)
style.save(figure, study.write("figures/ldm_training.png"))
study.note("validation loss", float(log["val_loss"].min()))

# %% [markdown]
# ## From noise to image
# $$z_{t-1} = \tfrac{1}{\sqrt{\alpha_t}}\Bigl(z_t - \tfrac{1-\alpha_t}{\sqrt{1-\bar\alpha_t}}\,\epsilon_\theta(z_t,t,c)\Bigr) + \sigma_t\,\eta,\qquad \hat x = \mathcal{D}(z_0)\tag{5, 6}$$
# One prompt and one image from the saved pipeline, with the sampler of this profile. Each picture is the decoded latent of one step, starting from pure noise on the left.

# %%
steps, guidance = study.profile.sampling.steps, study.profile.sampling.guidance
device = "cuda" if torch.cuda.is_available() else "cpu"
conditional = pipeline.DSAPipeline.from_pretrained(study.ws.path("ldm")).to(device)
conditional.scheduler = sampler.make_scheduler(study.profile.sampling.scheduler, conditional.scheduler)
times, moments = pipeline.watch(conditional, asked[0], seed=study.profile.seed, steps=steps, guidance=guidance)
style.save(
    samples.image_grid([moments], [asked[0].cell()], titles=[f"t = {t}" for t in times]),
    study.write("figures/ldm_from_noise.png"),
)

# %% [markdown]
# ## First samples
# Two images of each training condition and the same number of unconditional images, from the saved pipelines and the same noise.

# %%
asked = [condition for condition in asked for _ in range(2)]
frames = conditional(asked, seeds=range(len(asked)), num_inference_steps=steps, guidance_scale=guidance)
unconditional = pipeline.DSAPipeline.from_pretrained(study.ws.path("ldm_unconditional")).to(device)
unconditional.scheduler = conditional.scheduler
free = unconditional(seeds=range(len(asked)), num_inference_steps=steps)
style.save(
    samples.image_grid([free, frames], ["unconditional", "conditional"], [each.cell() for each in asked], titled=1),
    study.write("figures/ldm_first_look.png"),
)

# %% [markdown]
# ## Interpretation
# The loss on held-out patients selects the weights. It does not measure image quality, and neither do a few images of one seed. Notebook 05 samples the sets that readers
# and distances evaluate. The networks of the phantom profile are far smaller than those of the paper. Their results: [docs/results.md](../docs/results.md).

# %%
study.finish()
