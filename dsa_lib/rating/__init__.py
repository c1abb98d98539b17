"""The reader study's page (§2.4): experts screen and rate a run's reader set blinded, or mark arterial frames for annotations.csv (§2.2).

`study` makes a study from a run, `store` keeps every answer on disk, `sitting` decides what one rater sees next, `page` shows it, `export` writes the
files that the notebooks take. `python -m dsa_lib.rating` serves and exports.
"""
