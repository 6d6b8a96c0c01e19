"""Where frames come from: files that FFmpeg opens, pictures, animated pictures; one interface for all of them."""
