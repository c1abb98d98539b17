"""What a run shows: the HTML report, and the blocks of README.md that come from a run."""
