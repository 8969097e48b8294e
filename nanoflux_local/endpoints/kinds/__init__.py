"""One module for each kind of endpoint; `base` says what a kind is and finds them."""
