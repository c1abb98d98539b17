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
# # Rating page
#
# **Purpose.** The page on which readers work. A senior reader keeps or rejects each generated image. All readers then grade the kept images, blinded to the condition and
# to each other (§2.4). In its second mode, an expert marks one representative arterial frame per series (§2.2).
#
# `make readers RUN=…` creates the study, prints an address for each reader and serves this notebook as a page. In JupyterLab, the same page opens below after a token is
# entered. Click on it to use the keys that it lists. `make readers-export RUN=…` passes the answers to notebook 06 (or 02).

# %% tags=["parameters"]
run: str = "smoke"  # run whose study is shown; the server names its own
study: str = "ratings"  # name of the study in that run; of mode annotate it is "annotations"

# %%
from dsa_lib.rating.page import rating_page

rating_page(run, study)
