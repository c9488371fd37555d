"""The vector autoregression of latents: its fit, its penalty, its couplings."""
