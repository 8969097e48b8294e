"""The command line, one file per group of commands. It parses options and prints results."""
