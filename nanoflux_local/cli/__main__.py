"""`python -m nanoflux_local.cli`: the command line without the installed script."""

from nanoflux_local.cli.main import main

main()
