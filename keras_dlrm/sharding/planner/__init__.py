"""The planner `kd.plan`: candidate placements, their memory, traffic and step time; the simulator."""
