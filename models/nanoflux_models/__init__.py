"""Models on this machine: their manifests, their weights, and the vLLM servers that run them.

This package knows nothing about attackers, defenders or judges, and never imports `nanoflux_local`. It uses the network
only if a caller requests a download.
"""
