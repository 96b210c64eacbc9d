"""The ShadowMesh relay: introduces members to each other and forwards what it can't read."""
