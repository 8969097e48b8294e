"""Bundles: everything that a lab without internet needs, carried in as files, and its work carried out the same way.

A bundle is its head, a small file that Python runs, with the parts beside it: FILE, FILE.001, FILE.002, … The parts,
one after another, are a tar archive; the head holds the SHA-256 of each part and of each file, and the installer.
"""
