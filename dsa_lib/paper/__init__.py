"""The paper's own numbers put to the test (notebook 31): ledger, cohort at its size, reconstructed ratings."""
