"""The edge: UDP socket, TAP device, addresses of the operating system."""
