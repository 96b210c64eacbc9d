"""ShadowMesh: a QUIC-native, post-quantum, peer-to-peer layer-2 overlay network."""

__version__ = "0.1.0"
