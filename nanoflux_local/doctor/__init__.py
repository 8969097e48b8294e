"""Doctor: checks this machine and states a fix for each problem. The checks change nothing."""
