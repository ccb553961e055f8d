"""The folder that work begins in: jobs, recipes and a README that `swamp init` lays down."""
