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
# # 10 · Report
#
# **Purpose.** One HTML file with everything that this run found: Tables 1–5 beside the published ones, the classifier's scores, fidelity and
# faithfulness, Figures 1–5, and the provenance of each notebook. Before that, the ledger: every number that the paper prints, held against its others.
#
# **Reads** the manifests, tables and figures of notebooks 00–07, verified against their recorded hashes. What an archive did not allow is missing here too,
# with the reason; and `data_manifests/published.csv`. **Writes** `report.html`, which needs no other file and no network, and `ledger.csv`.
#
# **Measured time**: printed by the last cell; seconds in every profile.

# %% tags=["parameters"]
run: str = "smoke"  # folder under runs/
profile: str = "smoke"  # smoke, phantom or paper
archive: str = ""  # "" is the phantom archive of notebook 00; the report tells by the manifests which it was
overrides: dict = {}  # as in the notebooks before; changes nothing here

# %%
import pandas as pd
from IPython.display import display

from dsa_lib.core import published
from dsa_lib.report import html as html_report
from dsa_lib.run.session import begin

study = begin("10_report", globals())
content = html_report.contents(study)

# %% [markdown]
# ## What this run is

# %%
print(*content["banner"], sep="\n")
pd.DataFrame(content["notebooks"]).set_index("name")

# %% [markdown]
# ## Tables 1–5
# Published, this run, and the difference. Every table says what its values of this run were computed from.

# %%
for table in content["tables"]:
    title = f"Table {table['number']} · {table['title']}"
    if table["missing"]:
        print(f"{title}\n  not made: {table['missing']}")
    else:
        print(f"{title}\n  {table['sources']}")
        display(published.side_by_side(published.read_table(study.read(f"tables/table{table['number']}.csv"))).round(3))

# %% [markdown]
# A table's file holds every published cell, whether or not this run could fill it.

# %% tags=["nbval-check-output"]
pd.Series({f"Table {number}": len(published.published(number)) for number in published.TITLES}, name="published cells")

# %% [markdown]
# ## The ledger of published numbers
# Each number of the paper's text, tables and captions has a row in `data_manifests/published.csv`, with the relations to other numbers that it has to
# meet; statements in words that a number can confirm or contradict have one too. What a number is rounded to is taken into account: it stands for all
# that prints so. A verdict is computed here, never written down. None of this depends on the run, except that its simulated cohort (notebook 01, fitted to the
# published values) shows which numbers of §2.1–2.2 records can have together.

# %%
ledger = content["ledger"]
for finding in ledger["findings"].itertuples():
    print(f"{finding.place}, {finding.quantity} ({finding.verdict.split(': ')[1]})\n  {finding.because}.\n")

# %%
ledger["tally"].set_index("verdict")

# %% [markdown]
# All rows, with how each was checked:

# %%
with pd.option_context("display.max_rows", None, "display.max_colwidth", 200):
    display(ledger["frame"].drop(columns=["kind", "times", "against"]).set_index("id"))

# %% [markdown]
# What disagrees or is in doubt does so whatever the run:

# %% tags=["nbval-check-output"]
ledger["findings"][["place", "quantity", "verdict"]]

# %% [markdown]
# ## The report

# %%
ledger["frame"].to_csv(study.write("ledger.csv"), index=False)
html_report.write_report(study, study.write("report.html"), content)
study.finish()
