"""Tables over many processes: the plan, what it moves, and the tables' parts."""
