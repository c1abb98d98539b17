"""What every package shares: conditions and their sentences, patient splits, images, statistics, the published tables."""
