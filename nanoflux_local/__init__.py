"""NanoFlux Local: adversarial data generation that runs offline, on one's own machines."""

__version__ = "0.1.0"
