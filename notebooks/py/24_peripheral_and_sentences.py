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
# # 24 · Peripheral arteries, and prompts that name a lesion
#
# **Purpose.** Two ways to improve small structures in the text-conditioned model (§4.4). First, the image losses of notebook 23 are applied to peripheral arteries instead
# of lesions: do generated frames then show more of them? Second, prompts name a lesion: does the requested lesion appear, of the right type and at the right location?
#
# **Inputs.** `ldm/` and `latents/` of notebooks 03 and 04, `frames.npy`, `dsa_network/` of notebook 07, the ground truth of the phantom, and `lesions/pairs.npz` of
# notebook 23, whose prompts name lesions. The lesion classifier is shipped (`models/lesion_judge`).
#
# **Outputs.** `lesions/ldm_peripheral/`, `lesions/ldm_sentences/`; tables `lesions_peripheral.csv`, `lesions_sentences.csv`, `lesions_places.csv`; figures
# `lesion_peripheral`, `lesion_sentences_training`, `lesion_on_request`, `lesion_confusion`. Results of a phantom run: [docs/extensions.md](../docs/extensions.md).
#
# **Time.** Three short trainings and their images take most of it. The last cell prints the time of this run.

# %% tags=["parameters"]
run: str = "smoke"  # folder of this run under runs/
profile: str = "smoke"  # smoke, phantom or paper
archive: str = ""  # empty: the phantom archive of notebook 00; of another one nobody knows lesions or the calibre of arteries, and this notebook is skipped
overrides: dict = {}  # e.g. {"peripheral.latest": 0.2, "lesion_sentences.guidance": 2.0}

# %%
import functools

import numpy as np
import pandas as pd
from IPython.display import display

from dsa_lib.core.condition_sentences import CELLS
from dsa_lib.core.pairs import TranslationSet
from dsa_lib.curation import annotations
from dsa_lib.fidelity import dsa_network, features
from dsa_lib.figures import adherence as reading_figures
from dsa_lib.figures import lesions as figures
from dsa_lib.figures import style
from dsa_lib.ldm import diffusion, pipeline, sampler
from dsa_lib.lesions import judge as lesion_judge
from dsa_lib.lesions import lesion_requests as lesion_sentences
from dsa_lib.lesions import lesion_scores, peripheral, post_training
from dsa_lib.nn import training
from dsa_lib.nn.curve import training_curve
from dsa_lib.nn.processes import default_device
from dsa_lib.run.session import begin
from dsa_lib.vessels import segmenters

study = begin("24_peripheral_and_sentences", globals())
style.apply()
seed = study.profile.seed

# %% [markdown]
# ## Text-conditioned model and its frames

# %%
if why := study.skipped_upstream("lesions/pairs.npz", "ldm", "dsa_network"):
    study.skip(why)
pairs = TranslationSet.load(study.read("lesions/pairs.npz"))
if not (pairs.sentences != "").any():
    study.skip("the pairs of notebook 23 are of CT perfusion and have no sentences: run it without ct_perfusion")
index = pd.read_parquet(study.read("latents/index.parquet"))
frames = np.load(study.read("frames.npy"), mmap_mode="r")
before = pipeline.DSAPipeline.from_pretrained(study.read("ldm")).to(default_device())
before.scheduler = sampler.make_scheduler(study.profile.sampling.scheduler, before.scheduler)
extractor = features.of_run(
    study, frames, index.loc[index["split"] == "train", "frame_id"].to_numpy(), study.read("dsa_network")
)

# %% [markdown]
# ## Post-training on peripheral arteries
#
# Readers of the paper give distal vessels the lowest scores (Table 3). Like lesions, these vessels are small, faint and partly lost in latent space. The model is therefore
# post-trained with the losses of notebook 23,
#
# $$\mathcal{L} = \mathcal{L}_{\text{latent}} + \lambda_{\text{image}}\,\mathcal{L}_{\text{image}} + \lambda_{\text{lesion}}\,\mathcal{L}_{\text{lesion}},$$
#
# where the mask $M$ of $\mathcal{L}_{\text{lesion}}$ contains the peripheral arteries of the training frames, from the ground truth of the phantom. The frames are the
# latest arterial ones of each series, in which these arteries are filled.

# %%
chosen = peripheral.filled_rows(index, study.profile.anatomy, study.profile.peripheral.frames)
posterior = [np.load(study.read(f"latents/{name}.npy"), mmap_mode="r") for name in ("mean", "std")]
scale = before.vae.config.scaling_factor
latents = diffusion.LatentSet(*posterior, scale, index["sentence"].tolist(), before.tokenizer, chosen)
targets = frames[index["frame_id"].to_numpy()[chosen]]
if study.archive is None:
    from dsa_lib.phantom import truth

    of_series = index["series"].iloc[chosen]
    key = annotations.read_key(study.ws.private("series_key.parquet"))
    drawn = study.read("archive"), study.read("archive_truth_masks.npz")
    maps = truth.calibre_masks(of_series, key, *drawn, study.profile.curation.image_size)
    masks = np.stack([maps[series] == peripheral.PERIPHERAL for series in of_series])
depth = np.nanmedian(peripheral.mask_depths(targets, masks))
print(f"{len(chosen)} training frames, peripheral arteries in {masks.mean():.1%} of their pixels,")
print(f"{depth:.1f} grey levels below their surroundings (median of the frames)")

# %% [markdown]
# The control is trained on the same frames for the same number of steps, without the image losses. The image losses use a smaller range of timesteps than in notebook 23
# (`peripheral.latest`), because a prompt determines far less than a source image and the estimate $\hat z_0$ blurs earlier. The original model (“before”) was trained on
# all arterial frames, including partly filled ones. Only the other two can be compared directly.

# %%
code = [peripheral, post_training, diffusion, training]
digest = study.digest("peripheral", "post_training", "diffusion", "text", code=code)
folders = {
    peripheral.CONTROL: study.ws.checkpoints("lesions_peripheral_control"),
    peripheral.AFTER: study.ws.checkpoints("lesions_peripheral_post"),
}
arms = peripheral.arms(before, latents, targets, masks, study.profile, folders=folders, digest=digest)
arms[peripheral.AFTER].save_pretrained(study.write("lesions/ldm_peripheral"))

# %% [markdown]
# The measurements use generated frames of the four canonical conditions. Area and contrast of peripheral arteries are measured by automatic segmentation, relative to
# held-out frames with the same filling as the training frames. The feature distance refers to the same held-out frames. The network of notebook 11 measures how often the
# condition is correct.

# %%
in_cells = index[index["cell"].isin(CELLS)].reset_index(drop=True)
at_most = study.profile.peripheral.held_out
real = in_cells.iloc[peripheral.filled_rows(in_cells, study.profile.anatomy, at_most, ("val", "test"))]
segmenter = segmenters.of_run(study)
network = dsa_network.load(study.read("dsa_network"))
look = functools.partial(
    peripheral.look,
    segment=segmenter.segment,
    extractor=extractor,
    judge=lambda some: dsa_network.named_cells(dsa_network.answers(*network, some)),
)
held_out = [real[name].to_numpy() for name in ("frame_id", "cell", "patient")]
reference = look(frames[held_out[0]], *held_out[1:], what="held-out frames")
asked = peripheral.plan(study.profile.peripheral.per_condition, seed)
pictures = {name: peripheral.generate(arm, asked, study.profile.sampling) for name, arm in arms.items()}
of_arms = {
    name: look(pictures[name], asked["cell"].to_numpy(), asked["seed"].to_numpy(), what=name)
    for name in (peripheral.CONTROL, peripheral.BEFORE, peripheral.AFTER)
}

# %%
effect = peripheral.compare(of_arms, reference, study.profile.peripheral, seed)
lesion_scores.write(study.write("tables/lesions_peripheral.csv"), effect)
few = asked.groupby("cell", sort=False).head(1).index
figure = figures.before_after(effect, {name: images[few] for name, images in pictures.items()})
style.save(figure, study.write("figures/lesion_peripheral.png"))
told = peripheral.statement(effect)
print(segmenter.says, *told, sep="\n")
effect.round(3)

# %% [markdown]
# ## Prompts that name a lesion
#
# The grammar of §2.3 is extended by a finding: *“…, showing an aneurysm of the left middle cerebral artery.”* The text-conditioned model of the run is trained further on
# the subtracted frames of the pairs and their prompts. Known words keep their embedding; new words start from random values.

# %%
code = [lesion_sentences, diffusion, training]
knows, log = lesion_sentences.train(
    before,
    pairs,
    study.profile,
    folder=study.ws.checkpoints("lesions_sentences"),
    digest=study.digest("lesion_sentences", "diffusion", "text", code=code),
)
knows.save_pretrained(study.write("lesions/ldm_sentences"))
style.save(training_curve(log, "Sentences with lesions"), study.write("figures/lesion_sentences_training.png"))

# %% [markdown]
# The evaluation uses prompts of held-out patients that cover all types of lesion:

# %%
rows = lesion_sentences.asked_rows(pairs, study.profile.lesion_sentences.asked)
wanted = pairs.sentences[rows]
on_request = lesion_sentences.generate(knows.to(default_device()), wanted, rows, study.profile)

# %% tags=["nbval-check-output"]
with pd.option_context("display.max_colwidth", None):
    display(lesion_sentences.asked_table(wanted))

# %% [markdown]
# A lesion classifier, trained on real (here: simulated) frames of other patients with lesions, determines whether the requested lesion is present. Its error on held-out
# real frames is shown next to the results for generated frames. Types of lesion that it does not recognise on real frames are not evaluated. Side and artery are derived
# from its most likely location of the requested lesion. The location is assigned to the artery whose lesions, in training patients of the same view, have the nearest mean
# position.

# %%
judge, card = lesion_judge.load()
lesion_judge.check_unseen(pairs.patients, card)
seen = {"held-out": pairs.targets[rows], "generated": on_request}
found = lesion_sentences.judged(judge, card["size"], seen, wanted, lesion_sentences.known_places(pairs))
lesion_scores.write(study.write("tables/lesions_sentences.csv"), found.rates)
lesion_scores.write(study.write("tables/lesions_places.csv"), found.located)
figure = reading_figures.confusions(found.confusions(), size=3.2)
style.save(figure, study.write("figures/lesion_confusion.png"))
print(found.verdict())
display(found.rates.round(3), found.located.round(3))
found.sides.rename_axis("contrast on the side that was asked for").round(3)

# %%
first = {kind: np.flatnonzero(found.asked == kind)[:4] for kind in lesion_judge.KINDS if kind in found.asked}
called = np.array(lesion_judge.KINDS)[found.named["generated"]]
figure = figures.on_request(*({kind: each[places] for kind, places in first.items()} for each in (on_request, called)))
style.save(figure, study.write("figures/lesion_on_request.png"))

# %% [markdown]
# ## Interpretation
#
# Both trainings are short, and the peripheral arteries and lesions are simulated. The results show how the *method* behaves when the truth is known. Area and contrast of
# arteries are measured by automatic segmentation, for held-out frames too; readers may see them differently. The lesion classifier was trained only on simulated lesions
# and also makes errors on real frames. A rate near chance can therefore be caused by the classifier or by the model; its confusion matrix on held-out frames shows which.
# None of this shows that a lesion in a generated frame would look correct to a reader.

# %%
study.note("peripheral", told)
study.note("lesion_sentences", found.verdict())
study.finish()
