"""The command line, one file per noun. It shows and asks; what it does lies in the rooms below."""
