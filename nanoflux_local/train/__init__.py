"""LoRA training: settings, audit, data, the loop, FLOPs and adapters (SPEC §3).

Owns everything from a list of examples to a sealed adapter folder. Only `trainings`, `summary` and `choice` know the
ledger; the training loop reports through callbacks. Importing this package loads no torch; `lora` (the loop) does.
"""
