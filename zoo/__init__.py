"""Makes a zoo: a directory of faster variants of one trained network, and all that is known of them."""
