"""Between a source picture and the network canvas: letterbox, masks, the choice of instances."""
