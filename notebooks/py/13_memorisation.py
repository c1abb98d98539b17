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
# # 13 · Memorisation
#
# **Purpose.** Does the model hand out its training frames? The paper calls its images privacy-preserving (§3) without a test.
#
# **Inputs.** `features/` and `dsa_network/` of notebook 07; `samples/fid/` of notebook 05; `ldm_unconditional/` of notebook 04; `vae/` and `latents/` of notebook 03;
# `arterial.parquet` and `classifier/` of notebook 02; `frames.npy` of notebook 01.
#
# **Outputs.** `memorisation.csv`, `memorisation_pairs.csv`, `memorisation_controls.csv`, figures of the same names.
#
# **Time.** The search and the training of the planted model take most of it; the closing cell states the time of this run.

# %% tags=["parameters"]
run: str = "smoke"  # folder of this run under runs/
profile: str = "smoke"  # smoke, phantom or paper
archive: str = ""  # empty: the phantom archive of notebook 00
overrides: dict = {}  # e.g. {"privacy.level": 0.01, "privacy.planted_steps": 0}

# %%
import pandas as pd
from IPython.display import display

from dsa_lib.audits import copy_search, memorisation, planted_copies
from dsa_lib.fidelity import features, image_sets
from dsa_lib.figures import memorisation as figures
from dsa_lib.figures import samples, style
from dsa_lib.ldm import autoencoder
from dsa_lib.run.session import begin

study = begin("13_memorisation", globals())
style.apply()
settings, seed = study.profile.privacy, study.profile.seed
origin = "archive" if study.archive else "phantom"
if why := study.skipped_upstream("samples/fid", "arterial.parquet", "features/training.npy"):
    study.skip(why)

# %% [markdown]
# ## Two questions in three spaces
#
# Every generated frame, and every held-out frame of the four conditions, is looked up among all training frames in three spaces: *pixels* (blurred greys of mean 0
# and length 1, so that brightness and contrast do not count; mirrored and shifted too), *network maps* (what lies where, for the run's phase network; mirrored too),
# and the features of notebook 07's distances. Two questions are tested in each.
#
# 1. Are generated frames nearer to training frames than held-out ones are? $C_T$ (Meehan, Chaudhuri & Dasgupta 2020) asks it with Mann and Whitney's $U$ in
#    cells of a partition, here the conditions, $C_T = \sum_\pi P_n(\pi)\, Z_\pi / \sum_\pi P_n(\pi)$, and takes all frames as independent. Frames of one patient are not:
#    `held_out_worth` is how many independent ones they amount to. So `p_nearer` takes the variance between patients (Obuchowski 1997).
# 2. Are there single near copies? For every frame $\rho = d_{(1)} / d_{(2)}$, distance to the nearest training *patient* over that to the second nearest: 0 for a copy, near 1
#    where no patient stands out. `near_copies` of the generated frames have a $\rho$ below that of every real frame looked up among other patients;
#    `p_near_copies` is the chance of so many, again with frames counted at their worth.
#
# **The rule, fixed beforehand.** A space's $p$ is twice the smaller of the two; Holm's correction over the spaces; *flagged* below `privacy.level`, the
# share of honest models that may be flagged by chance. AuthPct (Alaa et al. 2022) is shown and does not decide: the next frame of the same run lies so near a
# training frame that a near copy can pass as authentic, unless neighbours of other patients are asked for.
#
# How often the rule flagged what does not copy was measured on phantom archives, not on this run (`benchmarks/memorisation.py`), with 95 % intervals of the rate:

# %% tags=["nbval-check-output"]
print(memorisation.false_alarms().to_string())

# %% [markdown]
# ## The audit
#
# Held-out frames are of other patients, so they set a scale for images of *new* patients. `median_same_patient` is the distance from a training frame to the nearest other
# frame of its own patient, `median_other_patients` to that of any other patient. Where the first is clearly smaller, a generated frame that shows a training
# patient at a moment of its own counts as near too, though it copies no frame. Where it is not, these spaces do not recognise a patient, and the audit
# speaks of copied frames alone. What the phantom run gave stands in [docs/results.md](../docs/results.md).

# %%
images = image_sets.of_run(study)
sets = memorisation.sets_of_run(study, images)
three = (sets["generated"], sets["held-out"], sets["training"])
spaces = copy_search.spaces_of(study.read("classifier"), study.profile.fidelity.features)
no_audit = memorisation.cannot_audit(sets["training"].patients)
verdict = f"Not audited: {no_audit}."
if no_audit is None:
    audit = memorisation.audit(spaces, *three, settings, seed)
    audit.table.to_csv(study.write("memorisation.csv"), index=False)
    audit.pairs.to_csv(study.write("memorisation_pairs.csv"), index=False)
    style.save(figures.nearest(audit.distances(), origin), study.write("figures/memorisation.png"))
    with pd.option_context("display.float_format", "{:.3g}".format):
        display(audit.table.set_index("space").T)
    verdict = f"{memorisation.statement(audit)} {memorisation.scope(study)}".strip()
print(verdict)

# %% [markdown]
# The closest pairs by $\rho$, each image above its nearest training frame. The held-out pairs are the floor for the eye: frames of different patients
# can look this much alike.

# %%
shown_sets = {name: sets[name] for name in ("generated", "held-out")}
for space in spaces if no_audit is None else []:
    figure = figures.gallery(audit.shown(space.name, shown_sets, sets["training"]), audit.pairs, space.name)
    style.save(figure, study.write(f"figures/memorisation_pairs_{space.name.replace(' ', '_')}.png"))

# %% [markdown]
# ## Would the audit notice?
#
# A model that is made to copy: the run's unconditional model, trained on alone a few training frames by the same code (the picture shows how far it
# got; `benchmarks/planted_model.json` has it for longer, with the likeness of its samples measured). Its samples go through the same audit. Beside it
# stand copies by hand of other training frames, as they are and altered; each kind alone, and as a tenth of the generated images above. What is not
# flagged says how much copying the audit can miss on this archive.

# %%
planted = {}
if (no_plant := no_audit or planted_copies.cannot_plant(study)) is None:
    learnt, drawn = planted_copies.model_of_run(study, images.frames)
    planted[f"model trained on {len(learnt)} frames alone"] = drawn
    figure = samples.image_grid([learnt, drawn[: len(learnt)]], ["trained on", "its samples"])
    style.save(figure, study.write("figures/memorisation_planted.png"))
else:
    print(f"No model is planted: {no_plant}.")

# %%
planted_told = "Not planted."
if no_audit is None:
    training = sets["training"]
    count = max(len(images.generated) // 10, 1)
    copied = planted_copies.chosen(training.cells, training.patients, count, seed + 1)
    planted |= planted_copies.by_hand(images.frames[training.rows[copied]], autoencoder.round_trip(study), seed)
    network = study.read("dsa_network") if study.has("dsa_network") else None
    extractor = features.of_run(study, images.frames, images.training_rows, network)
    controls = planted_copies.controls(audit, spaces, *three, planted, extractor, seed)
    controls.to_csv(study.write("memorisation_controls.csv"), index=False)
    display(controls.round(4))
    print(planted_told := planted_copies.statement(controls))

# %% [markdown]
# ## What these numbers can and cannot say
#
# *Not flagged* means that this test, with these patients and spaces, saw no copying; the planted controls say what it would have seen. The audit can miss a
# small share of copies, a copied region and what no space shows. It does not show that images are anonymous in a legal sense. On the phantom archive the
# patients are simulated, and nobody's privacy is at stake.

# %%
study.note("memorisation", verdict)
study.note("planted copies", planted_told)
study.finish()
