"""Rehearsal: run a profile end to end before its weights are available.

Stand-ins with the models' architectures are used under the packaged manifests; everything else is real: vLLM, the run,
the trainer, the evaluation. A rehearsal works in a scratch home and does not touch the user's.
"""
