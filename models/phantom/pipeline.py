"""Where diffusers finds the class of this pipeline: DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)."""

from dsa_lib.pipeline import DSAPipeline

__all__ = ["DSAPipeline"]
