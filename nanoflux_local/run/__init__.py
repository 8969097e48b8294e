"""A run: its settings bound to endpoints, its turns, and its life cycle."""
