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
# **Purpose.** Are the vessels of generated frames possible? Their calibre, length, branching and continuity, and the spectrum of the image, beside those of held-out
# patients. The paper leaves this to its readers (§2.4: visibility of proximal, medium and peripheral arteries).
#
# **Inputs.** `samples/fid/` of notebook 05, `arterial.parquet` of notebook 02, `frames.npy` of notebook 01; on the phantom `archive_truth.parquet`.
#
# **Outputs.** `plausibility.csv`; figures `plausibility.png`, `plausibility_spectra.png`, `plausibility_examples.png`.
#
# **Time.** Segmentation takes most of it; the closing cell states the time of this run.

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
# ## Who segments
#
# An automatic segmentation names the arteries of generated, held-out and training frames in the same way (`plausibility.segmenter`). The table has the Dice
# coefficients of both segmenters on phantom frames whose vessels are known, as acquired and passed through the autoencoder
# (`benchmarks/vessel_segmentation.json`). Errors are in all sets; they cancel only as far as a segmenter errs alike on real and on generated frames.

# %% tags=["nbval-check-output"]
print(segmenters.dice_on_known_vessels().round(2).to_string())

# %%
segmenter = segmenters.of_run(study)
print(segmenter.says)

# %% [markdown]
# ## Measures
#
# Each image is measured by what it shows: area and length of centre line by calibre, connected pieces and the share of the largest, branchings and loose ends per length (lengths
# in sides of the frame), tortuosity; and its power spectrum. For a measure $m$ with means $\bar m$ and the standard deviation $s$ of held-out frames
#
# $$r = \frac{\bar m_{\text{generated}}}{\bar m_{\text{held-out}}}, \qquad d = \frac{\bar m_{\text{generated}} - \bar m_{\text{held-out}}}{s_{\text{held-out}}},$$
#
# each a mean over the four conditions, with bootstrap intervals that draw patients where frames are real. Effects are given and no p-values: with enough
# images every difference is significant. The floor is the same of training patients: what two sets of real patients differ by.
#
# A centre line cannot tell a branching from two vessels that cross in projection, and none of the measures knows anatomy: a vessel may have the right
# calibre, length and branching and still not exist in any person.

# %%
frames, measured = plausibility.measure_run(study, images, segmenter)
three = (measured["generated"], measured["held-out"], measured["training"])
effects = plausibility.compare(*three, draws=settings.bootstrap, seed=study.profile.seed)
effects.insert(0, "segmenter", segmenter.name)
effects.to_csv(study.write("plausibility.csv"), index=False)

# %% [markdown]
# $r$ and $d$ overall, and by condition as small dots; *wasserstein* in the table is the distance between the two distributions in the same unit as $d$, which sees a
# difference of spread that means hide. It is never below 0, so that it too reads beside its floor.

# %%
style.save(figures.effects(effects, origin), study.write("figures/plausibility.png"))
overall = effects[effects["scope"] == "overall"].pivot(index="measure", columns="set")
shown = ["mean", "reference_mean", "ratio", "ratio_low", "ratio_high", "difference", "wasserstein"]
display(overall[shown].swaplevel(axis=1)[["generated", "floor"]].reindex(list(plausibility.MEASURES)).round(3))
verdict = plausibility.verdict(effects)
print(verdict)

# %% [markdown]
# ## Spectra and segmentations to look at
#
# The spectrum is that of the grey values under a Hann window, averaged over rings; white noise of variance $\sigma^2$ has power $\sigma^2$ at every frequency.
# An acquired frame holds quantum noise, which a decoder does not make: less power at the right end is to be expected of any generated frame, and
# says nothing about its vessels. Below it, the frame of median arterial area of each condition, and what was segmented in it. The phantom run's picture is
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
# ## What these numbers can and cannot say
#
# Measures of vessels are as good as the segmentation, and know calibre and shape but no anatomy: whether a single vessel is where it can be, the readers of notebook
# 06 grade. That a measure differs from held-out patients by no more than training patients do is no proof that it is equal. On the phantom archive these numbers
# describe how well the pipeline learns simulated angiograms, not clinical ones.

# %%
study.note("plausibility", verdict)
study.finish()
