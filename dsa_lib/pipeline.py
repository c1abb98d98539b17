"""The public door: saved pipelines import `DSAPipeline` from here (`models/phantom/pipeline.py` does), wherever its module lies."""

from dsa_lib.ldm.pipeline import DSAPipeline

__all__ = ["DSAPipeline"]
