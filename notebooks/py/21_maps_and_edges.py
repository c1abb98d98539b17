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
# # 21 · Maps and edges
#
# **Purpose.** A sentence says from where an angiogram is seen. It does not say where the vessels lie. Here the latent diffusion model is told an anatomy: a
# label map of which only some classes are annotated, and the Canny edges of the whole field of view (Capitão et al., *Anatomy-compliant medical image
# synthesis by latent diffusion models*; "the source" below). The question is that of its Table 1: which of {LDM, SPADE, SPADE w/ VAE} makes the better images,
# and do edges help? Notebook 22 goes on from here and asks whether the images keep to their maps.
#
# **Inputs.** `frames.npy` of notebook 01, `arterial.parquet` and `classifier/` of 02, `latents/` and `vae/` of 03, `dsa_network/` of 07, and the truth of the
# phantom archive. With `acdc`, a folder of the source's own data, none of these.
#
# **Outputs.** `tables/maps_scores.csv` (the source's Table 1 beside this run) and further `tables/maps_*.csv`. Under `maps/`: the images with their label maps
# and edges (`set.npz`), the six models, and what these make of the held-out maps (`held_out.npz`). Figures `maps_*.png`.
#
# **Time.** Six trainings and the images of six models take most of it; the closing cell states the time of this run. What comes out:
# [held-out frames of a phantom run and six models' images of the same maps](../figures/maps_samples.png) (simulated angiography).

# %% tags=["parameters"]
run: str = "smoke"  # folder of this run under runs/
profile: str = "smoke"  # smoke, phantom or paper
archive: str = ""  # empty: the phantom archive of notebook 00
overrides: dict = {}  # e.g. {"anatomy.annotated": ["proximal"], "anatomy.to_latent": "area", "fidelity.features": "inception"}
acdc: str = ""  # a folder of the ACDC challenge as it is published (training/, testing/): the source's own data; empty: this run's angiograms
from_scratch: bool = False  # True: random weights also where profile phantom would go on from those that ship

# %%
from pathlib import Path

import pandas as pd
from IPython.display import display

from dsa_lib.core import published
from dsa_lib.curation import annotations
from dsa_lib.figures import maps as figures
from dsa_lib.figures import style
from dsa_lib.ldm import autoencoder
from dsa_lib.maps import data as map_data
from dsa_lib.maps import map_scores, map_weights, models
from dsa_lib.nn.curve import training_curve
from dsa_lib.run.session import begin
from dsa_lib.vessels import segmenters

study = begin("21_maps_and_edges", globals())
style.apply()
settings, seed = study.profile.anatomy, study.profile.seed

# %% [markdown]
# ## Images and what is known of them
#
# Of every series the latest frames are taken that are as surely arterial as its best one. The contrast has then come furthest, so that a map of the tree
# describes what is seen. The label map $y$ has three classes: proximal, medium and peripheral arteries. On the phantom archive it is the truth that notebook 00
# wrote. On a real archive nobody has drawn it and the segmenter of notebook 12 stands in: then every number below is about an *automatic annotation*.

# %%
if not acdc and (why := study.skipped_upstream("arterial.parquet", "latents/index.parquet", "vae", "dsa_network")):
    study.skip(why)
if not acdc and study.archive is None and study.has("archive_truth_masks.npz"):
    from dsa_lib.phantom import truth

    annotation = "the phantom's truth"
    key = annotations.read_key(study.ws.private("series_key.parquet"))
    files = study.read("archive"), study.read("archive_truth_masks.npz")
    label_maps = truth.label_maps(key, *files, study.profile.curation.image_size)
elif not acdc:
    annotation = f"automatic ({study.profile.plausibility.segmenter})"
    label_maps = map_data.automatic(segmenters.of_run(study).segment)

if acdc:
    data, quarantine = map_data.of_acdc(study, Path(acdc))
    posteriors = None  # the autoencoder of these images has yet to be trained
    print(f"{len(quarantine)} patients of ACDC are left out.")
    display(quarantine)
else:
    data, posteriors = map_data.of_run(study, label_maps, annotation)
data.save(study.write("maps/set.npz"))
print(f"Label maps: {data.annotation}; annotated classes: {', '.join(data.annotated)}.")
images = pd.DataFrame({"part": data.part, "patient": data.patients})
images.groupby("part", sort=False)["patient"].agg(patients="nunique", images="size")

# %% [markdown]
# ## The dual condition (§2, Fig. 1)
#
# *Partial annotation*: only the classes in `anatomy.annotated` are told, one-hot, as a heart may be outlined and the organs around it not. *Edges*: Canny's
# detector finds the boundaries $e_x$ of the image over the whole field of view, at no cost of annotation. They must supply the rest.
#
# $$c(x) = \bigl[\,\mathbb 1[y = k]\;\text{for annotated } k,\;\; e_x\,\bigr] \in \{0, 1\}^{C \times H \times W}$$
#
# The diffusion works on latents of $h \times w$ with $f = H/h$. `anatomy.to_latent` brings the map there: *unshuffle* moves the $f \times f$ pixels that share
# a latent into channels, so that nothing of a boundary one pixel wide is lost; *area* takes their mean. The map is concatenated with the noisy latent:
#
# $$\mathcal L = \mathbb E_{z_0, \epsilon, t}\,\bigl\lVert \epsilon - \epsilon_\theta\bigl([\,z_t,\; \mathrm{unshuffle}_f(c)\,],\, t,\, s\bigr)\bigr\rVert^2$$
#
# (or $v$ in place of $\epsilon$, as `diffusion.prediction` says; `anatomy.min_snr_gamma` weighs the timesteps). The sentence $s$ still enters by cross-attention,
# and is left empty for `anatomy.condition_dropout` of the samples. The source's model has no sentence, so the table is made with the empty one.

# %%
if acdc:
    vae, log, latent_space = models.own_autoencoder(study, data)
    vae.save_pretrained(study.write("maps/vae"), safe_serialization=True)
    style.save(training_curve(log, "Autoencoder of ACDC"), study.write("figures/maps_vae_training.png"))
else:
    vae, latent_space = autoencoder.AutoencoderKL.from_pretrained(study.read("vae")), ""
given = models.material(data, vae, study.profile, posteriors)
held_out = data.held_out
true, patients = data.frames[held_out], data.patients[held_out]
some = data.at(held_out[map_data.varied(data.kinds[held_out], 4)])
figure = figures.conditions(some.frames, some.labels, some.edges, data.annotated, data.classes)
style.save(figure, study.write("figures/maps_conditions.png"))
print(f"{data.edges[held_out].mean():.1%} of the pixels of held-out images are edges.")

# %% [markdown]
# ## Six models, one budget
#
# The baseline is SPADE (Park et al., CVPR 2019): a generator in pixels whose every normalisation is scaled and shifted by the map, against discriminators at
# two scales.
#
# $$\mathrm{SPADE}(h, c)_{k,p} = \gamma_{k,p}(c)\,\frac{h_{k,p} - \mu_k}{\sigma_k} + \beta_{k,p}(c)$$
#
# $$\mathcal L_G = -\mathbb E\,D(G(c), c) + \lambda_F \mathcal L_{\text{features}} + \lambda_P \mathcal L_{\text{perceptual}} \;(+\,\lambda_{KL}\, D_{KL}),\qquad
# \mathcal L_D = \mathbb E \max(0, 1 - D(x, c)) + \mathbb E \max(0, 1 + D(G(c), c))$$
#
# Without the VAE nothing random enters and the image is a function of the map. With it $z \sim \mathcal N(0, I)$ is drawn; in training $z$ comes from an
# encoder of the true image. The perceptual term is the phase network's distance where the profile has no LPIPS. That network does not judge here.
#
# Every model sees the same images, in the same number of steps and images a step. A step does not cost the same in each, so the seconds stand beside that budget.
# Profile `phantom` goes on, for a short stretch, from weights that ship (`models/anatomy`) and were trained on other phantom patients, their seconds on another
# machine. `from_scratch`, `smoke`, `paper` and `acdc` train from random weights.

# %%
start = map_weights.start(study, from_scratch, other_data=bool(acdc))
distance = models.perceptual(study.profile, None if acdc else study.read("classifier"))
digest = study.digest("anatomy", "spade", "diffusion", "text", code=[models, *models.CODE]) + map_data.digest(data)
digest += map_weights.digest(start) + latent_space
trained, budgets = {}, []
for method, half in sorted(models.EVERY):  # method by method
    name = models.name_of(method, half)
    how = {"folder": study.ws.checkpoints(f"maps_{name}"), "digest": digest, "start": map_weights.of_model(start, name)}
    model, log, seconds = models.train(given, method, half, distance, **how)
    models.save(given, method, half, model, study.write(f"maps/{name}"))
    before = map_weights.log(name) if start else None
    curve = training_curve(log, f"{method} {half}", before, *models.drawn_of(method, log))
    style.save(curve, study.write(f"figures/maps_training_{name}.png"))
    trained[method, half] = model
    row = {"method": method, "half": half, "parameters": models.generator_parameters(model)}
    budgets.append(row | map_weights.budget_row(start, name, log, settings.batch_size, seconds))
pd.DataFrame(budgets).to_csv(study.write("tables/maps_budget.csv"), index=False)
pd.DataFrame(budgets)

# %% [markdown]
# ## Images of held-out maps (Fig. 2 a, b)
#
# Every model makes every held-out image anew from its map (and edges), one seed an image. No model learned from these patients. Those of the validation part
# chose which weights were kept (of SPADE by the distance in its loss, of the LDM by the denoising loss), so the answers below are given for the test part alone
# too. A seventh set shows that text and map combine: the LDM with edges, told the image's sentence as well.

# %%
outputs = {key: models.generate(given, *key, trained[key], held_out) for key in models.EVERY}
models.save_images(study.write("maps/held_out.npz"), outputs)
shown = map_data.varied(data.kinds[held_out], 5)
some, of_six = data.at(held_out[shown]), {key: made[shown] for key, made in outputs.items()}
corners = [map_data.busiest(edges, round(figures.ZOOM * len(edges))) for edges in some.edges]
about = some.frames, some.labels, some.edges, of_six, data.annotated, data.classes, corners
style.save(figures.qualitative(*about), study.write("figures/maps_samples.png"))
if not acdc:
    ldm = "LDM", models.WITH
    outputs[map_scores.SENTENCE, models.WITH] = models.generate(given, *ldm, trained[ldm], held_out, told=True)

# %% [markdown]
# ## The source's Table 1
#
# SSIM and NMSE compare each image with the true one of its map, mean ± SD over images, NMSE $= \lVert x - \hat x\rVert^2 / \lVert x \rVert^2$ (the source gives
# no convention; on a bright field, as in subtracted angiograms, it comes out far smaller than in cardiac MR). The distance between sets is FID only where
# Inception features were used. Else it is the DSA-feature distance of notebook 07, in columns of its own name: it is no FID and has another scale. That network
# knows angiograms alone, so on ACDC there is FID or no distance.
#
# **Published values are of ACDC, ours of the images named in `source`. They stand side by side to compare the *order* of the models, never the values.**

# %%
extractor = map_scores.open_extractor(study, data)
distance_name = extractor.distance if extractor else "feature distance"
scores = map_scores.of_images(true, outputs, patients)
scores.to_csv(study.write("tables/maps_images.csv"), index=False)
decoded = autoencoder.reconstruct(vae, true)
of_all = outputs | {map_scores.AUTOENCODER: decoded}
measured = map_scores.distances(extractor, true, of_all, patients) if extractor else None
table = published.contract(published.ANATOMY, map_scores.cells(scores, measured, distance_name), data.origin)
published.write_table(study.write("tables/maps_scores.csv"), table)
display(map_scores.shown(table).T)
print(limit := map_scores.of_autoencoder(true, decoded, measured, distance_name))
if extractor:
    print(*map_scores.of_floor(extractor, data, measured), sep="\n")

# %% tags=["nbval-check-output"]
print(table.loc[table["published"].notna(), ["row", "column", "published"]].to_string(index=False))

# %% [markdown]
# ### What may be said of it (§3)
#
# The source's comparisons, as paired differences over the same held-out images, each with what the source's own table says of that pair. Images of one patient
# are alike, so intervals are over patients: a bootstrap for SSIM and NMSE, parts of the patients for the distance (notebook 07 says why). *better* means that
# the whole interval lies on the side of the first model.

# %%
apart, verdicts = map_scores.answers(scores, measured, distance_name, data.part[held_out], settings, seed)
apart.insert(0, "distance", distance_name)
apart.to_csv(study.write("tables/maps_differences.csv"), index=False)
print(f"{len(set(patients))} held-out patients ({data.origin}), first less second, 95 % intervals:")
print(*verdicts, sep="\n")

# %% [markdown]
# ## Radial spectra (Fig. 2 c, d)
#
# The amplitude (the root of the mean power) over $|R| = \sqrt{x^2 + y^2}$ in the Fourier plane. An acquired frame holds quantum noise, which no decoder makes:
# less amplitude at the right end says nothing of vessels. Dashed is what the autoencoder alone leaves of the true images, and so the best a latent diffusion can do.

# %%
drawn, spectral = map_scores.radial_spectra(true, outputs, decoded, patients, settings.bootstrap, seed)
style.save(figures.spectra(**drawn, origin=data.origin), study.write("figures/maps_spectra.png"))
spectral.to_csv(study.write("tables/maps_spectra.csv"), index=False)
spectral.set_index(["set", "band"])["distance_db"].unstack(sort=False).round(2)

# %% [markdown]
# ## What these numbers can and cannot say
#
# They say whether models of one budget, trained on these images, rank as the source found on cardiac MR. The budget is shared in steps; another sharing
# (seconds, parameters) could rank them otherwise. So could more care for SPADE: of the weights that profile `phantom` goes on from, the diffusion's were trained
# again after a first table, with other weights of the timesteps and another sampler (both chosen on the patients that choose weights), in one stretch; SPADE had
# two. Edges are computed from the very image that is then asked for: SSIM and NMSE with edges are those of a reconstruction from boundaries, not of an imagined
# patient. On the phantom archive all of it is about simulated anatomy.

# %%
study.note("annotation", data.annotation)
study.note("scores", [limit, *verdicts])
study.finish()
