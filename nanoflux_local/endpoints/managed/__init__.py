"""vLLM servers that NanoFlux starts and stops."""
