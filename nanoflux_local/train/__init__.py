"""LoRA training: settings, audit, data, the loop, FLOPs and adapters (SPEC §3).

Owns everything from a list of examples to a sealed adapter folder. Knows nothing of the ledger, of runs or of the
command line: it reports through callbacks. Importing this package loads no torch; `lora` (the loop) does.
"""
