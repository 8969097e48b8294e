"""The domains: target benchmarks with their seeds, prompts, thresholds and answer formats."""
