"""The network: encoder, decoder, skip connection, and the state that training starts from."""
