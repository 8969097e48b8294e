"""The embedded starter domain: arithmetic templates and multiple-choice items written for this project."""
