"""Doctor: checks of this machine with a fix for each problem; they change nothing."""
