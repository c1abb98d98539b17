"""The reader study (notebook 06): ratings, agreement, Tables 2 to 4."""
