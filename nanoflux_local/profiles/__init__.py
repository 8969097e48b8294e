"""The built-in profiles. Each is a TOML file that defines endpoints and assigns one to each role."""
