"""What a judge can check with: Python in the sandbox."""
