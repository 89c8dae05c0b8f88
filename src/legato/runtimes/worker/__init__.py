"""Models that run in a process of their own: the child's side, and what both sides share."""
