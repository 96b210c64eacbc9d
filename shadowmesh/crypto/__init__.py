"""Identity, primitives, hybrid TLS inside aioquic and the key schedule; no I/O but identity files."""
