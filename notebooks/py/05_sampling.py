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
# # 05 · Sampling
#
# **Purpose.** Generate frames from prompts: first examples, the reader set (§2.3: ten batches of forty, ten of each condition) and the set for the Fréchet distance (§2.5).
# Draw Figures 2 and 5.
#
# **Reads** `ldm/`, `arterial.parquet`, `frames.npy`.
#
# **Writes** `samples/reader/`, `samples/fid/` and figures.
#
# **Measured time**: printed by the last cell, and in the report of the run.

# %% tags=["parameters"]
run: str = "smoke"  # folder under runs/
profile: str = "smoke"  # smoke, phantom or paper
archive: str = ""  # "" is the phantom archive of notebook 00
overrides: dict = {}  # dotted profile names, e.g. {"sampling.scheduler": "ddpm", "sampling.steps": 1000}
sentence: str = ""  # a sentence to make into images below; "" is that of AC A
shard: int = 0  # which share of both sets this call makes, from 0; see "Several machines" below
num_shards: int = 1  # into how many shares they are divided; 1 makes everything here
dicom: bool = False  # export both sets as DICOM too, marked as synthetic, into samples/<set>/dicom/
allow_unseen: bool = False  # make images of conditions that the model never saw, instead of refusing

# %%
import numpy as np
import pandas as pd
import torch
from IPython.display import display

from dsa_lib.core import images
from dsa_lib.core.condition_sentences import CANONICAL
from dsa_lib.figures import samples, style
from dsa_lib.ldm import dicom_export, pipeline, sampler, sampling
from dsa_lib.run import shards
from dsa_lib.run.progress import track
from dsa_lib.run.session import begin
from dsa_lib.run.workspace import sha256
from dsa_lib.vessels import filters

study = begin("05_sampling", globals())
shards.check(shard, num_shards)
style.apply()
config = study.profile.sampling

# %% [markdown]
# ## The four prompts
# The four conditions of the reader study (§2.3), as the text encoder receives them.

# %%
pd.set_option("display.max_colwidth", None)
pd.DataFrame({"sentence": {cell: condition.sentence() for cell, condition in CANONICAL.items()}})

# %% [markdown]
# ## From noise to a frame
# Sampling starts from noise $z_T \sim \mathcal{N}(0, I)$ and reverses the diffusion step by step, with the encoded prompt $c$ as context:
# $$z_{t-1} = \frac{1}{\sqrt{\alpha_t}}\Bigl(z_t - \frac{1-\alpha_t}{\sqrt{1-\bar\alpha_t}}\,\epsilon_\theta(z_t,t,c)\Bigr) + \sigma_t\,\eta,\qquad \eta \sim \mathcal{N}(0, I)\tag{5}$$
# The decoder converts the last latent into a frame:
# $$\hat x = \mathcal{D}(z_0)\tag{6}$$
# Eq. 5 is the ancestral step of DDPM (`sampling.scheduler=ddpm`), which the paper applies 1000 times. Written with the estimate $\hat z_0$ of the clean latent, it belongs
# to a family of steps (Song et al. 2021)
# $$z_{t-1} = \sqrt{\bar\alpha_{t-1}}\,\hat z_0 + \sqrt{1-\bar\alpha_{t-1}-\sigma_t^2}\;\epsilon_\theta + \sigma_t\,\eta,\qquad \hat z_0 = \frac{z_t - \sqrt{1-\bar\alpha_t}\,\epsilon_\theta}{\sqrt{\bar\alpha_t}}.$$
# With $\sigma_t = 0$ (`ddim`), no noise is added during sampling. The steps then solve an ordinary differential equation, and the noise $z_T$ alone determines the image.
# `dpmsolver++` and `unipc` solve the same equation with a higher order and therefore need fewer steps.

# %%
if why := study.skipped_upstream("ldm"):
    study.skip(why)
source = study.read("ldm")
model = sha256(source)
dsa = pipeline.DSAPipeline.from_pretrained(source).to("cuda" if torch.cuda.is_available() else "cpu")
dsa.set_progress_bar_config(disable=True)  # lines of its own count batches
schedule = dsa.scheduler

# %% [markdown]
# ## Generate images from a prompt
# Four seeds of one prompt (the parameter `sentence`), with the fast sampler. Circulation, plane and both angles can be changed. A condition outside the training set is
# refused, and the error names the nearest conditions, unless `allow_unseen=True`.

# %%
asked = sentence or CANONICAL["AC A"].sentence()
seeds = [1, 2, 3, 4]
dsa.scheduler = sampler.make_scheduler(sampling.FAST_SAMPLER, schedule)
first = dsa(
    asked,
    seeds=seeds,
    num_inference_steps=sampling.FAST_STEPS,
    guidance_scale=config.guidance,
    allow_unseen=allow_unseen,
)
print(asked)
style.save(
    samples.image_grid([first], [""], [f"seed {seed}" for seed in seeds]), study.write("figures/sampling_sentence.png")
)

# %% [markdown]
# ## Reader set and Fréchet set
# Both sets are stratified: every batch contains the same number of images of each condition. Each image has its own seed, so that it does not depend on the other images of
# its batch. Image numbers are random, so that file names reveal nothing to blinded readers. `manifest.parquet` of a set has one row per image: prompt, seed, model,
# sampler, steps, guidance.
#
# **Several machines.** With `num_shards=N`, each call generates every N-th image. Start N calls that share the run folder, by hand or as an array job (replace 0 by
# `$SLURM_ARRAY_TASK_ID`). They can run at any time and in any order:
#
# ```
# papermill notebooks/05_sampling.ipynb shard_0.ipynb --cwd notebooks -p run mine -p profile paper -p shard 0 -p num_shards 8
# ```
#
# The call that finds all shards complete merges them and continues. The other calls end here and name the shards that are missing. The result is identical to that of a
# call without shards. A killed call resumes when it is started again, with or without shards. `make reproduce` then continues with the later notebooks and generates no
# image again.

# %%
dsa.scheduler = sampler.make_scheduler(config.scheduler, schedule)
plans = {
    "reader": sampling.stratified_plan(study.profile.seed, config.reader_per_condition, config.reader_batches),
    "fid": sampling.stratified_plan(study.profile.seed + 1, config.fid_per_condition),
}


def make(name):
    return sampling.generate(
        dsa,
        plans[name],
        study.write(f"samples/{name}"),
        steps=config.steps,
        guidance=config.guidance,
        batch_size=config.batch_size,
        model=model,
        digest=sampling.code_digest(pipeline.CODE),
        shard=shard,
        num_shards=num_shards,
        allow_unseen=allow_unseen,
        track=lambda items: track(items, what=f"batches of the {name} set"),
    )


manifests = {name: make(name) for name in plans}
# Another shard may have finished the first set while this one made the second.
manifests |= {name: make(name) for name in plans if manifests[name] is None}
for name, manifest in manifests.items():
    if manifest is None:
        missing = (
            shards.missing(study.ws.path(f"samples/{name}"))
            or "the last images are being made elsewhere: run once more"
        )
        study.pause(f"of samples/{name} {missing}")
    if dicom:
        dicom_export.export(study.ws.path(f"samples/{name}"), manifest)

# %% tags=["nbval-check-output"]
pd.DataFrame({name: manifest.groupby("cell").size() for name, manifest in manifests.items()}).loc[list(CANONICAL)]

# %% [markdown]
# The first eight images of each condition in the Fréchet set, in the order of their numbers.

# %%
chosen = {cell: manifests["fid"].loc[manifests["fid"]["cell"] == cell, "file"].head(8) for cell in CANONICAL}
rows = [images.read_images(study.ws.path("samples/fid"), files.tolist()) for files in chosen.values()]
style.save(samples.image_grid(rows, list(chosen)), study.write("figures/sampling_grid.png"))

# %% [markdown]
# ## Comparison of samplers
# The same four seeds with all samplers. `grey_from_solution` is the distance, in grey levels, between the images of a sampler and the solution of the differential equation
# (DDIM with 200 steps). It is undefined for DDPM, which adds noise during sampling. `benchmarks/sampling.py` measures the quality of few steps against held-out frames.

# %%
compared = {name: sampler.make_scheduler(name, schedule) for name in sampler.SAMPLERS}
table, shown = sampling.compare_samplers(
    dsa, asked, seeds, compared, sampling.FAST_STEPS, guidance=config.guidance, allow_unseen=allow_unseen
)
display(table.round(3))
style.save(samples.image_grid(list(shown.values()), list(shown)), study.write("figures/sampling_samplers.png"))

# %% [markdown]
# ## Figure 2
# Frames of held-out patients (left) and generated frames (right). Early frames show little of the vessels, so one rule selects filled frames on both sides. Of 24
# candidates, the first four are shown whose vessel area is at least the median of the held-out candidates. Held-out candidates are drawn at random from different series.
# Generated candidates are the first of the reader set. The table shows how many candidates pass.

# %%
arterial = pd.read_parquet(study.read("arterial.parquet"))
frames = np.load(study.read("frames.npy"), mmap_mode="r")
real, generated, passed = {}, {}, {}
for cell in CANONICAL:
    held_out = arterial[(arterial["cell"] == cell) & (arterial["split"] != "train")]
    shuffled = held_out.sample(frac=1, random_state=study.profile.seed % 2**32)
    drawn = frames[shuffled.drop_duplicates("series")["frame_id"].head(24).to_numpy()]
    files = manifests["reader"].loc[manifests["reader"]["cell"] == cell, "file"].head(24)
    made = images.read_images(study.ws.path("samples/reader"), files.tolist())
    areas = filters.areas(drawn), filters.areas(made)
    least = np.median(areas[0]) if len(drawn) else 0
    real[cell], generated[cell] = drawn[areas[0] >= least][:4], made[areas[1] >= least][:4]
    passed[cell] = [f"{(each >= least).sum()} of {len(each)}" for each in areas]
origin = "archive" if study.archive else "phantom"
figure2 = samples.figure2(real, generated, f"{origin}, held-out patients, filled frames")
style.save(figure2, study.write("figures/figure2.png"), study.write("figures/figure2.pdf"))
pd.DataFrame(passed, index=["held-out", "generated"])

# %% [markdown]
# ## Figure 5
# The system in training and in sampling, with the sizes of this profile.

# %%
figure5 = samples.figure5(dsa, config.steps, config.scheduler)
style.save(figure5, study.write("figures/figure5.png"), study.write("figures/figure5.pdf"))

# %% [markdown]
# ## Interpretation
# Figure 2 shows a few filled frames; the grid above shows unselected images. Notebook 07 measures the distance of the sets to real frames, and notebook 06 contains the reader ratings. Notebooks 11 to 14 test
# condition adherence, vessels, memorisation and utility. Figure 2 of the phantom run: [Figure 2](../figures/figure2.png).

# %%
study.finish()
