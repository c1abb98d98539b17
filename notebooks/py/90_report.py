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
# # 90 · Report
#
# **Purpose.** One HTML file with everything that this run found: Tables 1–5 beside the published ones, the figures, the further tables of audits and
# extensions, the ledger of the paper's own numbers, and the provenance of each notebook.
#
# **Inputs.** Manifests, tables and figures of whatever notebooks have run, verified against their recorded hashes. What an archive did not allow is missing here too,
# with the reason. **Outputs.** `report.html`, which needs no other file and no network.
# The tables of the phantom run are in [docs/results.md](../docs/results.md).
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

study = begin("90_report", globals())
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
        print(f"{title}\n  {table['sources']} {table['remark']}")
        display(
            published.as_printed(
                table["number"], published.read_table(study.read(f"tables/table{table['number']}.csv"))
            )
        )

# %% [markdown]
# A table's file holds every published cell, whether or not this run could fill it.

# %% tags=["nbval-check-output"]
pd.Series({f"Table {number}": len(published.published(number)) for number in published.TITLES}, name="published cells")

# %% [markdown]
# ## The report

# %%
html_report.write_report(study, study.write("report.html"), content)
study.finish()
