"""What comes from outside, held to limits before it is believed or takes memory."""
