"""How near two sets of images are (notebook 07): features, distances, intervals, Table 5."""
