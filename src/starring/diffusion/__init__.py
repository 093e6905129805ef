"""Mathematics of diffusion with no network inside."""
