"""Things and stuff of a frame, each pixel to one of them: merging, identities, and the maps that come of it."""
