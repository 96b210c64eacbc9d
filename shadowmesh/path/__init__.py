"""Ways to a peer: relay bindings, round-trip times, probing; sans-I/O."""
