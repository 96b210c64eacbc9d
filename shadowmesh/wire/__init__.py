"""Codecs of every message and header, with pictures of bytes; nothing else."""
