"""Runs the command `nanoflux-tui` for `python -m nanoflux_tui`."""

from nanoflux_tui.command import main

main()
