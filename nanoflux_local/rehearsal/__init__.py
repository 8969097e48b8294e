"""Rehearsal: run a profile end to end before its weights are available.

Stand-ins (tiny models with the real architectures and random weights) replace the models; everything else is real: the
packaged manifests, vLLM, the run, the trainer, the evaluation. A rehearsal works in a scratch home and does not change
the user's home.
"""
