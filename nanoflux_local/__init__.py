"""NanoFlux Local: adversarial data generation that runs offline, on your own machines."""

__version__ = "0.1.0"
