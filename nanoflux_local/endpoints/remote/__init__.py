"""Remote servers: how requests are written, responses read, and retries and timeouts decided."""
