"""Images from label maps and edges (notebooks 21 and 22): latent diffusion beside SPADE."""
