"""The enums of packets.pxd, for Python.

Does NOT parse: inbound.pyx and forward.pyx do.
"""
