"""`fog demo`: a small fleet on one machine, a real job on it, and a device that dies in the middle."""
