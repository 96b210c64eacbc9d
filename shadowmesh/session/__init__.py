"""The session handshake, its keys and the link that carries it; sans-I/O."""
