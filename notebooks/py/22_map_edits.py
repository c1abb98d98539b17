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
# **Purpose.** Notebook 21 asks how near the images of six models come to the true ones. What its source leaves open (Capitão et al., §1 and §3 claim *anatomy
# compliance* and name the training of other networks as its use) is measured here. Does an image keep to the map that it was made from? Does it follow the map
# when the map is edited? Are pairs of map and generated image of use to a segmenter?
#
# **Inputs.** Of notebook 21 the images with their maps and edges (`maps/set.npz`), what six models made of the held-out maps (`maps/held_out.npz`) and the two
# diffusion models (`maps/ldm_edges`, `maps/ldm`), with the autoencoder that belongs to them. The data are those of notebook 21, also where that was given `acdc`.
#
# **Outputs.** `tables/maps_segmenters.csv`, `tables/maps_compliance.csv`, `tables/maps_edits.csv`, and a figure of each name.
#
# **Time.** Two short trainings of a segmenter and the images of edited maps; the closing cell states the time of this run.
#
# What comes out: [how the models of a phantom run followed](../docs/extensions.md#label-maps-and-edges) (simulated angiography).

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
# ## What notebook 21 made
#
# The label map has three classes of arteries, of which the models are told the *annotated* ones. Those told edges know the boundaries of the whole image too.
# Every model made every held-out image anew; nothing of that is made again.

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
# ## Are generated pairs of use?
#
# Maps of training patients become images by the LDM with edges, and the pairs train a segmenter that has never seen an acquired frame. Another one learns from
# the acquired frames of the same maps. Network, initial weights and steps are alike. Both are tested on held-out frames, by Dice against their maps:
#
# $$\mathrm{Dice}_k = \frac{2\,|\hat y = k \,\wedge\, y = k|}{|\hat y = k| + |y = k|}$$
#
# pooled over images, with 95 % intervals by a bootstrap over patients, since images of one patient are alike.

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
# ## Does the image keep to the map?
#
# A segmenter names the vessels of every generated image, and what it finds is held against the map that was given: Dice by class and of the centre lines. *All*
# classes are judged, also the one that was never told: without edges nothing says where it lies. The segmenter errs; what it reaches on the true images is the
# ceiling (dashed). On angiograms it is the segmenter of notebook 12 (`plausibility.segmenter`), which saw none of these patients. Where it annotated the archive
# too, the ceiling is 1 by construction. On ACDC it is the segmenter trained above on acquired images.

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
# ## Does it follow an edited map?
#
# A distal branch of the annotated tree is removed, or the trunk narrowed over a short stretch, and the image is made again from the same noise. The edges of the
# unedited image say otherwise along the edit. So they are *withheld* there, or *redrawn* after the edited map. `kept` is the contrast of the edited pixels
# against their surroundings afterwards, over that before: 1, the edit was ignored; 0, the vessel is gone. An image *follows* where the whole interval lies below
# one half.

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
# ## What these numbers can and cannot say
#
# Compliance is judged by a segmenter that errs, and may err otherwise on generated images than on the true ones of the ceiling. An image that keeps to its map
# need not look real: notebook 21 measures that. The edits are small and all else in the map stays, so following them does not show that a whole other anatomy
# could be asked for. The segmenters differ in nothing but the pairs; no labels of acquired frames choose their weights, for that would lend them to the one that
# is to have none. On the phantom archive all of it is about simulated anatomy.

# %%
study.note("use", use)
study.note("edits", following)
study.finish()
