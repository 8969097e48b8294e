"""LoRA training: settings, audit, data, the training loop, FLOPs and adapters.

This package turns a list of examples into an adapter folder that is named by the hash of its content. The training loop
(`lora`) does not use the ledger; it reports through callbacks. Importing this package does not import torch; importing
`lora` does.
"""
