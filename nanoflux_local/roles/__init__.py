"""The three roles of the paper (§3): prompt in, parsed record out; and the programs that can stand for them."""
