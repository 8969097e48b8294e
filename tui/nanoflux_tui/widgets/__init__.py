"""The widgets and drawings that screens are composed of."""
