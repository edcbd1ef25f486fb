"""mspgt_tl."""
