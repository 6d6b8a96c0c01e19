"""VidEoMT: a plain ViT whose queries are handed from frame to frame, on the modules of `transformers`."""
