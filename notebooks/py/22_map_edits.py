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
# # 22 · Map edits
#
# **Purpose.** Notebook 21 measures how close the images of six models are to the true images. Capitão et al. also claim *anatomy compliance* (§1, §3) and suggest training
# other networks with the images, but do not measure either. This notebook does. Does an image follow its map? Does it follow an edited map? Are pairs of map and generated
# image useful for training a segmentation network?
#
# **Inputs.** From notebook 21: the images with maps and edges (`maps/set.npz`), the images of six models (`maps/held_out.npz`), the two diffusion models (`maps/ldm_edges`,
# `maps/ldm`) and their autoencoder. The data are those of notebook 21, including `acdc`.
#
# **Outputs.** `tables/maps_segmenters.csv`, `tables/maps_compliance.csv`, `tables/maps_edits.csv`, and a figure of each name.
#
# **Time.** Two short trainings of a segmentation network and the images of edited maps. The last cell prints the time of this run.
#
# Results of a phantom run: [how the models followed edited maps](../docs/extensions.md#label-maps-and-edges) (simulated angiography).

# %% tags=["parameters"]
run: str = "smoke"  # folder of this run under runs/
profile: str = "smoke"  # smoke, phantom or paper: as notebook 21 was run with
archive: str = ""  # empty: the phantom archive of notebook 00
overrides: dict = {}  # e.g. {"anatomy.edited": 50, "anatomy.pairs": 500, "plausibility.segmenter": "classical"}

# %%
from dataclasses import replace
from functools import partial

import pandas as pd
from IPython.display import display

from dsa_lib.core.splits import evenly
from dsa_lib.figures import maps as figures
from dsa_lib.figures import style
from dsa_lib.ldm import autoencoder
from dsa_lib.maps import compliance, edits, models, synthetic_pairs
from dsa_lib.maps import data as map_data
from dsa_lib.maps.models import METHODS, WITH, WITHOUT
from dsa_lib.run.session import begin
from dsa_lib.vessels import segmenters as vessel_segmenters
from dsa_lib.vessels import unet as vessel_unet

study = begin("22_map_edits", globals())
style.apply()
settings, seed = study.profile.anatomy, study.profile.seed

# %% [markdown]
# ## Results of notebook 21
#
# The label map has three classes of arteries. The models are given the *annotated* ones. Models with edges also know all boundaries of the image. The images of held-out
# maps are those of notebook 21 and are not generated again.

# %%
if why := study.skipped_upstream("maps/set.npz", "maps/held_out.npz"):
    study.skip(why)
data = map_data.MapSet.load(study.read("maps/set.npz"))
held_out, vessels = data.held_out, data.origin != map_data.ACDC
true, asked, patients = data.frames[held_out], data.labels[held_out], data.patients[held_out]
outputs = models.load_images(study.read("maps/held_out.npz"))
vae = autoencoder.AutoencoderKL.from_pretrained(study.read("vae" if vessels else "maps/vae"))
ldm = {
    half: partial(
        models.generate_ldm,
        models.open_ldm(study.read(f"maps/{models.name_of('LDM', half)}")),
        vae,
        study.profile,
        what=f"images, LDM {half}",
    )
    for half in (WITH, WITHOUT)
}
print(
    f"{len(held_out)} images of {len(set(patients))} held-out patients ({data.origin}); label maps: {data.annotation}."
)

# %% [markdown]
# ## Usefulness of generated pairs
#
# The LDM with edges converts maps of training patients into images. These pairs train a segmentation network that never sees an acquired frame. A second network is trained
# on the acquired frames of the same maps. Architecture, initial weights and steps are equal. Both are tested on held-out frames, by the Dice coefficient against their
# maps:
#
# $$\mathrm{Dice}_k = \frac{2\,|\hat y = k \,\wedge\, y = k|}{|\hat y = k| + |y = k|}$$
#
# pooled over images, with 95 % bootstrap intervals over patients, because images of one patient are similar.

# %%
picked = evenly(data.rows("train"), settings.pairs)
synthetic = ldm[WITH](data.conditions(True)[picked], picked + len(data))  # other noise than that of the held-out images
arms = {synthetic_pairs.REAL: data.frames[picked], synthetic_pairs.SYNTHETIC: synthetic}
network = replace(study.profile.plausibility, network_steps=settings.segmenter_steps)
segmenters, _ = synthetic_pairs.train_each(
    {name: (frames, data.labels[picked]) for name, frames in arms.items()},
    network,
    seed=seed,
    folder=study.ws.checkpoints("maps_segmenters"),
    digest=study.digest("anatomy", "plausibility", code=[models, *models.CODE, synthetic_pairs, vessel_unet]),
    precision=study.profile.precision,
    log_every_s=study.profile.log_every_s,
)
how = {"classes": data.classes, "draws": settings.bootstrap, "seed": seed}
tested, gaps, _ = synthetic_pairs.evaluate_each(segmenters, true, asked, patients, network.network_size, **how)
tested.to_csv(study.write("tables/maps_segmenters.csv"), index=False)
style.save(figures.segmenters(tested, data.origin), study.write("figures/maps_segmenters.png"))
print(use := synthetic_pairs.verdict(tested, gaps))

# %% [markdown]
# ## Does the image follow the map?
#
# The vessels of every generated image are segmented and compared with the given map: Dice by class and of the centre lines. *All* classes are evaluated, including the one
# that was not given: without edges, nothing determines its position. Segmentation has errors; its result on the true images is the upper limit (dashed). For angiograms,
# the segmentation of notebook 12 (`plausibility.segmenter`) is used, which was not trained on these patients. If it also annotated the archive, the limit is 1 by
# construction. For ACDC, it is the network trained above on acquired images.

# %%
if vessels:
    judge = vessel_segmenters.of_run(study).segment
else:
    judge = partial(vessel_unet.segment, segmenters[synthetic_pairs.REAL], size=network.network_size)
found = {key: judge(made, what=" ".join(key)) for key, made in outputs.items()}
ceiling = compliance.of_maps(judge(true, what="true images"), asked, patients, **how).reset_index()
kept = [
    compliance.of_maps(maps, asked, patients, **how).reset_index().assign(method=method, half=half)
    for (method, half), maps in found.items()
]
of_models = pd.concat(kept, ignore_index=True)
complied = pd.concat([of_models, ceiling.assign(method="true images", half="")], ignore_index=True)
complied.to_csv(study.write("tables/maps_compliance.csv"), index=False)
style.save(figures.compliance(of_models, ceiling), study.write("figures/maps_compliance.png"))
gained = {
    method: compliance.difference(found[method, WITH], found[method, WITHOUT], asked, patients, **how)
    for method in METHODS
}
print("Dice with edges less without, 95 % intervals over patients:")
display(pd.concat(gained, names=["method"]).round(3))

# %% [markdown]
# ## Does the image follow an edited map?
#
# A distal branch of the annotated tree is removed, or the trunk is narrowed over a short distance. The image is generated again from the same noise. The edges of the
# original image contradict the edit, so they are *withheld* there or *redrawn* from the edited map. `kept` is the contrast of the edited pixels to their surroundings after
# the edit, divided by that before: 1 if the edit was ignored, 0 if the vessel has disappeared. An image *follows* the edit if the whole interval is below one half.

# %%
made_edits, not_made = edits.edits(data, settings.edited)
before = {half: outputs["LDM", half] for half in (WITH, WITHOUT)}
followed, strips = [], []
for edit in made_edits:
    pairs = edits.images(edit, data, before, ldm)
    followed.append(edits.responses(edit, pairs, data.patients[edit.rows], settings.bootstrap, seed))
    strips.append(edits.example(edit, pairs))
responses = pd.concat(followed, ignore_index=True) if followed else pd.DataFrame()
responses.to_csv(study.write("tables/maps_edits.csv"), index=False)
following = edits.statements(responses)
print(*not_made, *following, sep="\n")
if strips:
    style.save(figures.edited(strips, data.classes), study.write("figures/maps_edited.png"))

# %% tags=["nbval-check-output"]
# Each edit, the model that was told it, and what became of the edges along it.
print(responses.reindex(columns=["edit", "model", "edges"]).to_string(index=False))

# %% [markdown]
# ## Interpretation
#
# Compliance is measured by a segmentation method with errors, which can differ between generated images and the true images of the upper limit. An image that follows its
# map need not look real; notebook 21 measures that. The edits are small and leave the rest of the map unchanged, so they do not show that the models follow an entirely
# different anatomy. The two segmentation networks differ only in their pairs. No labels of acquired frames select their weights, because one of them is meant to be trained
# without such labels. On the phantom archive, all results are about simulated anatomy.

# %%
study.note("use", use)
study.note("edits", following)
study.finish()
