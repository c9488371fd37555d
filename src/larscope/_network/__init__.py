"""The network: encoder, decoder, skip connection, linear start."""
