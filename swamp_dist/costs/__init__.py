"""What a stage will take: compute, memory, traffic, time."""
