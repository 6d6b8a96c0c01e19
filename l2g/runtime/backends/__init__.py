"""The inference libraries, each driven through the one interface of `base`."""
