# ruff: noqa: PYI021  (the public text of an extension is in its stub)
"""A BoringSSL-class libcrypto named at run time; used through `aead.use_library` only."""

def take(path: str) -> None:
    """Load it and make new keys with it.  ValueError with the loader's reason, or what it lacks."""

def give_back() -> None:
    """Make new keys with OpenSSL again; only while no key was made with the library."""
