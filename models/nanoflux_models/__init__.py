"""Models on this machine: manifests, weights, and (later) the servers that run them.

Knows nothing of attackers, defenders or judges, and never imports `nanoflux_local`. Reaches the network only where
a caller asks for a download.
"""
