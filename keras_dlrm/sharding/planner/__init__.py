"""The planner: candidate placements, their load, traffic and step time."""
