"""Learning from decision logs: what was seen, chosen and paid, and a policy that would have paid less."""
