"""Policy of the layer-2 switch: which MAC belongs to whom; sans-I/O."""
