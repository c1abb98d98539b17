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
# **Purpose.** Does the model reproduce its training frames? The paper calls its images privacy-preserving (§3) without a test.
#
# **Inputs.** `features/` and `dsa_network/` of notebook 07; `samples/fid/` of notebook 05; `ldm_unconditional/` of notebook 04; `vae/` and `latents/` of notebook 03;
# `arterial.parquet` and `classifier/` of notebook 02; `frames.npy` of notebook 01.
#
# **Outputs.** `memorisation.csv`, `memorisation_pairs.csv`, `memorisation_controls.csv`, figures of the same names.
#
# **Time.** The search and the training of the planted model take most of it. The last cell prints the time of this run.

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
# ## Two tests in three spaces
#
# For every generated frame, and every held-out frame of the four conditions, the nearest training frames are searched in three spaces: *pixels* (blurred grey levels of
# mean 0 and norm 1, invariant to brightness and contrast, including mirrored and shifted copies), *network maps* (spatial features of the phase classifier, including
# mirrored copies), and the features of the distances in notebook 07. Two hypotheses are tested in each space.
#
# 1. Are generated frames closer to training frames than held-out frames are? $C_T$ (Meehan, Chaudhuri & Dasgupta 2020) tests this with the Mann–Whitney $U$ in the cells of
#    a partition, here the conditions, $C_T = \sum_\pi P_n(\pi)\, Z_\pi / \sum_\pi P_n(\pi)$. It assumes independent frames, but frames of one patient are dependent:
#    `held_out_worth` is their effective sample size. `p_nearer` therefore uses the variance between patients (Obuchowski 1997).
# 2. Are there single near copies? For every frame, $\rho = d_{(1)} / d_{(2)}$ is the ratio of the distances to the nearest and the second-nearest training *patient*: 0 for
#    a copy, near 1 if no patient stands out. `near_copies` counts the generated frames whose $\rho$ is below that of every real frame searched among other patients.
#    `p_near_copies` is the probability of this many, with the effective sample size.
#
# **The decision rule was fixed in advance.** The $p$ of a space is twice the smaller of the two, with Holm's correction over the spaces. The model is *flagged* below
# `privacy.level`, the accepted rate of false alarms. AuthPct (Alaa et al. 2022) is shown but does not decide. The next frame of the same run is so close to a training
# frame that a near copy can pass as authentic, unless neighbours from other patients are required.
#
# The false-alarm rate of the rule was measured on phantom archives other than this run (`benchmarks/memorisation.py`). The table gives 95 % intervals of the rate:

# %% tags=["nbval-check-output"]
print(memorisation.false_alarms().to_string())

# %% [markdown]
# ## Audit
#
# Held-out frames belong to other patients, so they are the reference for images of *new* patients. `median_same_patient` is the median distance from a training frame to
# the nearest other frame of the same patient, `median_other_patients` to the nearest frame of another patient. If the first is clearly smaller, a generated frame that
# shows a training patient at another moment also counts as close, although it copies no frame. Otherwise, these spaces do not recognise patients, and the audit only
# detects copied frames. Results of the phantom run: [docs/results.md](../docs/results.md).

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
# The closest pairs by $\rho$, each image above its nearest training frame. The held-out pairs are the visual reference: frames of different patients can be this similar.

# %%
shown_sets = {name: sets[name] for name in ("generated", "held-out")}
for space in spaces if no_audit is None else []:
    figure = figures.gallery(audit.shown(space.name, shown_sets, sets["training"]), audit.pairs, space.name)
    style.save(figure, study.write(f"figures/memorisation_pairs_{space.name.replace(' ', '_')}.png"))

# %% [markdown]
# ## Sensitivity of the audit
#
# As a positive control, the run's unconditional model is trained further on only a few training frames, so that it copies them. The figure shows its samples;
# `benchmarks/planted_model.json` contains a longer training with the measured similarity of the samples. These samples pass through the same audit. Further controls are
# exact and altered copies of other training frames. Each type is tested alone, and as a tenth of the generated images above. Controls that are not flagged show how much
# copying the audit can miss on this archive.

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
# ## Interpretation
#
# *Not flagged* means that this test found no copying with these patients and spaces. The planted controls show what it would have found. The audit can miss a small
# fraction of copies, a copied region, and similarities that no space represents. It does not show that images are anonymous in a legal sense. In the phantom archive, the
# patients are simulated and no real person's privacy is affected.

# %%
study.note("memorisation", verdict)
study.note("planted copies", planted_told)
study.finish()
