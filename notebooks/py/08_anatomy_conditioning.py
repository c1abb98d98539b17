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
# # 08 · Anatomy-compliant synthesis
#
# **Purpose.** A sentence says from where an angiogram is seen, not where its vessels lie. Here the latent diffusion model is told an anatomy: a label map of which some
# classes are annotated, and the Canny edges of the whole field of view (Capitão et al., *Anatomy-compliant medical image synthesis by latent diffusion
# models*; "the source" below). Its table is made anew, {LDM, SPADE, SPADE with VAE} × {with edges, without}, and what it leaves open is measured:
# whether the image keeps to the map, whether it follows an edited map, and whether the generated pairs teach a segmenter anything.
#
# **Inputs.** `arterial.parquet` and `classifier/` of notebook 02, `frames.npy` of notebook 01, `latents/` and `vae/` of notebook 03, `dsa_network/` of notebook 07;
# on the phantom archive its truth, else an automatic segmentation. With `acdc`, a folder of the source's own data, all of it is made for those images.
#
# **Outputs.** `tables/anatomy_scores.csv` (the source's table), `tables/anatomy_*.csv`, the six models under `anatomy/`, figures `anatomy_*.png`.
#
# **Time.** Six trainings and the images of six models take most of it; the closing cell states the time of this run.

# %% tags=["parameters"]
run: str = "smoke"  # folder of this run under runs/
profile: str = "smoke"  # smoke, phantom or paper
archive: str = ""  # empty: the phantom archive of notebook 00
overrides: dict = {}  # e.g. {"anatomy.annotated": ["proximal"], "anatomy.to_latent": "area", "fidelity.features": "inception"}
acdc: str = ""  # a folder of the ACDC challenge as it is published (training/, testing/): the source's own table; empty: this run's angiograms
from_scratch: bool = (
    False  # True: train from random weights where profile phantom would go on from those that ship with the project
)

# %%
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import display

from dsa_lib.audits import plausibility
from dsa_lib.core import published
from dsa_lib.curation import annotations
from dsa_lib.fidelity import distances as fidelity_distances
from dsa_lib.fidelity import extractor as fidelity_extractor
from dsa_lib.fidelity import features
from dsa_lib.figures import maps as figures
from dsa_lib.figures import style
from dsa_lib.ldm import autoencoder, diffusion, text
from dsa_lib.maps import acdc as acdc_files
from dsa_lib.maps import compliance, map_diffusion, map_scores, map_weights, models, spade, synthetic_pairs
from dsa_lib.maps import data as map_data
from dsa_lib.maps import edits as maps_edits
from dsa_lib.maps.models import METHODS, WITH, WITHOUT
from dsa_lib.nn import training
from dsa_lib.nn.curve import training_curve
from dsa_lib.run.session import begin
from dsa_lib.vessels import spectra
from dsa_lib.vessels import unet as vessel_unet

# %%
study = begin("08_anatomy_conditioning", globals())
style.apply()
settings = study.profile.anatomy
origin = "ACDC" if acdc else "archive" if study.archive else "phantom"

# %% [markdown]
# ## Images and what is known of them
#
# Of every series the latest frames are taken that are as surely arterial as its best one: the contrast then has come furthest, so that a map of the tree describes what
# is seen. Patients are split as everywhere in this run.
#
# The label map $y$ has three classes, proximal, medium and peripheral arteries. On the phantom archive it is the truth that notebook 00 wrote; on a real archive
# nobody has drawn it, and the vessel network of notebook 07 stands in: then every number below is about an *automatic annotation*.

# %%
if not acdc and (why := study.skipped_upstream("arterial.parquet", "latents/index.parquet", "vae", "dsa_network")):
    study.skip(why)
truth_known = not acdc and study.archive is None and study.has("archive_truth_masks.npz")
simulated = None  # identifiers of the phantom patients, of whom a network that judges must have seen none
if study.archive is None and study.has("archive_truth.parquet"):
    simulated = pd.read_parquet(study.read("archive_truth.parquet"), columns=["patient_id"])["patient_id"].unique()
shipped_segmenter = None if acdc else plausibility.open_segmenter(study.profile.plausibility.segmenter, simulated)


def label_maps(rows, pictures):
    return shipped_segmenter.segment(pictures, "frames to annotate")


annotation = "manual" if acdc else "automatic (" + study.profile.plausibility.segmenter + ")"
if study.archive is None and truth_known:
    from dsa_lib.phantom import truth

    masks = study.read("archive_truth_masks.npz")
    key = annotations.read_key(study.ws.private("series_key.parquet"))

    def label_maps(rows, pictures):
        size = study.profile.curation.image_size
        found = truth.calibre_masks(rows["series"], key, study.read("archive"), masks, size)
        return np.stack([found[name] for name in rows["series"]])

    annotation = "the phantom's truth"

# %%
posteriors, latent_space = None, ""  # of the run's own frames both are inputs, which the study keeps account of
if acdc:
    size = study.profile.autoencoder.image_size
    data, quarantine = acdc_files.read(Path(acdc), size, study.profile.seed, study.profile.acdc)
    print(f"{len(quarantine)} patients of ACDC are left out.")
    display(quarantine)
else:
    frames = np.load(study.read("frames.npy"), mmap_mode="r")
    arterial = pd.read_parquet(study.read("arterial.parquet"))
    data, rows = map_data.of_run(arterial, frames, label_maps, settings)
    index = pd.read_parquet(study.read("latents/index.parquet"))["frame_id"]
    place = pd.Series(index.index, index=index)[rows["frame_id"]].to_numpy()
    posteriors = tuple(np.load(study.read(f"latents/{name}.npy"), mmap_mode="r")[place] for name in ("mean", "std"))
annotated = data.classes if acdc else settings.annotated
print(f"Label maps: {annotation}; annotated classes: {', '.join(annotated)}.")
pd.DataFrame(
    {
        part: {"patients": len(set(data.patients[data.rows(part)])), "images": len(data.rows(part))}
        for part in ("train", "val", "test")
    }
)

# %% [markdown]
# ## The dual condition (§2)
#
# *Partial annotation*: only the classes in `anatomy.annotated` are told, one-hot, as a heart may be outlined and the organs around it not. *Edges*: the detector
# of Canny finds the boundaries $e_x$ of the image over the whole field of view, at no cost of annotation; they must supply the rest.
#
# $$c(x) = \bigl[\,\mathbb 1[y = k]\;\text{for annotated } k,\;\; e_x\,\bigr] \in \{0, 1\}^{C \times H \times W}$$
#
# The diffusion works on latents of $h \times w$ with $f = H/h$. The map comes there by `anatomy.to_latent`: *unshuffle* moves the $f \times f$ pixels that share a latent
# into channels, so that nothing of a boundary one pixel wide is lost; *area* takes their mean. It is concatenated with the noisy latent:
#
# $$\mathcal L = \mathbb E_{z_0, \epsilon, t}\,\bigl\lVert \epsilon - \epsilon_\theta\bigl([\,z_t,\; \mathrm{unshuffle}_f(c)\,],\, t,\, s\bigr)\bigr\rVert^2$$
#
# (or $v$ in place of $\epsilon$, as `diffusion.prediction` says; timesteps are weighed by `anatomy.min_snr_gamma`, by default all alike). The sentence $s$ still enters by cross-attention and is left empty for
# `anatomy.condition_dropout` of the samples. The source's model has none, so that the table is made with the empty sentence.

# %%
if acdc:
    latent_space = study.digest("autoencoder", code=[autoencoder, autoencoder, training])
    vae, log = autoencoder.train(
        data.frames,
        data.rows("train"),
        data.rows("val"),
        study.profile,
        folder=study.ws.checkpoints("anatomy_vae"),
        digest=latent_space + map_data.digest(data),
    )
    style.save(training_curve(log, "Autoencoder of ACDC"), study.write("figures/anatomy_vae_training.png"))
else:
    vae = autoencoder.AutoencoderKL.from_pretrained(study.read("vae"))
chosen_profile = replace(study.profile, anatomy=replace(settings, annotated=tuple(annotated)))
given = models.material(data, vae, chosen_profile, posteriors)
judged = (
    ("test",) if acdc and len(data.rows("test")) else ("val", "test")
)  # of ACDC the test part that its authors set apart
held_out = map_data.held_out(data, settings.evaluated, judged)
true, patients = data.frames[held_out], data.patients[held_out]
kinds = patients if acdc else rows["cell"].to_numpy()[held_out]
some = held_out[map_data.varied(kinds, 4)]
figure = figures.conditions(data.frames[some], data.labels[some], given.edge_maps[some], annotated, data.classes)
style.save(figure, study.write("figures/anatomy_conditions.png"))
print(f"{given.edge_maps[held_out].mean():.1%} of the pixels of held-out images are edges.")

# %% [markdown]
# ## Six models, one budget
#
# Every model sees the same images in the same number of steps and images a step. That is the budget that is shared; a step does not cost the same
# in each, so the seconds stand beside it (those of weights that ship were measured where and when those were trained, not all on one machine). Profile `phantom` goes on from weights that ship with the project, trained on other phantom patients (`models/anatomy`), for a
# short visible stretch; `from_scratch`, `smoke`, `paper` and `acdc` train from random weights.

# %%
start = map_weights.start(study, from_scratch, other_data=bool(acdc))
code = [map_diffusion, models, diffusion, spade, text, training]
digest = study.digest("anatomy", "spade", "diffusion", "text", code=code) + map_data.digest(data)
digest += map_weights.digest(start) + latent_space
trained, budgets = {}, []


def keep(method, half, model, log, seconds):
    name = models.name_of(method, half)
    before = map_weights.log(name) if start else None
    drawn = training_curve(log, f"{method} {half}", before, *models.drawn_of(method, log))
    style.save(drawn, study.write(f"figures/anatomy_training_{name}.png"))
    trained[method, half] = model
    parameters = sum(p.numel() for part, p in model.named_parameters() if not part.startswith("discriminator"))
    row = {"method": method, "half": half, "parameters": parameters}
    budgets.append(row | map_weights.budget_row(start, name, log, settings.batch_size, seconds))


for half in (WITH, WITHOUT):
    name = models.name_of("LDM", half)
    folder = study.ws.checkpoints(f"anatomy_{name}")
    found = models.train_ldm(given, half, folder=folder, digest=digest, start=map_weights.of_model(start, name))
    keep("LDM", half, *found)
    facts = {"annotated": list(annotated), "classes": list(data.classes), "edges": half == WITH}
    map_diffusion.save(found[0], study.write(f"anatomy/{name}"), facts)

# %% [markdown]
# ### SPADE (Park et al., CVPR 2019)
#
# A generator in pixels whose every normalisation is scaled and shifted by the map, against discriminators at two scales:
#
# $$\mathrm{SPADE}(h, c)_{k,p} = \gamma_{k,p}(c)\,\frac{h_{k,p} - \mu_k}{\sigma_k} + \beta_{k,p}(c)$$
#
# $$\mathcal L_G = -\mathbb E\,D(G(c), c) + \lambda_F \mathcal L_{\text{features}} + \lambda_P \mathcal L_{\text{perceptual}} \;(+\,\lambda_{KL}\, D_{KL}),\qquad
# \mathcal L_D = \mathbb E \max(0, 1 - D(x, c)) + \mathbb E \max(0, 1 + D(G(c), c))$$
#
# Without the VAE nothing random enters, the image is a function of the map; with it, $z \sim \mathcal N(0, I)$ is drawn, and in training comes from an encoder of the true image.
# The perceptual term is the phase network's distance where the profile has no LPIPS (a network that does not judge here).

# %%
distance_of = models.perceptual(study.profile, None if acdc else study.read("classifier"))
for method, vae_variant in ((METHODS[1], False), (METHODS[2], True)):
    for half in (WITH, WITHOUT):
        name = models.name_of(method, half)
        found = models.train_spade(
            given,
            half,
            vae_variant,
            distance_of,
            folder=study.ws.checkpoints(f"anatomy_{name}"),
            digest=digest,
            start=map_weights.of_model(start, name),
        )
        keep(method, half, *found)
        channels, size = given.maps(half).shape[1], data.frames.shape[-1]
        spade.save(found[0], study.write(f"anatomy/{name}"), study.profile.spade, channels, size)
budget = pd.DataFrame(budgets)
budget.to_csv(study.write("tables/anatomy_budget.csv"), index=False)
display(budget)

# %% [markdown]
# ## Images of held-out maps
#
# Every held-out image is made anew by all six from its map (and edges), one seed an image. No model learned from these patients. Some of them, the validation part, chose which weights were kept (of SPADE
# by the distance of its loss, of the LDM by the denoising loss), so that the answers below are given for the test part alone too. A seventh set shows
# that text and map combine: the LDM with edges, told the image's sentence too.


# %%
def make(method, half):
    def generate(maps, seeds, sentences=None):
        seeds = [int(seed) for seed in seeds]
        if method == "LDM":
            what = f"images, LDM {half}"
            return models.generate_ldm(trained[method, half], given, maps, seeds, sentences, what)
        return spade.generate(trained[method, half], np.asarray(maps[:]), seeds)

    return generate


outputs = {
    (method, half): make(method, half)(given.maps(half)[held_out], held_out)
    for half in (WITH, WITHOUT)
    for method in METHODS
}
if not acdc:
    told = data.sentences[held_out].tolist()
    outputs[map_scores.SENTENCE, WITH] = make("LDM", WITH)(given.maps(WITH)[held_out], held_out, told)

# %%
shown = map_data.varied(kinds, 5)
of_six = {key: made[shown] for key, made in outputs.items() if key[0] in METHODS}
side = round(figures.ZOOM * true.shape[-1])
corners = [map_data.busiest(given.edge_maps[held_out[n]], side) for n in shown]
figure = figures.qualitative(
    true[shown],
    data.labels[held_out[shown]],
    given.edge_maps[held_out[shown]],
    of_six,
    annotated,
    data.classes,
    corners,
)
style.save(figure, study.write("figures/anatomy_samples.png"))

# %% [markdown]
# ## The source's table
#
# SSIM and NMSE compare each image with the true one of its map, mean ± SD over images, NMSE $= \lVert x - \hat x\rVert^2 / \lVert x \rVert^2$ (the source gives no
# convention; with a bright field, as in subtracted angiograms, it comes out far smaller than in cardiac MR). The distance between the sets is FID only where Inception features
# were used; else it is the DSA-feature distance of notebook 07 in columns of its own name, which is not an FID and has another scale. That network knows
# angiograms alone: on ACDC there is FID or no distance.
#
# **Published values are of ACDC, ours of the images named in `source`: they stand side by side to compare the *order* of the models and never the values.**

# %%
kind, extractor = study.profile.fidelity.features, None
if kind == "phase-network" and not acdc:
    kind = "dsa-network"
    print("The phase network is in SPADE's loss and cannot judge it: the network of notebook 07 does.")
train_rows = data.rows("train")
if acdc and kind != "inception":
    print("No feature distance: the networks of this run know angiograms alone. FID: fidelity.features = inception.")
else:
    some = np.sort(np.random.default_rng(study.profile.seed).permutation(train_rows)[:2048])
    extractor = features.open_extractor(
        kind,
        classifier=None,
        size=0,
        batch_size=study.profile.fidelity.batch_size,
        training_frames=data.frames[some],
        network=study.read("dsa_network") if kind == "dsa-network" else None,
        weights_sha256=study.profile.fidelity.weights_sha256,
    )
    extractor = fidelity_extractor.cached(extractor, study.ws.checkpoints("features"))
distance_name = extractor.distance if extractor else "feature distance"

# %%
scores = map_scores.of_images(true, outputs, patients)
scores.to_csv(study.write("tables/anatomy_images.csv"), index=False)
decoded = autoencoder.reconstruct(vae, true)
of_all = outputs | {map_scores.AUTOENCODER: decoded}
measured = map_scores.distances(extractor, true, of_all, patients) if extractor else None
table = published.contract(published.ANATOMY, map_scores.cells(scores, measured, distance_name), origin)
published.write_table(study.write("tables/anatomy_scores.csv"), table)
display(map_scores.shown(table).T)
print(limit := map_scores.of_autoencoder(true, decoded, measured, distance_name))
if extractor:
    floor_rows = np.linspace(0, len(train_rows) - 1, min(len(held_out), len(train_rows))).astype(int)
    floor = extractor(data.frames[train_rows[floor_rows]], what="training images")
    floor = fidelity_distances.frechet_distance(
        fidelity_distances.statistics(measured.true), fidelity_distances.statistics(floor)
    )
    print(
        f"{distance_name} of as many real images of other (training) patients: {floor:.3g}; a map is followed nearer."
    )
    if len(held_out) <= (dimensions := measured.true.shape[1]):
        print(f"{len(held_out)} images, {dimensions} dimensions: distances are too large; read differences alone.")

# %% tags=["nbval-check-output"]
print(table.loc[table["published"].notna(), ["row", "column", "published"]].to_string(index=False))

# %% [markdown]
# ### What may be said of it
#
# The source's comparisons, as paired differences over the same held-out images, each with what the source's own table says of that pair. Images of one patient are alike, so intervals are over patients: a bootstrap for SSIM and
# NMSE, parts of the patients for the distance (notebook 07 says why). *better* means that the whole interval lies on the side of the first model.

# %%
apart = map_scores.differences(scores, measured, settings.subsamples, settings.bootstrap, study.profile.seed)
apart.insert(0, "distance", distance_name)
apart.to_csv(study.write("tables/anatomy_differences.csv"), index=False)
print(f"{len(np.unique(patients))} held-out patients ({origin}), first less second, 95 % intervals:")
verdicts = map_scores.verdicts(apart, distance_name)
tests = np.flatnonzero(data.part[held_out] == "test")
if 0 < len(tests) < len(held_out):
    of_tests = map_scores.of_part(scores, measured, tests)
    of_tests = map_scores.differences(*of_tests, settings.subsamples, settings.bootstrap, study.profile.seed)
    verdicts.append(map_scores.alike_on_test(apart, of_tests, len(np.unique(patients[tests]))))
print(*verdicts, sep="\n")

# %% [markdown]
# ## Radial spectra (Fig. 2 c, d)
#
# The amplitude (the root of the mean power) as a function of $|R| = \sqrt{x^2 + y^2}$ in the Fourier plane. An acquired frame holds quantum noise, which no decoder makes: less amplitude at the right end
# than the truth says nothing of vessels. Dashed is what the autoencoder alone leaves of the true images: as sharp the latent diffusion would be if
# its latents were right.

# %%
of_truth = spectra.of_set(true, "held-out images")
made_spectra = {key: spectra.of_set(frames) for key, frames in outputs.items() if key[0] in METHODS}
curves = {
    half: {method: (made_spectra[method, half].frequency, made_spectra[method, half].amplitude) for method in METHODS}
    for half in (WITH, WITHOUT)
}
alone = spectra.of_set(decoded, "decoded images")
figure = figures.spectra(curves, (of_truth.frequency, of_truth.amplitude), origin, (alone.frequency, alone.amplitude))
style.save(figure, study.write("figures/anatomy_spectra.png"))
named = {" ".join(key): found for key, found in made_spectra.items()} | {map_scores.AUTOENCODER[0]: alone}
spectral = spectra.distances(named, of_truth, patients, settings.bootstrap, study.profile.seed)
spectral.to_csv(study.write("tables/anatomy_spectra.csv"), index=False)
spectral.pivot(index="set", columns="band", values="distance_db").reindex(
    index=list(named), columns=spectra.BANDS
).round(2)

# %% [markdown]
# ## Masks to labelled images: are they of use?
#
# Maps of training patients become images by the LDM with edges, and the pairs train a segmenter that has never seen an acquired frame; another one learns from the acquired
# frames of the same maps. Network, initial weights and steps are alike; both are tested on held-out frames, Dice against the maps.

# %%
picked = train_rows[np.linspace(0, len(train_rows) - 1, min(settings.pairs, len(train_rows))).astype(int)]
seeds = picked + len(data)  # other noise than that of the held-out images
synthetic = make("LDM", WITH)(given.maps(WITH)[picked], seeds)
arms = {
    synthetic_pairs.REAL: (data.frames[picked], data.labels[picked]),
    synthetic_pairs.SYNTHETIC: (synthetic, data.labels[picked]),
}
network = replace(study.profile.plausibility, network_steps=settings.segmenter_steps)
segmenters, _ = synthetic_pairs.train_each(
    arms,
    network,
    seed=study.profile.seed,
    folder=study.ws.checkpoints("anatomy_segmenters"),
    digest=digest + study.digest("plausibility", code=[synthetic_pairs, vessel_unet]),
    precision=study.profile.precision,
    log_every_s=study.profile.log_every_s,
)
how = {"classes": data.classes, "draws": settings.bootstrap, "seed": study.profile.seed}
tested, gaps, _ = synthetic_pairs.evaluate_each(
    segmenters, true, data.labels[held_out], patients, network.network_size, **how
)
tested.to_csv(study.write("tables/anatomy_segmenters.csv"), index=False)
style.save(figures.segmenters(tested, origin), study.write("figures/anatomy_segmenters.png"))
print(use := synthetic_pairs.verdict(tested, gaps))

# %% [markdown]
# ## Does the image keep to the map?
#
# A segmenter names the vessels of every generated image, and its map is held against the one that was given: Dice by class and of the centre lines. *All* classes are
# judged, also the one that was never told: without edges nothing says where it lies. The segmenter errs; what it reaches on the true images is the ceiling (dashed).
# On angiograms it is the segmenter of notebook 07 (`plausibility.segmenter`), which saw none of these patients; on ACDC the one trained above on acquired images.

# %%
judge = shipped_segmenter.segment if shipped_segmenter else None
if judge is None:

    def judge(pictures, what):
        return vessel_unet.segment(segmenters[synthetic_pairs.REAL], pictures, network.network_size, what=what)


maps_found = {key: judge(made, " ".join(key)) for key, made in outputs.items() if key[0] in METHODS}
asked = data.labels[held_out]
kept = [
    compliance.of_maps(found, asked, patients, **how).reset_index().assign(method=key[0], half=key[1])
    for key, found in maps_found.items()
]
ceiling = compliance.of_maps(judge(true, "true images"), asked, patients, **how).reset_index()
complied = pd.concat([*kept, ceiling.assign(method="true images", half="")], ignore_index=True)
complied.to_csv(study.write("tables/anatomy_compliance.csv"), index=False)
figure = figures.compliance(complied[complied["half"] != ""], ceiling)
style.save(figure, study.write("figures/anatomy_compliance.png"))
gained = {
    method: compliance.difference(maps_found[method, WITH], maps_found[method, WITHOUT], asked, patients, **how)
    for method in METHODS
}
print("Dice with edges less without, 95 % intervals over patients:")
display(pd.concat(gained, names=["method"]).round(3))

# %% [markdown]
# ## Does it follow an edited map?
#
# A distal branch of the annotated tree is removed, or the trunk narrowed over a short stretch, and the image made again from the same noise. The edges of the unedited image
# say otherwise along the edit, so they are *withheld* there, or *redrawn* after the edited map. `kept` is the contrast of the edited pixels afterwards
# over that before: 1, the edit was ignored; 0, the vessel is gone.

# %%
asked_for = [data.classes.index(name) + 1 for name in annotated]
to_edit = held_out[np.linspace(0, len(held_out) - 1, min(settings.edited, len(held_out))).astype(int)]
edits, not_made = (
    ([], ["Edits are of vessels: none here."]) if acdc else maps_edits.edits(data.labels, to_edit, asked_for)
)
print(*not_made, sep="\n")
followed, strips = [], []
for edit in edits:
    makers = {(f"LDM {half}", half == WITH): make("LDM", half) for half in (WITH, WITHOUT)}
    made = maps_edits.images(edit, given.edge_maps, data.classes, annotated, makers)
    followed.append(maps_edits.responses(edit, made, data.patients[edit.rows], settings.bootstrap, study.profile.seed))
    middle = int(np.argsort(edit.region.sum(axis=(1, 2)), kind="stable")[len(edit.rows) // 2])  # the median edit
    halves = {WITH: made[f"LDM {WITH}", "redrawn"], WITHOUT: made[f"LDM {WITHOUT}", maps_edits.NO_EDGES]}
    strip = {
        "title": edit.name,
        "labels": edit.before[middle],
        "edited": edit.after[middle],
        "region": edit.region[middle],
    }
    strips.append(strip | {"outputs": {half: (pair[0][middle], pair[1][middle]) for half, pair in halves.items()}})
responses = pd.concat(followed, ignore_index=True) if followed else pd.DataFrame()
responses.to_csv(study.write("tables/anatomy_edits.csv"), index=False)
following = maps_edits.statements(responses)
print(*following, sep="\n")
if strips:
    style.save(figures.edited(strips, data.classes), study.write("figures/anatomy_edited.png"))

# %% [markdown]
# ## What these numbers can and cannot say
#
# They say whether models of one budget, trained on these images, rank as the source found on cardiac MR. The budget is shared in steps; another sharing (seconds, parameters)
# could rank them otherwise. So could more care for SPADE: of the weights that profile `phantom` goes on from, those of the diffusion were trained a second time, after a first
# table, with another weighting of timesteps and another sampler (both chosen on the patients that choose weights), and in one stretch, where SPADE had two. Edges are computed from the very image that is then asked for: with edges a model is told much more of it than a label map holds, so that SSIM and
# NMSE with edges are those of a reconstruction from boundaries, not of an imagined patient. On the phantom archive all of it is about simulated anatomy.

# %%
study.note("annotation", annotation)
study.note("scores", [limit, *verdicts])
study.note("edits", following)
study.note("use", use)
study.finish()
