"""The local control API: HTTP and JSON on a Unix socket of mode 0600.

`schema` is what travels, `server` answers for the daemon, `client` asks for the other verbs.
"""
