"""What a run has learned: its prototypes, and the items that each of them holds (paper, section 5.5)."""
