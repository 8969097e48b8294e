"""Rehearsal: a profile walked end to end before its weights are here.

Stand-ins of the true architectures take the models' places under the packaged manifests; everything else is real: vLLM,
the run, the trainer, the evaluation. Works in a scratch home, and leaves the user's own alone.
"""
