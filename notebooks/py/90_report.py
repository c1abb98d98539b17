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
# **Purpose.** Write all results of this run to one HTML file: Tables 1–5 with the published values, the figures, the further tables of audits and extensions, the checks of
# the published numbers, and the provenance of each notebook.
#
# **Inputs.** Manifests, tables and figures of all notebooks that have run, verified against their recorded hashes. Results that an archive does not allow are missing, with
# the reason.
#
# **Outputs.** `report.html`, which needs no other file and no network. The tables of the phantom run are in [docs/results.md](../docs/results.md).
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
# ## This run in short

# %%
print(*content["banner"], *(f"{subject}: {sentence}" for subject, sentence in content["answer"]), sep="\n")
pd.DataFrame(content["notebooks"]).set_index("name")

# %% [markdown]
# ## Tables 1–5
#
# Published value, value of this run, and difference. Every table states the source of its values.

# %%
for table in content["tables"]:
    title = f"Table {table['number']} · {table['title']}"
    if table["missing"]:
        print(f"{title}\n  not made: {table['missing']}")
    else:
        print(f"{title}\n  {table['sources']} {table['remark']}")
        frame = published.read_table(study.read(f"tables/table{table['number']}.csv"))
        display(published.as_in_paper(table["number"], frame))

# %% [markdown]
# The file of a table contains every published cell, even if this run could not compute it.

# %% tags=["nbval-check-output"]
pd.Series({f"Table {number}": len(published.published(number)) for number in published.TITLES}, name="published cells")

# %% [markdown]
# ## The report

# %%
html_report.write_report(study, study.write("report.html"), content)
study.finish()
