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
# **Purpose.** A prompt states the view of an angiogram, but not the position of the vessels. In this notebook, an anatomy conditions the latent diffusion model: a label
# map with only some classes annotated, and the Canny edges of the whole field of view (Capitão et al., *Anatomy-compliant medical image synthesis by latent diffusion
# models*; “the source” below). As in Table 1 of the source, the question is which of {LDM, SPADE, SPADE w/ VAE} generates better images, and whether edges help. Notebook
# 22 tests whether the images follow their maps.
#
# **Inputs.** `frames.npy` of notebook 01, `arterial.parquet` and `classifier/` of 02, `latents/` and `vae/` of 03, `dsa_network/` of 07, and the ground truth of the
# phantom archive. With the parameter `acdc`, a folder of the source's own data, none of these is needed.
#
# **Outputs.** `tables/maps_scores.csv` (Table 1 of the source and of this run) and further `tables/maps_*.csv`. Under `maps/`: images with label maps and edges
# (`set.npz`), the six models, and their images of the held-out maps (`held_out.npz`). Figures `maps_*.png`.
#
# **Time.** Training and sampling six models take most of it. The last cell prints the time of this run. Example: [held-out frames of a phantom run and the images of six
# models for the same maps](../figures/maps_samples.png) (simulated angiography).

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
# ## Images and label maps
# From every series, the latest frames are used that are as surely arterial as its best frame. The contrast has then advanced furthest, so that the map describes the
# visible vessel tree. The label map $y$ has three classes: proximal, medium and peripheral arteries. For the phantom archive, it is the ground truth of notebook 00. A real
# archive has no such labels, and the segmentation of notebook 12 is used. All results below then refer to *automatic annotations*.

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
# ## Dual condition (§2, Fig. 1)
# *Partial annotation*: only the classes in `anatomy.annotated` are given, one-hot encoded, just as a heart may be annotated without the surrounding organs. *Edges*: the
# Canny detector finds the boundaries $e_x$ of the image over the whole field of view, without manual annotation. They provide the remaining anatomy.
# $$c(x) = \bigl[\,\mathbb 1[y = k]\;\text{for annotated } k,\;\; e_x\,\bigr] \in \{0, 1\}^{C \times H \times W}$$
# The diffusion model works on latents of $h \times w$ with $f = H/h$. `anatomy.to_latent` selects how the map is reduced. *unshuffle* rearranges the $f \times f$ pixels of
# a latent position into channels, which preserves boundaries one pixel wide; *area* averages them. The map is concatenated with the noisy latent:
# $$\mathcal L = \mathbb E_{z_0, \epsilon, t}\,\bigl\lVert \epsilon - \epsilon_\theta\bigl([\,z_t,\; \mathrm{unshuffle}_f(c)\,],\, t,\, s\bigr)\bigr\rVert^2$$
# (with $v$ instead of $\epsilon$ according to `diffusion.prediction`; `anatomy.min_snr_gamma` weights the timesteps). The prompt $s$ enters by cross-attention and is empty
# for a fraction `anatomy.condition_dropout` of the samples. The model of the source has no prompt, so the table uses the empty one.

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
# The baseline is SPADE (Park et al., CVPR 2019): a generator in pixel space whose normalisation layers are scaled and shifted by the map, with discriminators at two
# scales.
# $$\mathrm{SPADE}(h, c)_{k,p} = \gamma_{k,p}(c)\,\frac{h_{k,p} - \mu_k}{\sigma_k} + \beta_{k,p}(c)$$
# $$\mathcal L_G = -\mathbb E\,D(G(c), c) + \lambda_F \mathcal L_{\text{features}} + \lambda_P \mathcal L_{\text{perceptual}} \;(+\,\lambda_{KL}\, D_{KL}),\qquad
# \mathcal L_D = \mathbb E \max(0, 1 - D(x, c)) + \mathbb E \max(0, 1 + D(G(c), c))$$
# Without the VAE, no random variable enters, and the image is a function of the map. With the VAE, $z \sim \mathcal N(0, I)$ is sampled; during training, $z$ is encoded
# from the true image. The perceptual term is the distance of the phase classifier if the profile does not use LPIPS. This network is not used for evaluation.
#
# All models see the same images for the same number of steps and images per step. The cost of a step differs, so the table also shows the seconds. Profile `phantom`
# continues for a few steps from shipped weights (`models/anatomy`), which were trained on other phantom patients; their seconds were measured on another machine.
# `from_scratch`, `smoke`, `paper` and `acdc` train from random weights.

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
# Each model generates every held-out image from its map (and edges), with one seed per image. No model was trained on these patients. The validation patients among them
# selected the weights (SPADE by the distance in its loss, the LDM by the denoising loss), so the conclusions below are also given for the test patients alone. A seventh
# set combines prompt and map: the LDM with edges, with the prompt of the image.

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
# ## Table 1 of the source
# SSIM and NMSE compare each image with the true image of its map, as mean ± SD over images, with NMSE $= \lVert x - \hat x\rVert^2 / \lVert x \rVert^2$. The source does
# not define NMSE; bright backgrounds, as in subtracted angiograms, give far smaller values than cardiac MR. The distance between sets is FID only with Inception features.
# Otherwise it is the DSA-feature distance of notebook 07, in separate columns, which is not an FID and has a different scale. Its network was trained on angiograms only,
# so ACDC has either FID or no distance.
#
# **Published values are from ACDC, ours from the images named in `source`. Compare the *ranking* of the models, not the values.**

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
# ### Comparisons (§3)
# The comparisons of the source, as paired differences over the same held-out images, with the direction in its table. Images of one patient are similar, so intervals are
# over patients: bootstrap for SSIM and NMSE, subsets of patients for the distance (see notebook 07). *better* means that the whole interval favours the first model.

# %%
apart, verdicts = map_scores.answers(scores, measured, distance_name, data.part[held_out], settings, seed)
apart.insert(0, "distance", distance_name)
apart.to_csv(study.write("tables/maps_differences.csv"), index=False)
print(f"{len(set(patients))} held-out patients ({data.origin}), first less second, 95 % intervals:")
print(*verdicts, sep="\n")

# %% [markdown]
# ## Radial spectra (Fig. 2 c, d)
# The amplitude (square root of the mean power) over $|R| = \sqrt{x^2 + y^2}$ in the Fourier plane. Acquired frames contain quantum noise, which a decoder does not
# generate. Lower amplitude at high frequencies says nothing about vessels. The dashed line is the autoencoder reconstruction of the true images, the upper limit of any
# latent diffusion model.

# %%
drawn, spectral = map_scores.radial_spectra(true, outputs, decoded, patients, settings.bootstrap, seed)
style.save(figures.spectra(**drawn, origin=data.origin), study.write("figures/maps_spectra.png"))
spectral.to_csv(study.write("tables/maps_spectra.csv"), index=False)
spectral.set_index(["set", "band"])["distance_db"].unstack(sort=False).round(2)

# %% [markdown]
# ## Interpretation
# The results show whether models with the same budget, trained on these images, rank as the source found on cardiac MR. The budget is the number of steps. Another budget
# (seconds, parameters) could change the ranking, and so could more tuning of SPADE. Among the weights of profile `phantom`, the diffusion models were trained again after a
# first comparison, in one run, with other timestep weights and another sampler (both chosen on the validation patients). SPADE was trained in two runs. Edges are computed
# from the target image: SSIM and NMSE with edges measure a reconstruction from boundaries, not a new patient. On the phantom archive, all results are about simulated
# anatomy.

# %%
study.note("annotation", data.annotation)
study.note("scores", [limit, *verdicts])
study.finish()
