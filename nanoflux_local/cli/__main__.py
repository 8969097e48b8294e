"""`python -m nanoflux_local.cli`: the command line where no script is installed."""

from nanoflux_local.cli.main import main

main()
