"""The latent diffusion of the study (notebooks 03 to 05): autoencoder, latents, text, diffusion, sampling."""
