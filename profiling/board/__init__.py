"""Linux boards: the agent that runs there, and the workstation's side of it."""
