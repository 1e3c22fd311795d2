"""Files that survive a crash, and states without code in them."""
