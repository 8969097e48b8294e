"""Profiles: which endpoint plays which role. One TOML file each."""
