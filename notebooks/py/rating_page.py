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
# # The rating page
#
# **Purpose.** Where readers work: a senior reader keeps or rejects each generated image, then all readers grade the kept ones, blinded to condition and to each other
# (§2.4). In its other mode an expert marks one representative arterial frame a series (§2.2).
#
# `make readers RUN=…` makes the study, prints an address for each reader and serves this notebook as a page. Here in JupyterLab the same page opens below for
# whoever enters a token; click on it, then the keys it lists work. The answers go to notebook 06 (or 02): `make readers-export RUN=…`.

# %% tags=["parameters"]
run: str = "smoke"  # run whose study is shown; the server names its own
study: str = "ratings"  # name of the study in that run; of mode annotate it is "annotations"

# %%
from dsa_lib.rating.page import rating_page

rating_page(run, study)
