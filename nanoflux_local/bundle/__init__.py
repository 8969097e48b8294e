"""Bundles: files that carry software, models and data into a lab without internet access, and carry the lab's results
out.

A bundle consists of a head, FILE, which Python can run, and of parts in the same directory: FILE.001, FILE.002, … The
concatenated parts are a tar archive. The head contains the installer, and the SHA-256 of each part and of each file.
"""
