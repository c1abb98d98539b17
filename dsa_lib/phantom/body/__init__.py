"""One simulated patient: head, vessel trees, territories, veins, lesions."""
