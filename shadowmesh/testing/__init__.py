"""Public test tools: virtual time, an in-memory network, whole nodes in one process, a lab of namespaces."""
