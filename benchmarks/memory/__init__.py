"""What explaining holds in memory: promises, budgets, and a model of more than 4 GB."""
