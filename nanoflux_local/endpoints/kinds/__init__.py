"""One module for each kind of endpoint; `base` defines what a kind is and lists the kinds."""
