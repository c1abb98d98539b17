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
# # 12 · Vessel plausibility
#
# **Purpose.** Are the vessels of generated frames plausible? Calibre, length, branching, continuity and the image spectrum are compared with those of held-out patients.
# The paper leaves this question to its readers (§2.4: visibility of proximal, medium and peripheral arteries).
#
# **Inputs.** `samples/fid/` of notebook 05, `vae/` of notebook 03, `arterial.parquet` of notebook 02, `frames.npy` of notebook 01; for the phantom also
# `archive_truth.parquet`.
#
# **Outputs.** `plausibility.csv`; figures `plausibility.png`, `plausibility_spectra.png`, `plausibility_examples.png`.
#
# **Time.** Segmentation takes most of it. The last cell prints the time of this run.

# %% tags=["parameters"]
run: str = "smoke"  # folder of this run under runs/
profile: str = "smoke"  # smoke, phantom or paper
archive: str = ""  # empty: the phantom archive of notebook 00
overrides: dict = {}  # e.g. {"plausibility.segmenter": "classical", "plausibility.images": 600}

# %%
from IPython.display import display

from dsa_lib.audits import plausibility
from dsa_lib.fidelity import image_sets
from dsa_lib.figures import plausibility as figures
from dsa_lib.figures import style
from dsa_lib.run.session import begin
from dsa_lib.vessels import segmenters

study = begin("12_vessel_plausibility", globals())
style.apply()
settings = study.profile.plausibility
origin = "archive" if study.archive else "phantom"
if why := study.skipped_upstream("samples/fid", "arterial.parquet"):
    study.skip(why)
images = image_sets.of_run(study)

# %% [markdown]
# ## Segmentation
#
# The arteries of generated, held-out and training frames are segmented by the same automatic method (`plausibility.segmenter`). The table shows the Dice coefficients of
# both available methods on phantom frames with known vessels, as acquired and after a pass through the autoencoder (`benchmarks/vessel_segmentation.json`). All sets
# contain segmentation errors. They cancel only if the method makes the same errors on real and on generated frames.

# %% tags=["nbval-check-output"]
print(segmenters.dice_on_known_vessels().round(2).to_string())

# %%
segmenter = segmenters.of_run(study)
print(segmenter.says)

# %% [markdown]
# ## Measures
#
# The measures of an image are the area and centre-line length by calibre, the number of connected components and the fraction of the largest, branch points and end points
# per length (in units of the frame's side), tortuosity, and the power spectrum. For a measure $m$ with means $\bar m$ and standard deviation $s$ of the held-out frames,
#
# $$r = \frac{\bar m_{\text{generated}}}{\bar m_{\text{held-out}}}, \qquad d = \frac{\bar m_{\text{generated}} - \bar m_{\text{held-out}}}{s_{\text{held-out}}},$$
#
# Each is a mean over the four conditions. Bootstrap intervals resample patients for real frames. The table contains effect sizes and no p-values, because every difference
# is significant with enough images. The floor is the same comparison for training patients: the difference between two sets of real patients. The control is the same
# comparison for the held-out frames themselves after a pass through the autoencoder: what it changes, no diffusion model can restore.
#
# A centre line cannot distinguish a branch point from two vessels that cross in projection. None of the measures describes anatomy: a vessel can have a correct calibre,
# length and branching and still not exist in any person.

# %%
frames, measured = plausibility.measure_run(study, images, segmenter)
three = (measured["generated"], measured["held-out"], measured["training"])
control = measured.get(plausibility.RECONSTRUCTED)
effects = plausibility.compare(*three, settings.bootstrap, study.profile.seed, control)
effects.insert(0, "segmenter", segmenter.name)
effects.to_csv(study.write("plausibility.csv"), index=False)

# %% [markdown]
# The figure shows $r$ and $d$ overall, and by condition as small dots. *wasserstein* in the table is the distance between the two distributions in units of $d$, which also
# detects differences in spread. It is never negative, so compare it with its floor.

# %%
style.save(figures.effects(effects, origin), study.write("figures/plausibility.png"))
overall = effects[effects["scope"] == "overall"].pivot(index="measure", columns="set")
shown = ["mean", "reference_mean", "ratio", "ratio_low", "ratio_high", "difference", "wasserstein"]
sets = [name for name in ("generated", "floor", plausibility.RECONSTRUCTED) if name in set(effects["set"])]
display(overall[shown].swaplevel(axis=1)[sets].reindex(list(plausibility.MEASURES)).round(3))
verdict = plausibility.verdict(effects)
print(verdict)

# %% [markdown]
# ## Spectra and example segmentations
#
# The spectrum is that of the grey levels under a Hann window, averaged over rings. White noise of variance $\sigma^2$ has power $\sigma^2$ at every frequency. Acquired
# frames contain quantum noise, which a decoder does not generate. Lower power at high frequencies is therefore expected in every decoded frame: compare generated frames
# with the reconstructed ones. The second figure shows the frame of median arterial area of each condition with its segmentation. The phantom run:
# [figures/plausibility_examples.png](../figures/plausibility_examples.png).

# %%
if curves := plausibility.mean_spectra(measured):
    style.save(figures.spectra(curves, origin), study.write("figures/plausibility_spectra.png"))
pairs = plausibility.examples({name: measured[name] for name in ("held-out", "generated")})
strip = {
    cell: [(name, frames[name][index], measured[name].classes[index]) for name, index in of.items()]
    for cell, of in pairs.items()
}
if strip:
    style.save(figures.overlays(strip), study.write("figures/plausibility_examples.png"))

# %% [markdown]
# ## Interpretation
#
# The measures are as accurate as the segmentation. They describe calibre and shape, not anatomy. Whether a single vessel is correct is judged by the readers of notebook
# 06. If a measure differs from held-out patients by no more than training patients do, equality is not proven. For the phantom archive, the results describe how well the
# pipeline learns simulated angiograms, not clinical ones.

# %%
study.note("plausibility", verdict)
study.finish()
