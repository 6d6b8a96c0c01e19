"""Which slot is whose: slots linked, identities handed over, tracks with birth and death."""
