"""What the node decides: pure, without clock, network or processes."""
