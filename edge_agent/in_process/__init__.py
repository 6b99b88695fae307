"""What `edge_agent.local` tells the agent of requests that an application answered in its own process."""
