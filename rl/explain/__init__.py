"""What a policy has learned: which of the things that it can see matter, and what it does differently from others."""
