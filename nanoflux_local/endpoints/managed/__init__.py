"""vLLM servers that are started and stopped here."""
