"""Doctor: what this machine has and lacks, and how to mend it. Looks, and never changes anything."""
