"""Bundles: files that carry software, models and data into a lab without internet access, and carry
the lab's results out.

A bundle is a head, a small file that Python runs, and its parts in the same directory: FILE, FILE.001, FILE.002, … The
parts, concatenated, are a tar archive; the head contains the SHA-256 of each part and of each file, and the installer.
"""
