"""What an evaluation is asked for. No torch here."""

from pydantic import Field

from clr.landscape_config import LandscapeSettings
from clr.strict_model import StrictModel


class EvaluateConfig(StrictModel):
    """The minima of one train job, and how closely to look at them."""

    job_id: str = Field(max_length=64, description="The train job whose snapshots are measured: job_….")
    landscape: LandscapeSettings = Field(LandscapeSettings(), description="What is measured around the snapshots, and how much of it.")
