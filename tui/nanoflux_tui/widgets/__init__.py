"""The widgets and charts of which screens are composed."""
