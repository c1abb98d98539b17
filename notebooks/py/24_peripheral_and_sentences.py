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
# # 24 · Peripheral arteries, and sentences that name a lesion
#
# **Purpose.** Two ways to teach the text-conditioned model (§4.4) what is small. First, the losses in the image of notebook 23, with the peripheral arteries in the place
# of the lesion: do generated frames then show more of them? Second, sentences that name a lesion: does the lesion that was asked for appear, of its kind and at its place?
#
# **Inputs.** `ldm/` and `latents/` of notebooks 03 and 04, `frames.npy`, `dsa_network/` of notebook 07, the phantom's truth, and `lesions/pairs.npz` of notebook 23, whose
# sentences name lesions. The judge of lesions ships with the project (`models/lesion_judge`).
#
# **Outputs.** `lesions/ldm_peripheral/`, `lesions/ldm_sentences/`; tables `lesions_peripheral.csv`, `lesions_sentences.csv`, `lesions_places.csv`; figures `lesion_peripheral`,
# `lesion_sentences_training`, `lesion_on_request`, `lesion_confusion`. What a phantom run answered: [docs/extensions.md](../docs/extensions.md).
#
# **Time.** Three short trainings and their images take most of it; the closing cell states the time of this run.

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
# ## The model that reads sentences, and its frames

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
# ## Peripheral arteries in the place of the lesion
# The paper's readers give distal vessels the lowest scores of all (Table 3). They are to this model what a lesion is to a translation: small, faint and half lost in
# latent space. It is therefore post-trained by the losses of notebook 23,
# $$\mathcal{L} = \mathcal{L}_{\text{latent}} + \lambda_{\text{image}}\,\mathcal{L}_{\text{image}} + \lambda_{\text{lesion}}\,\mathcal{L}_{\text{lesion}},$$
# with the peripheral arteries of its training frames as the mask $M$ of $\mathcal{L}_{\text{lesion}}$. The masks are the phantom's own truth. The frames are the latest arterial ones of each
# series, in which those arteries are filled.

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
# The control is trained for as many steps on the same frames, without the losses in the image. Timesteps with image losses stop earlier than in notebook 23
# (`peripheral.latest`): a sentence leaves far more open than a source image, and the estimate $\hat z_0$ blurs sooner. The model as it was (“before”) has learned from all arterial
# frames, also half-filled ones, so that only the two others are on one footing.

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
# Measured on generated frames of the four canonical conditions: by an automatic segmentation, the area and contrast of peripheral arteries over those of held-out frames that
# are as filled as those learned from; the feature distance to these; and by the judge of conditions (notebook 11), how often the condition is kept.

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
# ## Asking for a lesion
# The grammar of §2.3 gets a finding: *“…, showing an aneurysm of the left middle cerebral artery.”* The text-conditioned model of the run goes on from its weights with
# the subtracted frames of the pairs and their sentences. Words that it knows keep their embedding; new ones start at random.

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
# It is asked with sentences of held-out patients, all kinds of lesion in turn:

# %%
rows = lesion_sentences.asked_rows(pairs, study.profile.lesion_sentences.asked)
wanted = pairs.sentences[rows]
on_request = lesion_sentences.generate(knows.to(default_device()), wanted, rows, study.profile)

# %% tags=["nbval-check-output"]
with pd.option_context("display.max_colwidth", None):
    display(lesion_sentences.asked_table(wanted))

# %% [markdown]
# Whether the lesion is there is asked of a judge that was trained on real (here: simulated) frames of other patients with lesions. Its own errors on held-out real frames stand beside the
# answers on generated ones, and kinds that it does not know on those are not decided. Side and artery are read from the place that the judge finds likeliest for the lesion that was asked
# for: it is given to the artery whose lesions, in training patients of the same view, lie nearest in the mean.

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
# ## What this can and cannot say
# Both trainings are short, and the peripheral arteries and lesions are simulated: the numbers say how the *method* behaves where the truth is known. The area and contrast of arteries are those that
# an automatic segmentation finds, in held-out frames too; readers may see them otherwise. The judge knows simulated lesions alone and errs on real frames as well, so that a
# rate near what chance gives may be the judge's failure or the model's: its confusion on held-out frames tells which. Nothing here shows that a lesion in a
# generated frame would look right to a reader.

# %%
study.note("peripheral", told)
study.note("lesion_sentences", found.verdict())
study.finish()
