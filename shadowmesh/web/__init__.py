"""HTTP on this machine, for client and relay: the local control APIs, metrics and health.

`server` serves, `client` asks over a Unix socket, `metrics` is for Prometheus, `problem` is how errors look.
"""
