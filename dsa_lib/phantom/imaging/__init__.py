"""One simulated acquisition: bolus, projection, rendering, and the XA file."""
