"""TLS without sockets: contexts made from the configuration, the pump between ciphertext and plaintext, and the stream that one makes of it."""
